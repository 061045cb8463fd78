//! A hashed wheel: deadlines in lists by the tick at which they are due, modulo the size of the wheel.
//!
//! Lists are linked through indices, so that setting and removing a deadline are a few writes and
//! leave nothing behind. A deadline that lies further ahead than the wheel is long is met once per turn.

use std::task::Waker;

const SLOTS: u64 = 1024;
const NONE: u32 = u32::MAX;

/// The number of an entry of the wheel; valid until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u32);

pub(super) struct Wheel {
    /// First entry of each list.
    heads: Vec<u32>,
    nodes: Vec<Node>,
    /// First unused node.
    free: u32,
    /// How many wait.
    waiting: usize,
    /// All ticks up to this one have been dealt with.
    tick: u64,
    /// The tick that the ticker sleeps until.
    planned: u64,
}

struct Node {
    due: u64,
    previous: u32,
    next: u32,
    state: State,
    waker: Option<Waker>,
}

#[derive(PartialEq)]
enum State {
    Free,
    Waiting,
    Reached,
}

impl Wheel {
    pub(super) fn new() -> Self {
        let heads = vec![NONE; usize::try_from(SLOTS).expect("a small number")];
        Self { heads, nodes: Vec::new(), free: NONE, waiting: 0, tick: 0, planned: u64::MAX }
    }

    /// A deadline at tick `due`, and whether the ticker must wake earlier for it than it planned.
    pub(super) fn insert(&mut self, now: u64, due: u64) -> (Entry, bool) {
        if self.waiting == 0 {
            // Nobody turned the wheel while it was empty.
            self.tick = self.tick.max(now);
        }
        // A tick that has been dealt with is not met again before a whole turn.
        let due = due.max(self.tick + 1);
        let index = self.allocate(due);
        self.link(index);
        let met = self.tick + 1 + (due - self.tick - 1) % SLOTS;
        let is_earlier = met < self.planned;
        if is_earlier {
            self.planned = met;
        }
        (Entry(index), is_earlier)
    }

    pub(super) fn remove(&mut self, entry: Entry) {
        let index = entry.0;
        if self.node(index).state == State::Waiting {
            self.unlink(index);
        }
        let free = self.free;
        let node = self.node(index);
        node.state = State::Free;
        node.waker = None;
        node.next = free;
        self.free = index;
    }

    pub(super) fn is_reached(&self, entry: Entry) -> bool {
        self.nodes[entry.0 as usize].state == State::Reached
    }

    /// Whether it was reached; if not, `waker` is woken when it is.
    pub(super) fn poll(&mut self, entry: Entry, waker: &Waker) -> bool {
        let node = self.node(entry.0);
        if node.state == State::Reached {
            return true;
        }
        match &mut node.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        false
    }

    /// The next tick at which there is something to do, which the caller will sleep until.
    pub(super) fn plan(&mut self) -> Option<u64> {
        let next = match self.waiting {
            0 => None,
            _ => (self.tick + 1..=self.tick + SLOTS).find(|tick| self.heads[slot(*tick)] != NONE),
        };
        self.planned = next.unwrap_or(u64::MAX);
        next
    }

    /// Turns the wheel to tick `now` and returns whom to wake.
    pub(super) fn advance(&mut self, now: u64) -> Vec<Waker> {
        let mut woken = Vec::new();
        let last = now.min(self.tick + SLOTS);
        for tick in self.tick + 1..=last {
            let mut index = self.heads[slot(tick)];
            while index != NONE {
                let node = self.node(index);
                let next = node.next;
                if node.due <= now {
                    node.state = State::Reached;
                    woken.extend(node.waker.take());
                    self.unlink(index);
                }
                index = next;
            }
        }
        self.tick = self.tick.max(now);
        woken
    }

    fn allocate(&mut self, due: u64) -> u32 {
        let node = Node { due, previous: NONE, next: NONE, state: State::Waiting, waker: None };
        if self.free == NONE {
            self.nodes.push(node);
            return u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 deadlines");
        }
        let index = self.free;
        self.free = self.node(index).next;
        *self.node(index) = node;
        index
    }

    fn link(&mut self, index: u32) {
        let slot = slot(self.node(index).due);
        let head = self.heads[slot];
        self.node(index).next = head;
        if head != NONE {
            self.node(head).previous = index;
        }
        self.heads[slot] = index;
        self.waiting += 1;
    }

    fn unlink(&mut self, index: u32) {
        let node = self.node(index);
        let (due, previous, next) = (node.due, node.previous, node.next);
        match previous {
            NONE => self.heads[slot(due)] = next,
            previous => self.node(previous).next = next,
        }
        if next != NONE {
            self.node(next).previous = previous;
        }
        self.waiting -= 1;
    }

    fn node(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }
}

fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS).expect("smaller than the wheel")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The oracle: a deadline is reached exactly when its tick has come.
        #[test]
        fn a_deadline_is_reached_when_its_tick_comes(
            steps in proptest::collection::vec((0u64..5000, 0u64..1500, any::<bool>()), 1..200)
        ) {
            let mut wheel = Wheel::new();
            let mut now = 0;
            let mut expected: Vec<(Entry, u64)> = Vec::new();
            for (after, pass, remove) in steps {
                let due = now + 1 + after;
                let (entry, is_earlier) = wheel.insert(now, due);
                expected.push((entry, due));
                let planned = wheel.planned;
                prop_assert!(planned <= due);
                prop_assert!(is_earlier || wheel.plan() == Some(planned) || wheel.plan() >= Some(planned));
                if remove {
                    let (gone, _) = expected.swap_remove(expected.len() / 2);
                    wheel.remove(gone);
                }
                now += pass;
                wheel.advance(now);
                for (entry, due) in &expected {
                    prop_assert_eq!(wheel.poll(*entry, Waker::noop()), *due <= now);
                }
            }
        }
    }
}
