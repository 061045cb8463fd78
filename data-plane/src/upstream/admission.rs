//! Places for requests at services that take only so many at a time, and the wait for one.
//!
//! Places are counted across the cores of the process. Those who wait do so on their core, in their order: a request that
//! ends on the same core lets the next one in at once, and for one that ended elsewhere it looks every few milliseconds.
//! Services without limits come by here for a look at two settings.

use std::cell::Cell;
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
pub(super) struct Place {
    gates: Arc<Gates>,
    history: Rc<History>,
}

/// A place at one of its targets.
pub(super) struct Seat {
    endpoint: Arc<Endpoint>,
    history: Rc<History>,
}

/// Those of one core who wait for a place at a service.
#[derive(Default)]
pub(super) struct Queue {
    turn: Notify,
    waiting: Cell<u32>,
}

/// One who waits.
struct Waiting<'q> {
    gates: &'q Gates,
    queue: &'q Queue,
}

impl Queue {
    fn left(&self) {
        if self.waiting.get() > 0 {
            self.turn.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gates.requests.leave();
        self.history.queue.left();
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
        self.queue.waiting.set(self.queue.waiting.get() - 1);
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
    /// is the newest that goes.
    pub(super) async fn admit(&self) -> Result<(usize, Option<Place>, Option<Seat>), UpstreamError> {
        let (backend, limits) = (&self.backend, &self.backend.service.limits);
        let queue = &backend.history.queue;
        if queue.waiting.get() == 0
            && let Some(entered) = backend.enter(limits, &self.choice)
        {
            return Ok(entered);
        }
        if backend.pick(&self.choice, &[]).is_none() {
            return Err(UpstreamError::NoTarget);
        }
        let gates = &*backend.service.gates;
        if !gates.pending.enter(limits.pending) {
            return Err(UpstreamError::Full);
        }
        queue.waiting.set(queue.waiting.get() + 1);
        let _waiting = Waiting { gates, queue };
        let mut end = self.core.clock.deadline(limits.pending_timeout.get());
        let mut look = self.core.clock.deadline(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                () = queue.turn.notified() => {}
                () = &mut end => return Err(UpstreamError::QueueTimeout),
                () = &mut look => look.reset(LOOK_EVERY),
            }
            if let Some(entered) = backend.enter(limits, &self.choice) {
                return Ok(entered);
            }
        }
    }
}
