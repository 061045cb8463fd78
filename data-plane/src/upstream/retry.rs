//! Whether a request is tried again: what became of an attempt, what may be done about it, and when.
//!
//! Nothing here waits or sends. A request that goes well at once never comes here.

use std::time::Duration;

use http::{Method, StatusCode};
use model::exchange::ResponseHead;
use model::resource::service::{Backoff, Retries, RetryOn};

use super::call::code_of;

pub(super) mod budget;
pub(super) mod hedging;

/// What became of an attempt that gave no answer, or none to be content with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There was no connection to send anything on.
    Unconnected,
    /// A connection from the pool was gone before anything of the request was written.
    Unsent,
    /// A connection from the pool ended without a word: the target may have closed it as the request came.
    Stale,
    /// The target has not looked at the request.
    Refused,
    /// The connection or the stream broke before the head of a response.
    Reset,
    /// No head of a response in time.
    Late,
    /// There is a response, and the service says that another attempt may bring a better one; after a while, if it says so.
    Answered { after: Option<Duration> },
    /// Another attempt would come to the same, or nobody waits for it.
    Final,
}

impl Outcome {
    /// For metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unconnected | Self::Unsent => "connect-failure",
            Self::Refused => "refused-stream",
            Self::Stale | Self::Reset => "reset",
            Self::Late => "timeout",
            Self::Answered { .. } => "answer",
            Self::Final => "none",
        }
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same target at once, on a new connection.
    Reconnect,
    /// Another target, or the same after a wait.
    Again {
        costs: bool,
    },
    GiveUp,
}

/// What was done for a request until now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Efforts {
    /// Attempts in which something may have been sent, and those without a connection.
    pub attempts: u8,
    /// The last one was on a new connection because there was something wrong with an older one.
    pub is_fresh: bool,
    /// The whole request is at hand.
    pub is_at_hand: bool,
}

/// What to do after an attempt.
pub(super) fn verdict(terms: &Retries, method: &Method, outcome: Outcome, efforts: Efforts) -> Verdict {
    use Outcome::{Answered, Final, Late, Refused, Reset, Stale, Unconnected, Unsent};
    if !efforts.is_at_hand {
        return Verdict::GiveUp;
    }
    let (on, costs) = match outcome {
        Unsent if !efforts.is_fresh => return Verdict::Reconnect,
        Stale if !efforts.is_fresh && efforts.attempts <= terms.attempts && terms.may_repeat(method) => {
            return Verdict::Reconnect;
        }
        Unsent | Unconnected => (Some(RetryOn::ConnectFailure), false),
        Refused => (Some(RetryOn::RefusedStream), true),
        Stale | Reset => (Some(RetryOn::Reset), true),
        Late => (Some(RetryOn::Timeout), true),
        Answered { after } if after.is_none_or(|after| after <= terms.backoff.max.get()) => (None, true),
        Answered { .. } | Final => return Verdict::GiveUp,
    };
    let is_asked_for = on.is_none_or(|on| terms.on.contains(&on));
    let is_harmless = matches!(outcome, Unsent | Unconnected | Refused) || terms.may_repeat(method);
    if efforts.attempts <= terms.attempts && is_asked_for && is_harmless {
        Verdict::Again { costs }
    } else {
        Verdict::GiveUp
    }
}

/// Whether an answer is one after which the request may be tried again.
pub(super) fn judge(terms: &Retries, head: &ResponseHead, has_body: bool) -> Option<Outcome> {
    let is_status = head.status.as_u16() >= 400 && terms.statuses.contains(&head.status.as_u16());
    let is_code = !terms.grpc_codes.is_empty() && !has_body && {
        code_of(head).is_some_and(|code| terms.grpc_codes.iter().any(|known| *known as u8 == code))
    };
    (is_status || is_code).then(|| Outcome::Answered { after: retry_after(head) })
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3). A date is further away than anybody waits here.
fn retry_after(head: &ResponseHead) -> Option<Duration> {
    if head.status != StatusCode::SERVICE_UNAVAILABLE && head.status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let after = head.headers.get_str(http::header::RETRY_AFTER)?;
    Some(after.trim().parse().map_or(Duration::MAX, Duration::from_secs))
}

/// The wait before the next attempt: none before a target that was not tried, unless the service asks for one. `draw` is a
/// random number from 0 to 1.
pub(super) fn wait(backoff: Backoff, outcome: Outcome, retries: u8, is_new_target: bool, draw: f64) -> Duration {
    let asked = match outcome {
        Outcome::Answered { after } => after.unwrap_or_default(),
        _ => Duration::ZERO,
    };
    if is_new_target {
        return asked;
    }
    let span = backoff.base.get().saturating_mul(1 << retries.min(16)).min(backoff.max.get());
    asked.max(span.mul_f64(draw.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use model::resource::service::GrpcCode;

    use super::*;

    const AGAIN: Verdict = Verdict::Again { costs: true };
    const FREE: Verdict = Verdict::Again { costs: false };

    fn first() -> Efforts {
        Efforts { attempts: 1, is_fresh: true, is_at_hand: true }
    }

    #[test]
    fn by_default_only_what_does_no_harm_is_tried_again_and_once() {
        let terms = Retries::default();
        let cases = [
            (Outcome::Unconnected, FREE, FREE),
            (Outcome::Unsent, FREE, FREE),
            (Outcome::Refused, AGAIN, AGAIN),
            (Outcome::Stale, AGAIN, Verdict::GiveUp),
            (Outcome::Reset, AGAIN, Verdict::GiveUp),
            (Outcome::Late, Verdict::GiveUp, Verdict::GiveUp),
            (Outcome::Final, Verdict::GiveUp, Verdict::GiveUp),
        ];
        for (outcome, get, post) in cases {
            assert_eq!(verdict(&terms, &Method::GET, outcome, first()), get, "{outcome:?}");
            assert_eq!(verdict(&terms, &Method::POST, outcome, first()), post, "{outcome:?}");
            for efforts in [Efforts { attempts: 2, ..first() }, Efforts { is_at_hand: false, ..first() }] {
                assert_eq!(verdict(&terms, &Method::GET, outcome, efforts), Verdict::GiveUp, "{outcome:?} {efforts:?}");
            }
        }
    }

    #[test]
    fn a_connection_that_idled_is_replaced_once_and_at_once() {
        let pooled = Efforts { is_fresh: false, ..first() };
        let terms = Retries::default();
        assert_eq!(verdict(&terms, &Method::POST, Outcome::Unsent, pooled), Verdict::Reconnect);
        assert_eq!(verdict(&terms, &Method::GET, Outcome::Stale, pooled), Verdict::Reconnect);
        assert_eq!(verdict(&terms, &Method::POST, Outcome::Stale, pooled), Verdict::GiveUp);
        let never = Retries { attempts: 0, ..Retries::default() };
        assert_eq!(verdict(&never, &Method::POST, Outcome::Unsent, pooled), Verdict::Reconnect);
        assert_eq!(verdict(&never, &Method::GET, Outcome::Stale, pooled), Verdict::GiveUp);
        assert_eq!(verdict(&never, &Method::GET, Outcome::Unconnected, first()), Verdict::GiveUp);
    }

    #[test]
    fn what_is_asked_for_is_done_and_a_long_wait_is_left_to_the_client() {
        let terms = Retries {
            on: vec![RetryOn::Timeout],
            methods: vec!["POST".parse().expect("a method")],
            ..Retries::default()
        };
        assert_eq!(verdict(&terms, &Method::POST, Outcome::Late, first()), AGAIN);
        assert_eq!(verdict(&terms, &Method::GET, Outcome::Late, first()), Verdict::GiveUp);
        assert_eq!(verdict(&terms, &Method::POST, Outcome::Unconnected, first()), Verdict::GiveUp);
        for (after, expected) in [(None, AGAIN), (Some(0), AGAIN), (Some(250), AGAIN), (Some(251), Verdict::GiveUp)] {
            let outcome = Outcome::Answered { after: after.map(Duration::from_millis) };
            assert_eq!(verdict(&terms, &Method::POST, outcome, first()), expected, "{after:?}");
        }
    }

    #[test]
    fn answers_are_judged_by_status_and_by_code() {
        let head = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut head = ResponseHead {
                status: StatusCode::from_u16(status).expect("a status"),
                headers: model::fields::Fields::default(),
            };
            for (name, value) in fields {
                head.headers.append(&http::HeaderName::from_static(name), &http::HeaderValue::from_static(value));
            }
            head
        };
        let terms = Retries { statuses: vec![503], grpc_codes: vec![GrpcCode::Unavailable], ..Retries::default() };
        let after = |after| Some(Outcome::Answered { after });
        assert_eq!(judge(&terms, &head(503, &[]), true), after(None));
        assert_eq!(judge(&terms, &head(503, &[("retry-after", "2")]), true), after(Some(Duration::from_secs(2))));
        let date = [("retry-after", "Fri, 31 Dec 2027 23:59:59 GMT")];
        assert_eq!(judge(&terms, &head(503, &date), true), after(Some(Duration::MAX)));
        assert_eq!(judge(&terms, &head(500, &[]), true), None);
        assert_eq!(judge(&terms, &head(200, &[("grpc-status", "14")]), false), after(None));
        assert_eq!(judge(&terms, &head(200, &[("grpc-status", "14")]), true), None);
        assert_eq!(judge(&terms, &head(200, &[("grpc-status", "5")]), false), None);
        assert_eq!(judge(&Retries::default(), &head(503, &[("grpc-status", "14")]), false), None);
    }

    #[test]
    fn waits_double_up_to_their_bound_and_a_new_target_waits_for_nothing() {
        let backoff = Backoff::default();
        let millis = |retries, draw| wait(backoff, Outcome::Reset, retries, false, draw).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 200].map(|retries| millis(retries, 1.0)), [25, 50, 100, 200, 250, 250]);
        assert_eq!([0.0, 0.5].map(|draw| millis(1, draw)), [0, 25]);
        assert_eq!(wait(backoff, Outcome::Reset, 3, true, 1.0), Duration::ZERO);
        let asks = Outcome::Answered { after: Some(Duration::from_secs(1)) };
        assert_eq!(wait(backoff, asks, 0, true, 1.0), Duration::from_secs(1));
    }
}
