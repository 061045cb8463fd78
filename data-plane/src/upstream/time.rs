//! How long a request may take, and whose patience has ended when it took longer.

use std::time::Duration;

use model::exchange::Time;

use super::UpstreamError;

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// For the head of the response, counted from the last byte of the request.
    pub head: Duration,
    /// For all of one exchange with a target, from sending the request until the end of the response.
    pub exchange: Option<Duration>,
    /// For all that is done for the request.
    pub whole: Option<End>,
}

/// When the response must have come to its end.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// By the monotonic clock.
    pub at_ns: u64,
    /// The client has said so: the service is not to blame for it.
    pub is_of_client: bool,
}

impl TimeLimits {
    /// When an exchange that began at this time must have ended.
    pub(super) fn end_ns(&self, sent: Time) -> Option<u64> {
        let exchange = self.exchange.map(|exchange| {
            let exchange_ns = u64::try_from(exchange.as_nanos()).unwrap_or(u64::MAX);
            sent.monotonic_ns.saturating_add(exchange_ns)
        });
        exchange.into_iter().chain(self.whole.map(|end| end.at_ns)).min()
    }

    /// Why there is no answer at this time, which is too late.
    pub(super) fn error(&self, now: Time) -> UpstreamError {
        match self.whole {
            Some(End { at_ns, is_of_client: true }) if now.monotonic_ns >= at_ns => UpstreamError::ClientDeadline,
            _ => UpstreamError::Timeout,
        }
    }
}
