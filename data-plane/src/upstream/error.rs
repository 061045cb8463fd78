//! Why a service gave no answer, and what the client hears of it.

use http::{HeaderValue, StatusCode, header};
use model::rejection::Rejection;

use crate::body::Failure;

/// Why a service gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// All its weights are 0, or there is no such service.
    #[error("the service has no target")]
    NoTarget,
    #[error("the service is disabled")]
    Disabled,
    #[error("all connections to the target are in use")]
    Overloaded,
    /// It has as many requests as it may, and as many wait.
    #[error("the service has as many requests as it may, and no other may wait")]
    Full,
    #[error("the service has as many requests as it answers without delay")]
    AdaptiveLimit,
    #[error("no place at the service within the time that a request may wait")]
    QueueTimeout,
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no connection within the connect timeout")]
    ConnectTimeout,
    #[error("no response within the request timeout")]
    Timeout,
    /// The client would have waited for less than the service was given.
    #[error("no response within the time that the client gave")]
    ClientDeadline,
    /// It closed the connection, or what it sent is not HTTP.
    #[error("no valid response: {0}")]
    BadResponse(String),
    /// The client's body ended too early, was too large or too slow.
    #[error("the request body failed: {0}")]
    RequestBody(Failure),
}

impl UpstreamError {
    /// Whether it says something about the service, and not only about the client.
    #[must_use]
    pub fn is_of_service(&self) -> bool {
        !matches!(self, Self::RequestBody(_) | Self::ClientDeadline)
    }

    /// Whether it speaks against the target that was tried.
    #[must_use]
    pub fn is_of_target(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::ConnectTimeout | Self::Timeout | Self::BadResponse(_))
    }

    /// The stable name of the reason, for the client, logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTarget => "no-target",
            Self::Disabled => "service-disabled",
            Self::Overloaded => "upstream-overloaded",
            Self::Full => "upstream-full",
            Self::AdaptiveLimit => "upstream-adaptive-limit",
            Self::QueueTimeout => "upstream-queue-timeout",
            Self::Unreachable(_) => "upstream-unreachable",
            Self::ConnectTimeout => "upstream-connect-timeout",
            Self::Timeout => "upstream-timeout",
            Self::ClientDeadline => "client-deadline",
            Self::BadResponse(_) => "upstream-bad-response",
            Self::RequestBody(Failure::TooLarge) => "request-too-large",
            Self::RequestBody(Failure::TooSlow | Failure::Idle | Failure::Late) => "request-timeout",
            Self::RequestBody(Failure::Broken | Failure::Behind) => "bad-request-body",
        }
    }

    /// What the client gets. It says nothing about addresses or causes: those are for the log.
    #[must_use]
    pub fn rejection(&self) -> Rejection {
        let (status, detail) = match self {
            Self::NoTarget => (StatusCode::SERVICE_UNAVAILABLE, "The service has no target at the moment."),
            Self::Disabled => (StatusCode::SERVICE_UNAVAILABLE, "The service is switched off."),
            Self::Overloaded | Self::Full | Self::AdaptiveLimit | Self::QueueTimeout => {
                (StatusCode::SERVICE_UNAVAILABLE, "The service is too busy at the moment.")
            }
            Self::Unreachable(_) => (StatusCode::BAD_GATEWAY, "The service could not be reached."),
            Self::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "The service could not be reached in time."),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "The service did not answer in time."),
            Self::ClientDeadline => {
                (StatusCode::GATEWAY_TIMEOUT, "The service did not answer within the time asked for.")
            }
            Self::BadResponse(_) => (StatusCode::BAD_GATEWAY, "The service gave no valid answer."),
            Self::RequestBody(Failure::TooLarge) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "The body of the request is larger than allowed.")
            }
            Self::RequestBody(Failure::TooSlow | Failure::Idle | Failure::Late) => {
                (StatusCode::REQUEST_TIMEOUT, "The body of the request came too slowly.")
            }
            Self::RequestBody(Failure::Broken | Failure::Behind) => {
                (StatusCode::BAD_REQUEST, "The body of the request did not arrive whole.")
            }
        };
        let rejection = Rejection::new(status, self.code(), detail);
        match self {
            // A request takes less than that as a rule, so there will be a place.
            Self::Overloaded | Self::Full | Self::AdaptiveLimit | Self::QueueTimeout => {
                rejection.with_field(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            _ => rejection,
        }
    }
}
