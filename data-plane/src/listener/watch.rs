//! The bounds of a connection: how long heads, idling and clients that do not read may take.
//!
//! One deadline per connection looks at what has passed since it last looked. Nothing is set or reset when a
//! request comes; in exchange a bound takes effect up to half of its length late.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::connection::Connection;
use crate::clock::Deadline;

/// How long a connection of HTTP/1.1 that shall go stays without a request. It cannot say so unasked: a client that uses it
/// just now learns it from its next answer (RFC 9112 section 9.6), and is not met by a closed connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is to happen with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No further requests.
    Leave,
    /// The head of a request has not become whole in time.
    SlowHead,
    /// Nothing will come of it.
    Close,
}

/// The protocol of a connection: the bytes of HTTP/2 between requests are not the head of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

pub struct Watch {
    connection: Rc<Connection>,
    protocol: Protocol,
    period: Duration,
    deadline: Deadline,
    /// Deadline and connection have the same waker, and have had no reason to wake it.
    is_set: bool,
    has_left: bool,
    age: Duration,
    max_age: Duration,
    /// Since when there was no request, a head was being read, the client took too little.
    quiet: Duration,
    reading: Duration,
    stalled: Duration,
    last_requests: u64,
    last_bytes_out: u64,
}

impl Watch {
    pub fn new(connection: Rc<Connection>, protocol: Protocol) -> Self {
        let limits = &connection.terms.limits;
        let period = limits.header_time.min(limits.idle_time).get() / 2;
        // Not all connections that came after a start shall go at once.
        let max_age = limits.connection_age.get().mul_f64(0.9 + 0.2 * fastrand::f64());
        Self {
            deadline: connection.core.clock.deadline(period),
            protocol,
            period,
            is_set: false,
            has_left: false,
            age: Duration::ZERO,
            max_age,
            quiet: Duration::ZERO,
            reading: Duration::ZERO,
            stalled: Duration::ZERO,
            last_requests: 0,
            last_bytes_out: 0,
            connection,
        }
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Verdict> {
        // As nearly always: nothing has happened, and whoever is to be told when something does is known already.
        if self.is_set && self.connection.is_watched_by(context.waker()) && !self.deadline.is_reached() {
            return Poll::Pending;
        }
        if self.connection.is_reset() {
            return Poll::Ready(Verdict::Close);
        }
        if self.connection.is_leaving() && !self.has_left {
            self.has_left = true;
            if self.protocol == Protocol::Http2 {
                let is_unused = self.connection.requests.get() == 0 && self.connection.traffic.bytes_in.get() == 0;
                return Poll::Ready(if is_unused { Verdict::Close } else { Verdict::Leave });
            }
            self.wait_for_farewell();
        }
        self.is_set = false;
        while Pin::new(&mut self.deadline).poll(context).is_ready() {
            self.deadline.reset(self.period);
            if let Some(verdict) = self.look() {
                return Poll::Ready(verdict);
            }
        }
        self.connection.on_leave(context.waker());
        self.is_set = true;
        Poll::Pending
    }

    fn wait_for_farewell(&mut self) {
        self.period = self.period.min(FAREWELL);
        self.quiet = Duration::ZERO;
        self.last_requests = self.connection.requests.get();
        self.deadline.reset(self.period);
    }

    fn look(&mut self) -> Option<Verdict> {
        let limits = &self.connection.terms.limits;
        let (idle, header) = (limits.idle_time.get(), limits.header_time.get());
        let (quiet, reading, stalled) = (self.is_quiet(), self.is_reading(), self.is_stalled());
        let since = |condition: bool, before: Duration| if condition { before + self.period } else { Duration::ZERO };
        self.quiet = since(quiet, self.quiet);
        self.reading = since(quiet && reading, self.reading);
        self.stalled = since(stalled, self.stalled);
        self.age += self.period;
        self.last_requests = self.connection.requests.get();
        self.last_bytes_out = self.connection.traffic.bytes_out.get();
        if self.stalled >= idle || (self.has_left && self.quiet >= idle) {
            return Some(Verdict::Close);
        }
        if self.reading >= header {
            return Some(Verdict::SlowHead);
        }
        let is_http1 = self.protocol == Protocol::Http1;
        if self.has_left {
            return (is_http1 && self.quiet >= FAREWELL && !reading).then_some(Verdict::Leave);
        }
        let is_idle = self.quiet >= idle;
        if !is_idle && self.age < self.max_age {
            return None;
        }
        self.has_left = true;
        self.connection.leave();
        if is_http1 && !is_idle {
            self.wait_for_farewell();
            return None;
        }
        self.quiet = Duration::ZERO;
        Some(Verdict::Leave)
    }

    fn is_quiet(&self) -> bool {
        self.connection.in_flight.get() == 0 && self.connection.requests.get() == self.last_requests
    }

    fn is_reading(&self) -> bool {
        self.protocol == Protocol::Http1 && self.connection.traffic.bytes_in.get() > self.connection.idle_from.get()
    }

    /// The client has what it was sent and takes less than the minimum. Window updates that trickle in do not count.
    fn is_stalled(&self) -> bool {
        let traffic = &self.connection.traffic;
        let taken = traffic.bytes_out.get() - self.last_bytes_out;
        let period_ms = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        let rate = u64::from(self.connection.terms.limits.body_rate);
        let least = (rate.saturating_mul(period_ms) / 1000).max(1);
        (traffic.is_write_blocked.get() || self.connection.withheld.get() > 0) && taken < least
    }
}
