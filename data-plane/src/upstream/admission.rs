//! Places for requests at services that take only so many at a time, and the wait for one.
//!
//! Places are counted across the cores of the process. Those who wait do so on their core, in their order: a request that
//! ends on the same core lets the next one in at once, and for one that ended elsewhere it looks every few milliseconds.
//! Services without limits come by here for a look at two settings.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use model::resource::service::Limits;
use model::snapshot::{Endpoint, Gates};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::UpstreamError;
use super::backend::{Backend, Choice, History};
use super::forward::Task;

/// How often a request that waits looks for a place that another core gave up.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Targets that are looked at before all of them are taken to be full.
const MAX_LOOKS: usize = 16;

/// A place at a service.
struct Place {
    gates: Arc<Gates>,
    history: Rc<History>,
}

/// A place within the adaptive limit of a service.
struct Within(Rc<History>);

/// What a request has been let in by.
pub(super) struct Admitted {
    _place: Option<Place>,
    _within: Option<Within>,
}

/// A place at one of its targets.
pub(super) struct Seat {
    endpoint: Arc<Endpoint>,
    history: Rc<History>,
}

/// Those of one core who wait for a place at a service, in their order: the first of them may look for one.
#[derive(Default)]
pub(super) struct Queue(RefCell<VecDeque<Rc<Notify>>>);

/// One who waits.
struct Waiting<'q> {
    gates: &'q Gates,
    queue: &'q Queue,
    turn: Rc<Notify>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// There may be a place.
    fn left(&self) {
        if let Some(first) = self.0.borrow().front() {
            first.notify_one();
        }
    }
}

impl<'q> Waiting<'q> {
    fn begin(gates: &'q Gates, queue: &'q Queue) -> Self {
        let turn = Rc::new(Notify::new());
        queue.0.borrow_mut().push_back(Rc::clone(&turn));
        Self { gates, queue, turn }
    }

    fn is_first(&self) -> bool {
        self.queue.0.borrow().front().is_some_and(|first| Rc::ptr_eq(first, &self.turn))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gates.requests.leave();
        self.history.queue.left();
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.0.adaptive.leave();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.endpoint.gate.leave();
        self.history.queue.left();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gates.pending.leave();
        if self.is_first() {
            self.queue.0.borrow_mut().pop_front();
        } else {
            self.queue.0.borrow_mut().retain(|turn| !Rc::ptr_eq(turn, &self.turn));
        }
        // There may be more than one place, or this one leaves without having taken it.
        self.queue.left();
    }
}

impl Backend {
    /// A target for another attempt, with a seat at it if those are counted.
    pub(super) fn choose(&self, choice: &Choice, tried: &[usize]) -> Option<(usize, Option<Seat>)> {
        let Some(most) = self.service.limits.requests_per_target else {
            return self.pick(choice, tried).map(|target| (target, None));
        };
        let mut passed: SmallVec<[usize; MAX_LOOKS]> = tried.into();
        for _ in 0..MAX_LOOKS {
            let target = self.pick(choice, &passed)?;
            if let Some(seat) = self.seat(target, most) {
                return Some((target, Some(seat)));
            }
            passed.push(target);
        }
        None
    }

    /// A seat at a target for an attempt that takes the place of one that has just failed there, full or not.
    pub(super) fn seat_again(&self, target: usize) -> Option<Seat> {
        self.service.limits.requests_per_target.and_then(|_| self.seat(target, u32::MAX))
    }

    fn seat(&self, target: usize, most: u32) -> Option<Seat> {
        let endpoint = &self.service.targets[target].endpoint;
        let seat = || Seat { endpoint: Arc::clone(endpoint), history: Rc::clone(&self.history) };
        endpoint.gate.enter(most).then(seat)
    }

    /// A place at the service, and a target, if there are any just now.
    fn enter(&self, limits: &Limits, choice: &Choice) -> Option<(usize, Option<Place>, Option<Seat>)> {
        let gates = &self.service.gates;
        if limits.requests.is_some_and(|most| !gates.requests.enter(most)) {
            return None;
        }
        let Some((target, seat)) = self.choose(choice, &[]) else {
            if limits.requests.is_some() {
                gates.requests.leave();
            }
            return None;
        };
        let place = limits.requests.map(|_| Place { gates: Arc::clone(gates), history: Rc::clone(&self.history) });
        Some((target, place, seat))
    }
}

impl Task {
    /// Waits for a place, if there is none and another may wait. Whoever came first is let in first; when too many wait, it
    /// is the newest that goes, sooner if it matters less.
    pub(super) async fn admit(&self) -> Result<(usize, Admitted, Option<Seat>), UpstreamError> {
        let history = &self.backend.history;
        let within = match self.backend.service.limits.adaptive {
            Some(terms) if !history.adaptive.enter(terms, self.choice.importance.percent()) => {
                return Err(UpstreamError::AdaptiveLimit);
            }
            adaptive => adaptive.map(|_| Within(Rc::clone(history))),
        };
        let (target, place, seat) = self.wait_for_place().await?;
        Ok((target, Admitted { _place: place, _within: within }, seat))
    }

    async fn wait_for_place(&self) -> Result<(usize, Option<Place>, Option<Seat>), UpstreamError> {
        let (backend, limits) = (&self.backend, &self.backend.service.limits);
        let queue = &backend.history.queue;
        if queue.is_empty()
            && let Some(entered) = backend.enter(limits, &self.choice)
        {
            return Ok(entered);
        }
        if backend.pick(&self.choice, &[]).is_none() {
            return Err(UpstreamError::NoTarget);
        }
        let gates = &*backend.service.gates;
        if !gates.pending.enter(self.choice.importance.of(limits.pending)) {
            return Err(UpstreamError::Full);
        }
        let waiting = Waiting::begin(gates, queue);
        let mut end = self.core.clock.deadline(limits.pending_timeout.get());
        let mut look = self.core.clock.deadline(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                () = waiting.turn.notified() => {}
                () = &mut end => return Err(UpstreamError::QueueTimeout),
                () = &mut look => look.reset(LOOK_EVERY),
            }
            // Places at targets are not the same to everybody, who may want some of them alone.
            if (waiting.is_first() || limits.requests_per_target.is_some())
                && let Some(entered) = backend.enter(limits, &self.choice)
            {
                return Ok(entered);
            }
        }
    }
}
