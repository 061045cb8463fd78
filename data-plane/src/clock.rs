//! Time on one core: what it is, and deadlines that cost no runtime timer each.
//!
//! A timer of the runtime for every request was measured at 4% of what a request costs. Here one
//! ticker per core serves a wheel of deadlines; setting and dropping one links and unlinks an entry.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::exchange::Time;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

mod wheel;

use wheel::{Entry, Wheel};

/// How exact deadlines are. They never fire early.
const TICK: Duration = Duration::from_millis(10);
const TICK_NS: u64 = 10_000_000;

/// How long the distance between the two clocks is taken to be the same.
const UNIX_REFRESH_NS: u64 = 1_000_000_000;

/// The zero of the monotonic clock, one for all cores.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The clock of one core. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Rc<Shared>);

struct Shared {
    start: Instant,
    /// When the wall clock was last read, and its distance from the monotonic one then.
    unix: Cell<(u64, u64)>,
    /// What the wall clock was when somebody asked last.
    recent_unix_ms: Cell<u64>,
    held: Cell<Held>,
    wheel: RefCell<Wheel>,
    earlier: Notify,
}

/// What is known of the time while a [`Hold`] lasts.
#[derive(Clone, Copy)]
enum Held {
    Nothing,
    Unread,
    Read(Time),
}

/// For as long as it lasts, see [`Clock::hold`].
#[must_use]
pub struct Hold<'c>(&'c Clock);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.0.held.set(Held::Nothing);
    }
}

/// What the clocks of all cores say now, for who is on none of them.
#[must_use]
pub fn monotonic_ns() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).expect("the process does not run for centuries")
}

impl Clock {
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            start: *START,
            unix: Cell::new((0, unix_ms())),
            recent_unix_ms: Cell::new(unix_ms()),
            held: Cell::new(Held::Nothing),
            wheel: RefCell::new(Wheel::new()),
            earlier: Notify::new(),
        };
        let clock = Self(Rc::new(shared));
        let elapsed_ns = clock.elapsed_ns();
        clock.0.unix.set((elapsed_ns, unix_ms() - elapsed_ns / 1_000_000));
        clock
    }

    /// What time it is, by both clocks. The wall clock is read once a second.
    #[must_use]
    pub fn now(&self) -> Time {
        let monotonic_ns = self.elapsed_ns();
        let (read_at_ns, mut offset_ms) = self.0.unix.get();
        if monotonic_ns - read_at_ns > UNIX_REFRESH_NS {
            offset_ms = unix_ms() - monotonic_ns / 1_000_000;
            self.0.unix.set((monotonic_ns, offset_ms));
        }
        let unix_ms = offset_ms + monotonic_ns / 1_000_000;
        self.0.recent_unix_ms.set(unix_ms);
        let time = Time { monotonic_ns, unix_ms };
        if !matches!(self.0.held.get(), Held::Nothing) {
            self.0.held.set(Held::Read(time));
        }
        time
    }

    /// For one poll of a task, in which [`Self::recent`] may say what was read before: reading the clock at each step of a
    /// request takes 3% of its instructions.
    pub fn hold(&self) -> Hold<'_> {
        self.0.held.set(Held::Unread);
        Hold(self)
    }

    /// What time it was a few steps ago in the same poll, or is now.
    #[must_use]
    pub fn recent(&self) -> Time {
        match self.0.held.get() {
            Held::Read(time) => time,
            Held::Nothing | Held::Unread => self.now(),
        }
    }

    /// Something has been done that may have taken long.
    pub fn forget(&self) {
        if !matches!(self.0.held.get(), Held::Nothing) {
            self.0.held.set(Held::Unread);
        }
    }

    /// What the wall clock was when somebody asked last: for who serves a request and needs to know the second.
    #[must_use]
    pub fn recent_unix_ms(&self) -> u64 {
        self.0.recent_unix_ms.get()
    }

    /// Ready once `after` has passed, and up to two ticks later.
    #[must_use]
    pub fn deadline(&self, after: Duration) -> Deadline {
        self.deadline_from(self.now(), after)
    }

    /// The same for who knows the time already.
    #[must_use]
    pub fn deadline_from(&self, now: Time, after: Duration) -> Deadline {
        let entry = self.insert(now, after);
        Deadline { clock: self.clone(), entry }
    }

    /// Ready at this time by the monotonic clock, or as soon as it is past.
    #[must_use]
    pub fn deadline_at(&self, monotonic_ns: u64) -> Deadline {
        let now = self.now();
        self.deadline_from(now, Duration::from_nanos(monotonic_ns.saturating_sub(now.monotonic_ns)))
    }

    /// Drives the deadlines of this clock; every core runs it once. `timers` is a runtime that has timers: one that has
    /// them looks at the time whenever it waits for something, which was measured at 5% of what a request costs.
    pub async fn run(self, timers: Handle) {
        loop {
            let earlier = self.0.earlier.notified();
            let next = self.0.wheel.borrow_mut().plan();
            match next {
                None => earlier.await,
                Some(tick) => {
                    let at = self.0.start + TICK * u32::try_from(tick).unwrap_or(u32::MAX);
                    let mut alarm =
                        AbortOnDropHandle::new(timers.spawn(async move { tokio::time::sleep_until(at.into()).await }));
                    tokio::select! {
                        rung = &mut alarm => if rung.is_err() {
                            // The process ends.
                            return;
                        },
                        () = earlier => {}
                    }
                }
            }
            let due = self.0.wheel.borrow_mut().advance(self.elapsed_ns() / TICK_NS);
            due.into_iter().for_each(Waker::wake);
        }
    }

    fn insert(&self, now: Time, after: Duration) -> Entry {
        let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let due = now.monotonic_ns.saturating_add(after_ns) / TICK_NS + 1;
        let mut wheel = self.0.wheel.borrow_mut();
        let (entry, is_earlier) = wheel.insert(now.monotonic_ns / TICK_NS, due);
        if is_earlier {
            self.0.earlier.notify_one();
        }
        entry
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment to wait for. It stays ready once it was reached; dropping it takes it back.
pub struct Deadline {
    clock: Clock,
    entry: Entry,
}

impl Deadline {
    /// Moves it to `after` from now, whether or not it was reached.
    pub fn reset(&mut self, after: Duration) {
        self.reset_from(self.clock.now(), after);
    }

    /// Whether the moment has come. Who asks is not woken for it.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.clock.0.wheel.borrow().is_reached(self.entry)
    }

    pub fn reset_from(&mut self, now: Time, after: Duration) {
        self.clock.0.wheel.borrow_mut().remove(self.entry);
        self.entry = self.clock.insert(now, after);
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.0.wheel.borrow_mut().poll(self.entry, context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clock.0.wheel.borrow_mut().remove(self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_poll_is_read_again_only_when_something_was_done() {
        let clock = Clock::new();
        let later = |than: Time| {
            while monotonic_ns() <= than.monotonic_ns {}
            clock.recent().monotonic_ns
        };
        let before = clock.now();
        assert!(later(before) > before.monotonic_ns, "nothing is held");
        let hold = clock.hold();
        let read = clock.recent();
        assert_eq!(later(read), read.monotonic_ns);
        clock.forget();
        assert!(later(read) > read.monotonic_ns);
        drop(hold);
        let last = clock.now();
        assert!(later(last) > last.monotonic_ns);
    }

    #[tokio::test]
    async fn deadlines_come_in_their_order_and_never_early() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let clock = Clock::new();
                tokio::task::spawn_local(clock.clone().run(Handle::current()));
                let begin = clock.now();
                let long = clock.deadline(Duration::from_millis(60));
                let mut short = clock.deadline(Duration::from_millis(5));
                tokio::select! {
                    () = long => panic!("the longer one came first"),
                    () = &mut short => {}
                }
                short.reset(Duration::from_millis(1));
                short.await;
                assert!(clock.now().monotonic_ns - begin.monotonic_ns >= 6_000_000);
            })
            .await;
    }
}
