//! How long the gateway waits for a service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::value::Span;

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

impl Timeouts {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let all = [("connect", self.connect), ("request", self.request), ("idle", self.idle)];
        for (field, _) in all.iter().filter(|(_, span)| span.as_millis() == 0) {
            let fault =
                Fault::new(format!("/timeouts/{field}"), "invalid-value", "a timeout of zero lets nothing through");
            faults.push(fault.hint("leave it away for the default"));
        }
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
