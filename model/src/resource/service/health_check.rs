//! Requests of the gateway itself that tell whether a target is well.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::value::{Percentage, Span, written_as_string};

/// Requests of the gateway itself that tell whether a target is well: exactly one of `http`, `tcp` and `grpc`. Every node
/// checks for itself, once and not on each of its cores, on a connection of its own each time, with the TLS of the service. A target gets
/// requests until its first check has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// A GET over HTTP/1.1, or HTTP/2 where the service speaks nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// That a connection can be made; to `https` targets with TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// `grpc.health.v1.Health/Check` must say `SERVING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// From one check of a target to the next. Default: 5s. At least 100ms.
    #[serde(default = "interval", skip_serializing_if = "is_default_interval")]
    pub interval: Span,
    /// Each pause is shorter by a random part of it, up to this one, so that nodes do not check in step. Default: 10%.
    #[serde(default = "jitter", skip_serializing_if = "is_default_jitter")]
    pub jitter: Percentage,
    /// For one check, with its connection. Default: 1s. At most `interval`.
    #[serde(default = "timeout", skip_serializing_if = "is_default_timeout")]
    pub timeout: Span,
    /// So many checks in a row must pass for a target that is out. Default: 2.
    #[serde(default = "healthy_threshold", skip_serializing_if = "is_default_healthy_threshold")]
    pub healthy_threshold: u32,
    /// So many checks in a row must fail for a target that is well. Default: 3.
    #[serde(default = "unhealthy_threshold", skip_serializing_if = "is_default_unhealthy_threshold")]
    pub unhealthy_threshold: u32,
}

/// A GET over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// With a query, if there is one. Default: `/`.
    #[serde(default = "root", skip_serializing_if = "is_root")]
    pub path: String,
    /// The `Host` of the request. Default: that of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The answer must have one of these. Default: 200-299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_status: Vec<StatusRange>,
    /// The first 64 KiB of the answer must hold this text. Default: anything will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_body: Option<String>,
}

/// That a connection can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpCheck {}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcCheck {
    /// The service that is asked for. Default: empty, the server as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// Statuses from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    pub const SUCCESS: Self = Self { first: 200, last: 299 };

    #[must_use]
    pub fn holds(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 200 <= first && first <= last && last <= 599 => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no status: write `204` or `200-299`, from 200 to 599")),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

written_as_string!(
    StatusRange,
    "StatusRange",
    r"^[2-5][0-9]{2}(-[2-5][0-9]{2})?$",
    "A status or a range of them, in quotes: `204`, `200-299`."
);

impl HealthCheck {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let asked = [self.http.is_some(), self.tcp.is_some(), self.grpc.is_some()];
        match asked.iter().filter(|is_asked| **is_asked).count() {
            0 => faults.push(
                Fault::new("/health_check", "missing-value", "a check needs to ask for something")
                    .hint("write one of `http: { path: /healthz }`, `tcp: {}` and `grpc: {}`"),
            ),
            1 => {}
            _ => faults.push(Fault::new(
                "/health_check",
                "conflicting-fields",
                "`http`, `tcp` and `grpc` exclude each other: write one of them",
            )),
        }
        let mut wrong = |field: &str, message: String, hint: &str| {
            faults.push(Fault::new(format!("/health_check/{field}"), "invalid-value", message).hint(hint));
        };
        if self.interval.as_millis() < 100 {
            wrong("interval", format!("an interval of {} is out of range", self.interval), "write `100ms` or more");
        }
        if self.timeout.as_millis() == 0 || self.timeout > self.interval {
            let message = format!("a timeout of {} is out of range", self.timeout);
            wrong("timeout", message, "write `1ms` up to `interval`");
        }
        let thresholds =
            [("healthy_threshold", self.healthy_threshold), ("unhealthy_threshold", self.unhealthy_threshold)];
        for (field, _) in thresholds.iter().filter(|(_, threshold)| *threshold == 0) {
            wrong(field, "0 checks tell nothing".to_owned(), "write 1 or more");
        }
        if let Some(http) = &self.http {
            if !http.path.starts_with('/') || http.path.parse::<http::uri::PathAndQuery>().is_err() {
                wrong("http/path", format!("`{}` is no path", http.path), "such as `/healthz`");
            }
            if http.host.as_ref().is_some_and(|host| host.parse::<http::uri::Authority>().is_err()) {
                wrong("http/host", "this is no host".to_owned(), "such as `orders.internal`");
            }
            if http.expected_body.as_ref().is_some_and(String::is_empty) {
                wrong("http/expected_body", "every answer holds nothing".to_owned(), "leave it away");
            }
        }
    }
}

const INTERVAL: Span = Span::from_secs(5);
const JITTER: Percentage = Percentage::whole(10);
const TIMEOUT: Span = Span::from_secs(1);
const HEALTHY_THRESHOLD: u32 = 2;
const UNHEALTHY_THRESHOLD: u32 = 3;

fn interval() -> Span {
    INTERVAL
}

fn is_default_interval(span: &Span) -> bool {
    *span == INTERVAL
}

fn jitter() -> Percentage {
    JITTER
}

fn is_default_jitter(part: &Percentage) -> bool {
    *part == JITTER
}

fn timeout() -> Span {
    TIMEOUT
}

fn is_default_timeout(span: &Span) -> bool {
    *span == TIMEOUT
}

fn healthy_threshold() -> u32 {
    HEALTHY_THRESHOLD
}

fn is_default_healthy_threshold(threshold: &u32) -> bool {
    *threshold == HEALTHY_THRESHOLD
}

fn unhealthy_threshold() -> u32 {
    UNHEALTHY_THRESHOLD
}

fn is_default_unhealthy_threshold(threshold: &u32) -> bool {
    *threshold == UNHEALTHY_THRESHOLD
}

fn root() -> String {
    "/".to_owned()
}

fn is_root(path: &String) -> bool {
    path == "/"
}
