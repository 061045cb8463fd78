//! Service: what stands behind the gateway.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;
use crate::value::{Span, written_as_string};

/// What stands behind the gateway: the addresses of one backend and how to speak to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Short for a single target.
    #[serde(default, skip_serializing)]
    pub url: Option<TargetUrl>,
    /// The addresses of the service. Requests are shared out among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
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
    pub timeouts: Timeouts,
    /// For `https` targets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: UpstreamTls,
    /// Policies for all requests to this service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Name>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false` answers 503 in its place. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `http://10.0.0.11:9000` or `https://orders.internal`: scheme, host and port, no path.
    pub url: TargetUrl,
    /// Share of the requests, relative to the other targets; 0 sends none. Default: 1. At most 1000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
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

/// How a target is chosen for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancing {
    /// Of two targets drawn at random, by weight, the one with fewer requests in flight for its weight, as each core
    /// sees it.
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
}

/// How long the gateway waits for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For a connection, with its TLS handshake. Default: 2s.
    #[serde(skip_serializing_if = "is_default_connect")]
    pub connect: Span,
    /// From sending the request until the head of the response. Default: 30s.
    #[serde(skip_serializing_if = "is_default_request")]
    pub request: Span,
    /// Without any byte of a body or an upgraded connection, in either direction. Default: 5m.
    #[serde(skip_serializing_if = "is_default_idle")]
    pub idle: Span,
}

const DEFAULT_CONNECT: Span = Span::from_secs(2);
const DEFAULT_REQUEST: Span = Span::from_secs(30);
const DEFAULT_IDLE: Span = Span::from_secs(300);

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: DEFAULT_CONNECT, request: DEFAULT_REQUEST, idle: DEFAULT_IDLE }
    }
}

fn is_default_connect(span: &Span) -> bool {
    *span == DEFAULT_CONNECT
}

fn is_default_request(span: &Span) -> bool {
    *span == DEFAULT_REQUEST
}

fn is_default_idle(span: &Span) -> bool {
    *span == DEFAULT_IDLE
}

/// How the certificates of `https` targets are checked, and what is shown to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// `false` accepts any certificate. Default: true.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verify: Verify,
    /// The CA bundle with the authorities to trust. Default: those of the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<Name>,
    /// The name to ask for and to check. Default: the host of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The certificate to show to targets that ask for one. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<Name>,
}

impl UpstreamTls {
    fn check(&self, faults: &mut Vec<Fault>) {
        if let Some(name) = self.server_name.as_ref().filter(|name| ServerName::try_from(name.as_str()).is_err()) {
            let message = format!("`{name}` is no name that a certificate can be for");
            let fault = Fault::new("/tls/server_name", "invalid-value", message);
            faults.push(fault.hint("write a host name or an IP address without port, such as `orders.internal`"));
        }
        if self.verify == Verify::Off && self.ca_bundle.is_some() {
            let message = "with `verify: false` any certificate is accepted, whoever issued it";
            let fault = Fault::new("/tls/ca_bundle", "conflicting-fields", message);
            faults.push(fault.hint("leave `verify` away to have certificates checked against the bundle"));
        }
    }
}

/// Whether certificates are checked; written as a boolean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(from = "bool", into = "bool")]
#[schemars(with = "bool")]
pub enum Verify {
    #[default]
    Full,
    Off,
}

impl From<bool> for Verify {
    fn from(verify: bool) -> Self {
        if verify { Self::Full } else { Self::Off }
    }
}

impl From<Verify> for bool {
    fn from(verify: Verify) -> Self {
        verify == Verify::Full
    }
}

/// Scheme, host and port of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetUrl {
    pub https: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl TargetUrl {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| format!("`{text}` is no target: {why}, such as `http://10.0.0.11:9000`");
        let uri: http::Uri = text.parse().map_err(|_| wrong("write scheme, host and port"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("the scheme must be http or https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("a host is needed"))?;
        if authority.as_str().contains('@') {
            // Without the text, as a password must not come up in a log.
            return Err("a target has no user and no password: write `http://10.0.0.11:9000`".to_owned());
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong("a target has no path"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("a host is needed"));
        }
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok().filter(|port| *port != 0),
            None => Some(if https { 443 } else { 80 }),
        };
        let port = port.ok_or_else(|| wrong("the port must be 1 to 65535"))?;
        Ok(Self { https, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

written_as_string!(
    TargetUrl,
    "TargetUrl",
    r"^https?://[^/@]+/?$",
    "Scheme, host and port of a target: `http://10.0.0.11:9000`."
);

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

impl Written for Service {
    const KIND: Kind = Kind::Service;

    fn check(&self, faults: &mut Vec<Fault>) {
        match (&self.url, self.targets.is_empty()) {
            (Some(_), false) => faults.push(Fault::new(
                "/url",
                "conflicting-fields",
                "`url` is short for a single target: write `url` or `targets`, not both",
            )),
            (None, true) => faults.push(
                Fault::new("/targets", "missing-value", "a service needs at least one target")
                    .hint("write `url: http://10.0.0.11:9000`, or `targets` with several"),
            ),
            _ => {}
        }
        for (index, target) in self.targets.iter().enumerate() {
            if target.weight > 1000 {
                let message = format!("a weight of {} is out of range", target.weight);
                let fault = Fault::new(format!("/targets/{index}/weight"), "invalid-value", message);
                faults.push(fault.hint("weights are 0 to 1000"));
            }
            if self.targets[..index].iter().any(|earlier| earlier.url == target.url) {
                let message = format!("the target {} is listed twice", target.url);
                let fault = Fault::new(format!("/targets/{index}/url"), "duplicate-value", message);
                faults.push(fault.hint("give it a larger weight instead"));
            }
        }
        let zero =
            [("connect", self.timeouts.connect), ("request", self.timeouts.request), ("idle", self.timeouts.idle)];
        for (field, _) in zero.iter().filter(|(_, span)| span.as_millis() == 0) {
            let fault =
                Fault::new(format!("/timeouts/{field}"), "invalid-value", "a timeout of zero lets nothing through");
            faults.push(fault.hint("leave it away for the default"));
        }
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
            self.targets = vec![Target { url, weight: 1 }];
        }
        Resource::Service(self)
    }
}
