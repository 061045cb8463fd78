//! Service: what stands behind the gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::route::HeaderField;
use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;

mod connections;
mod discovery;
mod health_check;
mod limits;
mod load_balancing;
mod outlier_detection;
mod retries;
mod sticky_cookie;
mod target;
mod timeouts;
mod tls;

pub use connections::{Connections, Pings};
pub use discovery::{Discovery, DnsDiscovery, DnsName, DnsRecords, NameServer, Scheme};
pub use health_check::{GrpcCheck, HealthCheck, HttpCheck, StatusRange, TcpCheck};
pub use limits::{AdaptiveLimit, Limits};
pub use load_balancing::{BalancingPolicy, HashKey, LoadBalancing};
pub use outlier_detection::{Latency, OutlierDetection, SuccessRate};
pub use retries::{Backoff, GrpcCode, Hedging, Retries, RetryBudget, RetryOn};
pub use sticky_cookie::{SameSite, StickyCookie};
pub use target::{MAX_PRIORITY, Target, TargetUrl};
pub use timeouts::Timeouts;
pub use tls::{UpstreamTls, Verify};

/// What stands behind the gateway: the addresses of one backend and how to speak to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Short for a single target.
    #[serde(default, skip_serializing)]
    pub url: Option<TargetUrl>,
    /// The addresses of the service. Requests are shared out among them. Without any, the targets are those that are
    /// added beside the configuration (`PUT …/services/{service}/targets/{target}`); until then it answers 503.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Where the service finds further targets by itself. A revision with a new one waits up to 2 seconds for its first
    /// answer before it is served. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// How to speak to the targets. Default: auto.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// Tells targets for whom a connection is, by a header of this version of the PROXY protocol ahead of everything
    /// else, TLS too. It speaks for one client: each request gets a connection of its own, over HTTP/1.1. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// How a target is chosen. Default: least_request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub load_balancing: LoadBalancing,
    #[serde(default, skip_serializing_if = "is_default")]
    pub outlier_detection: Box<OutlierDetection>,
    /// Default: none, only what requests come to tells whether a target is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheck>>,
    /// How long the gateway waits for its targets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// Tells targets how many milliseconds they have for the response, in a field of this name, such as
    /// `x-request-timeout-ms`: what is left of the timeouts when the request is sent to one, each time anew. What a client
    /// sent in it is replaced. Calls of gRPC have `grpc-timeout` for that, with what is left of theirs and of the timeouts
    /// of the route, whatever is written here. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_header: Option<HeaderField>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: Retries,
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    #[serde(default, skip_serializing_if = "is_default")]
    pub connections: Connections,
    /// For `https` targets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: UpstreamTls,
    /// Policies for all requests to this service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Name>,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false` answers 503 in its place. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// The protocol to the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `http` targets: HTTP/1.1. `https` targets: HTTP/2 or HTTP/1.1, as ALPN decides.
    #[default]
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2; for `http` targets by prior knowledge.
    Http2,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Written for Service {
    const KIND: Kind = Kind::Service;

    fn check(&self, faults: &mut Vec<Fault>) {
        if self.url.is_some() && !self.targets.is_empty() {
            faults.push(Fault::new(
                "/url",
                "conflicting-fields",
                "`url` is short for a single target: write `url` or `targets`, not both",
            ));
        }
        Target::check_all(&self.targets, faults);
        if let Some(discovery) = &self.discovery {
            discovery.check(faults);
        }
        self.load_balancing.check(faults);
        self.outlier_detection.check(faults);
        if let Some(check) = &self.health_check {
            check.check(faults);
        }
        self.timeouts.check(faults);
        self.retries.check(faults);
        self.limits.check(faults);
        self.connections.check(faults);
        if self.proxy_protocol.is_some() && self.protocol == Protocol::Http2 {
            let message =
                "a connection with a header of the PROXY protocol is for one client, which HTTP/2 would share";
            let fault = Fault::new("/proxy_protocol", "conflicting-fields", message);
            faults.push(fault.hint("leave `protocol` away, or write `protocol: http1`"));
        }
        self.tls.check(faults);
    }

    fn references(&self, visit: &mut dyn FnMut(Reference<'_>)) {
        super::policy::references(&self.policies, visit);
        if let Some(name) = &self.tls.ca_bundle {
            visit(Reference { kind: Kind::CaBundle, name, pointer: "/tls/ca_bundle".to_owned() });
        }
        if let Some(name) = &self.tls.client_certificate {
            visit(Reference { kind: Kind::Certificate, name, pointer: "/tls/client_certificate".to_owned() });
        }
    }

    fn into_resource(mut self) -> Resource {
        if let Some(url) = self.url.take() {
            self.targets = vec![Target::of(url)];
        }
        Resource::Service(Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::written;

    /// Where the parts of a service that are written so are at fault.
    fn faults(part: &Value) -> Vec<String> {
        let mut service = json!({"url": "http://127.0.0.1:9000"});
        let fields = part.as_object().expect("fields").clone();
        service.as_object_mut().expect("fields").extend(fields);
        let service: Service = written::read(service).unwrap_or_else(|faults| panic!("{faults:?}"));
        let mut faults = Vec::new();
        service.check(&mut faults);
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn a_second_attempt_beside_the_first_has_to_make_sense() {
        let hedged = |hedging, attempts| faults(&json!({"retries": {"hedging": hedging, "attempts": attempts}}));
        assert!(hedged(json!({}), 1).is_empty());
        assert!(hedged(json!({"percentile": "99.9%", "min_delay": "1ms", "initial_delay": "1m"}), 1).is_empty());
        assert_eq!(hedged(json!({"percentile": "49%"}), 1), ["/retries/hedging/percentile"]);
        assert_eq!(hedged(json!({"percentile": "100%"}), 1), ["/retries/hedging/percentile"]);
        assert_eq!(hedged(json!({"min_delay": "0ms"}), 1), ["/retries/hedging/min_delay"]);
        assert_eq!(hedged(json!({"min_delay": "2s", "initial_delay": "1s"}), 1), ["/retries/hedging/initial_delay"]);
        assert_eq!(hedged(json!({}), 0), ["/retries/hedging"]);
    }

    #[test]
    fn pings_are_not_sent_more_often_than_connections_are_looked_at() {
        let pings = |pings| faults(&json!({"connections": {"pings": pings}}));
        assert!(pings(json!({})).is_empty());
        assert!(pings(json!({"enabled": false, "after": "1s", "timeout": "1s", "min_interval": "1s"})).is_empty());
        for field in ["after", "timeout", "min_interval"] {
            assert_eq!(pings(json!({field: "999ms"})), [format!("/connections/pings/{field}")]);
        }
    }

    #[test]
    fn a_cookie_has_to_be_one_that_clients_take() {
        let cookie = |cookie| faults(&json!({"load_balancing": {"sticky_cookie": cookie}}));
        assert!(cookie(json!({"name": "shop-target", "path": "/shop", "max_age": "365d"})).is_empty());
        assert_eq!(cookie(json!({"name": "a b"})), ["/load_balancing/sticky_cookie/name"]);
        assert_eq!(cookie(json!({"name": ""})), ["/load_balancing/sticky_cookie/name"]);
        assert_eq!(cookie(json!({"path": "shop"})), ["/load_balancing/sticky_cookie/path"]);
        assert_eq!(cookie(json!({"path": "/; Domain=example"})), ["/load_balancing/sticky_cookie/path"]);
        for age in ["0s", "1500ms"] {
            assert_eq!(cookie(json!({"max_age": age})), ["/load_balancing/sticky_cookie/max_age"], "{age}");
        }
    }

    #[test]
    fn an_adaptive_limit_has_to_leave_room() {
        let adaptive = |adaptive| faults(&json!({"limits": {"adaptive": adaptive}}));
        assert!(adaptive(json!({})).is_empty());
        assert_eq!(adaptive(json!({"min": 0})), ["/limits/adaptive/min"]);
        assert_eq!(adaptive(json!({"min": 8, "max": 7})), ["/limits/adaptive/max"]);
    }
}
