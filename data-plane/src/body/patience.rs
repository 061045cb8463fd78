//! How long a receiver waits for the next frame of a body, and what it tells others while it does not ask for one.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use model::resource::listener::Limits;

use super::Failure;
use crate::clock::{Clock, Deadline};

/// How long to wait for the next frame.
pub(super) enum Patience {
    Endless,
    Idle { clock: Clock, span: Duration, deadline: Option<Deadline> },
    Rate(Box<Rate>),
}

/// Counts only the time in which the gateway waits, so that a slow service is not the client's fault.
pub(super) struct Rate {
    clock: Clock,
    /// The rest of the time for all of the body.
    rest: Duration,
    bytes_per_second: u64,
    window: Duration,
    /// In this window: time waited and bytes that came.
    waited: Duration,
    bytes: u64,
    waiting: Option<(u64, Deadline)>,
}

/// Whether the receiver of a body has what came and has not asked for more.
pub(super) struct Pace {
    withheld: Rc<Cell<u32>>,
    is_counted: bool,
}

impl Patience {
    pub(super) fn idle(clock: &Clock, span: Duration) -> Self {
        Self::Idle { clock: clock.clone(), span, deadline: None }
    }

    pub(super) fn of_client(clock: &Clock, limits: &Limits) -> Self {
        Self::Rate(Box::new(Rate {
            clock: clock.clone(),
            rest: limits.body_time.get(),
            bytes_per_second: limits.body_rate.into(),
            window: limits.body_grace.get(),
            waited: Duration::ZERO,
            bytes: 0,
            waiting: None,
        }))
    }

    pub(super) fn came(&mut self, bytes: u64) -> Result<(), Failure> {
        match self {
            Self::Endless => {}
            Self::Idle { deadline, .. } => *deadline = None,
            Self::Rate(rate) => {
                rate.bytes += bytes;
                return rate.pause();
            }
        }
        Ok(())
    }

    /// The source has nothing yet.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        match self {
            Self::Endless => Poll::Pending,
            Self::Idle { clock, span, deadline } => {
                let deadline = deadline.get_or_insert_with(|| clock.deadline(*span));
                Pin::new(deadline).poll(context).map(|()| Failure::Idle)
            }
            Self::Rate(rate) => rate.poll(context),
        }
    }
}

impl Rate {
    /// Ends a wait and, when enough time was waited for, the window.
    fn pause(&mut self) -> Result<(), Failure> {
        let Some((since_ns, _)) = self.waiting.take() else { return Ok(()) };
        let wait = Duration::from_nanos(self.clock.now().monotonic_ns - since_ns);
        self.waited += wait;
        self.rest = self.rest.checked_sub(wait).filter(|rest| !rest.is_zero()).ok_or(Failure::TooSlow)?;
        if self.waited < self.window {
            return Ok(());
        }
        if self.bytes < self.bytes_per_second.saturating_mul(self.waited.as_secs()) {
            return Err(Failure::TooSlow);
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        loop {
            let rest = self.rest.min(self.window - self.waited);
            let (_, deadline) = self.waiting.get_or_insert_with(|| {
                let now = self.clock.now();
                (now.monotonic_ns, self.clock.deadline_from(now, rest))
            });
            ready!(Pin::new(deadline).poll(context));
            if let Err(failure) = self.pause() {
                return Poll::Ready(failure);
            }
        }
    }
}

impl Pace {
    pub(super) fn new(withheld: Rc<Cell<u32>>) -> Self {
        Self { withheld, is_counted: false }
    }

    pub(super) fn set(&mut self, is_counted: bool) {
        if self.is_counted != is_counted {
            self.is_counted = is_counted;
            let count = self.withheld.get();
            self.withheld.set(if is_counted { count + 1 } else { count - 1 });
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.set(false);
    }
}
