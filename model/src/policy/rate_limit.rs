//! `rate-limit`: each caller may send so many requests in so much time.
//!
//! ```yaml
//! policies:
//!   - { name: fair-use, type: rate-limit, config: { limit: 100, per: 1m, by: consumer } }
//! ```
//!
//! A policy counts together wherever it is attached: two routes that name one policy share its counters.

mod counters;

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::counters::{Caller, Counters, Quota, Verdict};
use super::{Outcome, Policy, PolicySpec};
use crate::exchange::Exchange;
use crate::problem::Fault;
use crate::rejection::Rejection;
use crate::resource::is_default;
use crate::value::Span;

/// Finer than this the clock is too coarse to space requests.
const MIN_INTERVAL_NS: u64 = 1_000;

/// Limits how many requests each caller may send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many requests, in the time of `per`. What was used comes back evenly: of 100 per minute, one
    /// every 600 ms.
    pub limit: u64,
    /// In what time, `1m` for example.
    pub per: Span,
    /// Whose requests are counted together. Default: client_address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub by: By,
    /// How many of them may come at once after a pause; 1 spaces all of them evenly. At most `limit`.
    /// Default: `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Who counts. Default: node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: Scope,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Those from one address; for IPv6 from one /64 network, since a host may use all of its addresses.
    #[default]
    ClientAddress,
    /// Those of one consumer; without a consumer, those from one address.
    Consumer,
    /// Those of one route.
    Route,
    /// All.
    Everything,
}

/// Who counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Each node for itself: with three nodes a caller that reaches all of them may send three times as much.
    #[default]
    Node,
}

/// The compiled form.
pub struct Compiled {
    quota: Quota,
    by: By,
    /// The value of `RateLimit-Policy`.
    announced: String,
    counters: Arc<Counters>,
}

impl PolicySpec for RateLimit {
    const NAME: &'static str = "rate-limit";
    const SUMMARY: &'static str = "limits how many requests each caller may send";
    type Compiled = Compiled;

    fn compile(&self, previous: Option<&Compiled>) -> Result<Compiled, Vec<Fault>> {
        let quota = self.quota()?;
        // Counters hold times, not requests, so they stay right under another limit: who had used up half of the
        // old one has half of the new one left. Callers of another sort are other callers.
        let counters = match previous {
            Some(previous) if previous.by == self.by => previous.counters.clone(),
            _ => Arc::new(Counters::default()),
        };
        let window = self.per.as_millis().div_ceil(1000);
        let announced = format!("\"{}\";q={};w={window}", Self::NAME, self.limit);
        Ok(Compiled { quota, by: self.by, announced, counters })
    }
}

impl RateLimit {
    fn quota(&self) -> Result<Quota, Vec<Fault>> {
        let mut faults = Vec::new();
        if self.limit == 0 {
            let fault = Fault::new("/limit", "invalid-value", "a limit of 0 lets nothing through");
            faults.push(fault.hint("write 1 or more; to refuse everything, disable the route"));
        }
        let per_ns = self.per.as_millis().saturating_mul(1_000_000);
        if per_ns == 0 {
            faults.push(Fault::new("/per", "invalid-value", "nothing can be counted in no time").hint("write `1s`"));
        }
        if let Some(burst) = self.burst.filter(|burst| *burst == 0 || *burst > self.limit) {
            let message = format!("a burst of {burst} is out of range");
            faults.push(Fault::new("/burst", "invalid-value", message).hint("write 1 to `limit`"));
        }
        // Rounded up, so that never more than the limit gets through.
        let interval_ns = per_ns.div_ceil(self.limit.max(1));
        if faults.is_empty() && interval_ns < MIN_INTERVAL_NS {
            let message = format!("{} requests in {} are too many to count", self.limit, self.per);
            faults.push(Fault::new("/limit", "invalid-value", message).hint("at most a million a second"));
        }
        if faults.is_empty() { Ok(Quota::new(interval_ns, self.burst.unwrap_or(self.limit))) } else { Err(faults) }
    }
}

impl Policy for Compiled {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        let verdict = self.counters.admit(self.caller(exchange), self.quota, exchange.time.monotonic_ns);
        let (remaining, wait_ns) = match verdict {
            Verdict::Admitted { remaining, full_after_ns } => (remaining, full_after_ns),
            Verdict::Refused { retry_after_ns } => (0, retry_after_ns),
        };
        let seconds = wait_ns.div_ceil(1_000_000_000);
        // draft-ietf-httpapi-ratelimit-headers-10. One policy of a type runs per request, so that the name of the
        // type is enough to tell it from others, and tells clients nothing about how the gateway is set up.
        exchange.respond_with(HeaderName::from_static("ratelimit-policy"), text(self.announced.clone()));
        let state = format!("\"{}\";r={remaining};t={seconds}", RateLimit::NAME);
        exchange.respond_with(HeaderName::from_static("ratelimit"), text(state));
        match verdict {
            Verdict::Admitted { .. } => Outcome::Continue,
            Verdict::Refused { .. } => {
                let detail = format!("Too many requests: the next one may come in {seconds} s.");
                Outcome::Reject(
                    Rejection::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
                        .with_field(RETRY_AFTER, HeaderValue::from(seconds)),
                )
            }
        }
    }
}

fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("names and numbers are plain text")
}

impl Compiled {
    fn caller(&self, exchange: &Exchange) -> Caller {
        let named = match self.by {
            By::ClientAddress => None,
            By::Consumer => exchange.consumer().map(|consumer| Caller::Consumer(hash_of(&consumer.name))),
            By::Route => exchange.route().map(|route| Caller::Route(hash_of(&route.name))),
            By::Everything => Some(Caller::Anyone),
        };
        named.unwrap_or_else(|| by_address(exchange.client.address.ip()))
    }
}

/// A name stands as its hash, so that a lookup touches no count of references that other cores touch too.
/// Operators choose the names, and two of a million share a hash with a probability of 1 in 37 million.
fn hash_of(name: &str) -> u64 {
    FixedState::default().hash_one(name)
}

fn by_address(address: IpAddr) -> Caller {
    match address.to_canonical() {
        IpAddr::V4(address) => Caller::V4(address.to_bits()),
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64;
            Caller::V6(u64::try_from(network).expect("half of the bits"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Edit;
    use crate::policy::{PolicyKind, check};
    use crate::resource::Kind;
    use crate::snapshot::Snapshot;

    fn compile(config: &Value, previous: Option<&dyn Policy>) -> Arc<dyn Policy> {
        let kind = PolicyKind::find("rate-limit").expect("it is in the table");
        kind.compile(config, previous).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn at(seconds: u64, address: &str) -> Exchange {
        let mut exchange = Exchange::sample(Snapshot::default(), "/", &[]);
        exchange.time.monotonic_ns = seconds * 1_000_000_000;
        exchange.client.address = address.parse().expect("an address");
        exchange
    }

    /// The `RateLimit` field, and `Retry-After` of a refusal.
    fn send(policy: &dyn Policy, mut exchange: Exchange) -> (String, Option<String>) {
        let (fields, rejection) = check(policy, &mut exchange);
        let state = fields.get_str("ratelimit").expect("text").to_owned();
        let retry_after = rejection.map(|rejection| {
            assert_eq!((rejection.status, rejection.code), (StatusCode::TOO_MANY_REQUESTS, "rate-limited"));
            rejection.fields[0].1.to_str().expect("text").to_owned()
        });
        (state, retry_after)
    }

    #[test]
    fn answers_say_what_is_left_and_refusals_when_to_come_back() {
        let policy = compile(&json!({"limit": 2, "per": "1m"}), None);
        let send = |seconds| send(&*policy, at(seconds, "192.0.2.1:1"));
        assert_eq!(send(5), (r#""rate-limit";r=1;t=30"#.into(), None));
        assert_eq!(send(6), (r#""rate-limit";r=0;t=59"#.into(), None));
        assert_eq!(send(6), (r#""rate-limit";r=0;t=29"#.into(), Some("29".into())));
        assert_eq!(send(34), (r#""rate-limit";r=0;t=1"#.into(), Some("1".into())));
        assert_eq!(send(35), (r#""rate-limit";r=0;t=60"#.into(), None));
        let (fields, _) = check(&*policy, &mut at(40, "192.0.2.2:1"));
        assert_eq!(fields.get_str("ratelimit-policy"), Some(r#""rate-limit";q=2;w=60"#));
    }

    #[test]
    fn a_burst_of_one_spaces_requests_evenly() {
        let policy = compile(&json!({"limit": 60, "per": "1m", "burst": 1}), None);
        let refused = [5, 5, 6, 6, 7].map(|seconds| send(&*policy, at(seconds, "192.0.2.1:1")).1.is_some());
        assert_eq!(refused, [false, true, false, true, false]);
    }

    #[test]
    fn addresses_are_counted_apart_and_ipv6_by_network() {
        let policy = compile(&json!({"limit": 1, "per": "1m"}), None);
        let refused = [
            "192.0.2.1:1",
            "192.0.2.1:2",
            "192.0.2.2:1",
            "[::ffff:192.0.2.2]:1",
            "[2001:db8:0:1::1]:1",
            "[2001:db8:0:1:ffff::2]:1",
            "[2001:db8:0:2::1]:1",
        ]
        .map(|address| send(&*policy, at(1, address)).1.is_some());
        assert_eq!(refused, [false, true, false, true, false, true, false]);
    }

    #[test]
    fn consumers_are_counted_wherever_they_come_from() {
        let put = |name: &str| Edit::Put { kind: Kind::Consumer, name: name.into(), spec: json!({}) };
        let (snapshot, _) = Snapshot::default().apply(1, vec![put("acme"), put("other")]).expect("a snapshot");
        let policy = compile(&json!({"limit": 1, "per": "1m", "by": "consumer"}), None);
        let refused = [
            (Some("acme"), "192.0.2.1:1"),
            (Some("acme"), "192.0.2.2:1"),
            (Some("other"), "192.0.2.1:1"),
            (None, "192.0.2.1:1"),
            (None, "192.0.2.1:1"),
        ]
        .map(|(consumer, address)| {
            let mut exchange = at(1, address);
            exchange.snapshot = snapshot.clone().into();
            exchange.consumer = consumer.and_then(|name| snapshot.consumers.slot(name));
            send(&*policy, exchange).1.is_some()
        });
        assert_eq!(refused, [false, true, false, false, true]);
    }

    #[test]
    fn what_was_used_outlives_a_change_of_the_limit() {
        let send = |policy: &dyn Policy| send(policy, at(1, "192.0.2.1:1")).0;
        let first = compile(&json!({"limit": 10, "per": "1m"}), None);
        (0..5).for_each(|_| drop(send(&*first)));
        let larger = compile(&json!({"limit": 100, "per": "1m"}), Some(&*first));
        assert_eq!(send(&*larger), r#""rate-limit";r=49;t=31"#);
        let shorter = compile(&json!({"limit": 10, "per": "1s"}), Some(&*larger));
        assert_eq!(send(&*shorter), r#""rate-limit";r=0;t=1"#, "nobody waits longer than the new period");
        let otherwise = compile(&json!({"limit": 10, "per": "1m", "by": "everything"}), Some(&*first));
        assert_eq!(send(&*otherwise), r#""rate-limit";r=9;t=6"#);
    }

    #[test]
    fn impossible_limits_are_refused() {
        let kind = PolicyKind::find("rate-limit").expect("it is in the table");
        for (config, pointer) in [
            (json!({"limit": 0, "per": "1m"}), "/limit"),
            (json!({"limit": 1, "per": "0s"}), "/per"),
            (json!({"limit": 1, "per": "1m", "burst": 0}), "/burst"),
            (json!({"limit": 1, "per": "1m", "burst": 2}), "/burst"),
            (json!({"limit": 2_000_000, "per": "1s"}), "/limit"),
            (json!({"limit": 1}), "/per"),
        ] {
            let faults = kind.check(&config).expect_err(pointer);
            assert_eq!(faults.iter().map(|fault| &*fault.pointer).collect::<Vec<_>>(), [pointer], "{config}");
        }
    }
}
