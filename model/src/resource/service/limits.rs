//! How much a service may be given at a time, and what happens to what is more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::value::Span;

/// How much a service may be given at a time. Requests are counted across all cores of a node, and each node counts for
/// itself: with three nodes, a service gets up to three times as much. A request counts until its response has been read;
/// an upgraded connection counts until it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests to the service at a time, on each node. Default: no limit. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Requests to each of its targets at a time, on each node: a target that has as many is passed over. Default: no limit.
    /// At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_target: Option<u32>,
    /// A limit of requests at a time that follows how the service fares. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveLimit>,
    /// Requests that may wait for others to end, on each node. One more is answered 503 with `Retry-After` and the code
    /// `upstream-full`. Default: 100. At most 100000; 0: none waits.
    #[serde(skip_serializing_if = "is_default_pending")]
    pub pending: u32,
    /// How long one may wait; then it is answered 503 with `Retry-After` and the code `upstream-queue-timeout`. Default: 1s.
    /// At most 1m.
    #[serde(skip_serializing_if = "is_default_timeout")]
    pub pending_timeout: Span,
    /// Connections to each of its targets, on each core, as each core has connections of its own. Default: 1024. At least 1,
    /// at most 1024.
    #[serde(skip_serializing_if = "is_default_connections")]
    pub connections_per_target: u32,
}

/// A limit of requests at a time that follows how the service fares, on each core: it grows as long as answers, up to their
/// heads, take no longer than they do without a crowd, and shrinks by as much as they take longer than one and a half of that.
/// One more request is answered 503 with `Retry-After` and the code `upstream-adaptive-limit`, at once; `importance` of its
/// route says how much of the limit there is for it. What an answer takes without a crowd is learnt from the quickest;
/// when answers stay slow, half the limit is tried for a moment every few seconds, and if that makes no difference, so long is
/// what they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveLimit {
    /// It begins here, and is no lower. It should be less than the service does at a time for one core. Default: 10. At
    /// least 1.
    #[serde(skip_serializing_if = "is_default_min")]
    pub min: u32,
    /// It is no higher. Default: 1000. At least `min`, at most 100000.
    #[serde(skip_serializing_if = "is_default_max")]
    pub max: u32,
}

const DEFAULT_MIN: u32 = 10;
const DEFAULT_MAX: u32 = 1000;

const DEFAULT_PENDING: u32 = 100;
const DEFAULT_TIMEOUT: Span = Span::from_secs(1);
const DEFAULT_CONNECTIONS: u32 = 1024;

const MOST_PENDING: u32 = 100_000;
const MOST_TIMEOUT: Span = Span::from_secs(60);

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: None,
            requests_per_target: None,
            adaptive: None,
            pending: DEFAULT_PENDING,
            pending_timeout: DEFAULT_TIMEOUT,
            connections_per_target: DEFAULT_CONNECTIONS,
        }
    }
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        Self { min: DEFAULT_MIN, max: DEFAULT_MAX }
    }
}

impl Limits {
    /// Whether requests are counted at all.
    #[must_use]
    pub fn count_requests(&self) -> bool {
        self.requests.is_some() || self.requests_per_target.is_some() || self.adaptive.is_some()
    }

    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let mut invalid = |field: &str, message: String, hint: String| {
            faults.push(Fault::new(format!("/limits/{field}"), "invalid-value", message).hint(hint));
        };
        for (field, limit) in [("requests", self.requests), ("requests_per_target", self.requests_per_target)] {
            if limit == Some(0) {
                let hint = "leave it away for no limit, or switch the service off with `enabled: false`";
                invalid(field, "a limit of 0 lets nothing through".to_owned(), hint.to_owned());
            }
        }
        if let Some(AdaptiveLimit { min, max }) = self.adaptive {
            if min == 0 {
                let hint = "write 1 or more".to_owned();
                invalid("adaptive/min", "a limit of 0 lets nothing through".to_owned(), hint);
            }
            if !(min..=MOST_PENDING).contains(&max) {
                invalid("adaptive/max", format!("{max} is out of range"), format!("write `min` to {MOST_PENDING}"));
            }
        }
        if self.pending > MOST_PENDING {
            invalid("pending", format!("{} is out of range", self.pending), format!("write 0 to {MOST_PENDING}"));
        }
        if self.pending_timeout > MOST_TIMEOUT || self.pending_timeout.as_millis() == 0 {
            let message = format!("{} is out of range", self.pending_timeout);
            invalid("pending_timeout", message, format!("write {MOST_TIMEOUT} or less; `pending: 0` has none wait"));
        }
        if !(1..=DEFAULT_CONNECTIONS).contains(&self.connections_per_target) {
            let message = format!("{} is out of range", self.connections_per_target);
            invalid("connections_per_target", message, format!("write 1 to {DEFAULT_CONNECTIONS}"));
        }
    }
}

fn is_default_min(min: &u32) -> bool {
    *min == DEFAULT_MIN
}

fn is_default_max(max: &u32) -> bool {
    *max == DEFAULT_MAX
}

fn is_default_pending(pending: &u32) -> bool {
    *pending == DEFAULT_PENDING
}

fn is_default_timeout(span: &Span) -> bool {
    *span == DEFAULT_TIMEOUT
}

fn is_default_connections(connections: &u32) -> bool {
    *connections == DEFAULT_CONNECTIONS
}
