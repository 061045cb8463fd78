//! How long a request may take, and whose patience has ended when it took longer.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use model::exchange::Time;
use model::fields::Fields;

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
    /// It is a call of gRPC, which may take longer than its head.
    pub is_call: bool,
}

/// How a target is told how long it has.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Nothing,
    /// As gRPC has it (gRPC over HTTP/2, Requests).
    GrpcTimeout,
    /// In milliseconds.
    Field(HeaderName),
}

impl Told {
    /// Puts what is left at this time among the fields of a request.
    pub(super) fn put(&self, headers: &mut Fields, time: &TimeLimits, now: Time) {
        let (name, value) = match self {
            Self::Nothing => return,
            Self::GrpcTimeout => {
                let Some(left) = time.left(now).1 else { return };
                // Eight digits at most.
                let text = match left.as_millis() {
                    0..100_000_000 => format!("{}m", left.as_millis()),
                    _ => format!("{}S", left.as_secs().min(99_999_999)),
                };
                (HeaderName::from_static("grpc-timeout"), text)
            }
            Self::Field(name) => (name.clone(), time.left(now).0.as_millis().to_string()),
        };
        headers.insert(&name, &HeaderValue::try_from(value).expect("digits and a unit are a value"));
    }
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

    /// How targets are told what is left of it, if they are.
    pub(super) fn told(&self, header: Option<&HeaderName>) -> Told {
        match header {
            _ if self.is_call => match self.exchange.is_some() || self.whole.is_some() {
                true => Told::GrpcTimeout,
                false => Told::Nothing,
            },
            Some(name) => Told::Field(name.clone()),
            None => Told::Nothing,
        }
    }

    /// What is left at this time for the head of the response and for all of it.
    fn left(&self, now: Time) -> (Duration, Option<Duration>) {
        let left = |end_ns: u64| Duration::from_nanos(end_ns.saturating_sub(now.monotonic_ns));
        let whole = self.end_ns(now).map(left);
        (whole.map_or(self.head, |whole| whole.min(self.head)), whole)
    }

    /// Why there is no answer at this time, which is too late.
    pub(super) fn error(&self, now: Time) -> UpstreamError {
        match self.whole {
            Some(End { at_ns, is_of_client: true }) if now.monotonic_ns >= at_ns => UpstreamError::ClientDeadline,
            _ => UpstreamError::Timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(told: &Told, time: TimeLimits) -> Option<String> {
        let mut headers = Fields::default();
        headers.append(&HeaderName::from_static("x-left"), &HeaderValue::from_static("of the client"));
        told.put(&mut headers, &time, Time { monotonic_ns: 1_000_000_000, unix_ms: 0 });
        let name = if matches!(told, Told::GrpcTimeout) { "grpc-timeout" } else { "x-left" };
        headers.get_str(name).map(str::to_owned)
    }

    #[test]
    fn targets_are_told_what_is_left() {
        let time = TimeLimits { head: Duration::from_secs(30), exchange: None, whole: None, is_call: false };
        let until = |at_ns| Some(End { at_ns, is_of_client: false });
        let field = time.told(Some(&HeaderName::from_static("x-left")));
        assert_eq!(put(&field, time).as_deref(), Some("30000"));
        assert_eq!(put(&field, TimeLimits { whole: until(3_500_000_000), ..time }).as_deref(), Some("2500"));
        assert_eq!(put(&field, TimeLimits { whole: until(0), ..time }).as_deref(), Some("0"));
        assert!(matches!(time.told(None), Told::Nothing));
        let call = TimeLimits { is_call: true, exchange: Some(Duration::from_secs(60)), ..time };
        let grpc = call.told(Some(&HeaderName::from_static("x-left")));
        assert_eq!(put(&grpc, call).as_deref(), Some("60000m"), "the head is not all of a call");
        assert_eq!(put(&grpc, TimeLimits { whole: until(1_002_000_000), ..call }).as_deref(), Some("2m"));
        let year = Some(Duration::from_secs(31_000_000));
        assert_eq!(put(&grpc, TimeLimits { exchange: year, ..call }).as_deref(), Some("31000000S"));
        assert!(matches!(TimeLimits { is_call: true, ..time }.told(None), Told::Nothing));
    }
}
