//! How long connections to targets serve.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::is_default;
use crate::value::Span;

/// How long connections to targets serve. A connection that was used up ends when its last response has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// Age at which a connection takes no further requests, so that load follows what has changed behind a name or a
    /// balancer; up to a tenth less, so that connections made together do not end together. Default: 1h. At least 1s.
    #[serde(skip_serializing_if = "is_default_age")]
    pub max_age: Span,
    /// How long a connection may wait for its next request; up to 2 seconds less. A service that says how long it waits
    /// itself, by `Keep-Alive: timeout=5` in its first response on a connection (RFC 2068 section 19.7.1), is believed where
    /// that is shorter: the connection is closed 1 to 3 seconds before the service would do it, so that no request meets a
    /// closed one, and is not kept at all for less than 2. Default: 1m. At least 1s.
    #[serde(skip_serializing_if = "is_default_idle")]
    pub max_idle: Span,
    /// Requests on one connection; up to a tenth less, for the same reason. Default: no limit. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// How the gateway finds that a target which has requests on a connection of HTTP/2 is gone without a word.
    #[serde(skip_serializing_if = "is_default")]
    pub pings: Pings,
}

/// How the gateway finds that a target which has requests on a connection of HTTP/2 is gone without a word: it asks by a
/// PING (RFC 9113 section 6.7). A connection without requests is never asked so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pings {
    /// `false` sends none; what waits for a target that is gone then waits for its timeouts. Default: true.
    pub enabled: bool,
    /// A target that sends nothing at all for so long while it has requests is asked. Up to a second more. Default: 30s.
    /// At least 1s.
    pub after: Span,
    /// A target that was asked and sends nothing for so long is gone: the connection ends. Its requests fail, or are tried
    /// again as the retries of the service say. Up to a second more. Default: 10s. At least 1s.
    pub timeout: Span,
    /// Between two PINGs on one connection, unless a response has begun in between. Servers of gRPC end connections on
    /// which they are asked more often than they allow: by default every 5 minutes while they say nothing. Shorten it only
    /// for servers that permit that. Default: 5m. At least 1s.
    pub min_interval: Span,
}

const DEFAULT_AGE: Span = Span::from_secs(3600);
const DEFAULT_IDLE: Span = Span::from_secs(60);

impl Default for Connections {
    fn default() -> Self {
        Self { max_age: DEFAULT_AGE, max_idle: DEFAULT_IDLE, max_requests: None, pings: Pings::default() }
    }
}

impl Default for Pings {
    fn default() -> Self {
        Self {
            enabled: true,
            after: Span::from_secs(30),
            timeout: Span::from_secs(10),
            min_interval: Span::from_secs(300),
        }
    }
}

impl Connections {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if self.max_age.as_millis() < 1000 {
            let message = format!("connections of {} are made more often than they serve", self.max_age);
            let fault = Fault::new("/connections/max_age", "invalid-value", message);
            faults.push(fault.hint("write 1s or more"));
        }
        if self.max_idle.as_millis() < 1000 {
            let message =
                format!("connections that wait for {} are closed before they are needed again", self.max_idle);
            let fault = Fault::new("/connections/max_idle", "invalid-value", message);
            faults.push(fault.hint("write 1s or more; `max_requests: 1` has a connection for each request"));
        }
        if self.max_requests == Some(0) {
            let message = "a connection without a request is of no use";
            let fault = Fault::new("/connections/max_requests", "invalid-value", message);
            faults.push(fault.hint("leave it away for no limit; 1 has a connection for each request"));
        }
        let Pings { enabled: _, after, timeout, min_interval } = self.pings;
        let spans = [("after", after), ("timeout", timeout), ("min_interval", min_interval)];
        for (field, span) in spans.iter().filter(|(_, span)| span.as_millis() < 1000) {
            let message = format!("connections are looked at once a second, which is too seldom for {span}");
            let fault = Fault::new(format!("/connections/pings/{field}"), "invalid-value", message);
            faults.push(fault.hint("write 1s or more; `enabled: false` sends no PING at all"));
        }
    }
}

fn is_default_idle(span: &Span) -> bool {
    *span == DEFAULT_IDLE
}

fn is_default_age(span: &Span) -> bool {
    *span == DEFAULT_AGE
}
