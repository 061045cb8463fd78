//! How long connections to targets serve.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::value::Span;

/// How long connections to targets serve. A connection that was used up ends when its last response has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// Age at which a connection takes no further requests, so that load follows what has changed behind a name or a
    /// balancer; up to a tenth less, so that connections made together do not end together. Default: 1h. At least 1s.
    #[serde(skip_serializing_if = "is_default_age")]
    pub max_age: Span,
    /// Requests on one connection; up to a tenth less, for the same reason. Default: no limit. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
}

const DEFAULT_AGE: Span = Span::from_secs(3600);

impl Default for Connections {
    fn default() -> Self {
        Self { max_age: DEFAULT_AGE, max_requests: None }
    }
}

impl Connections {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if self.max_age.as_millis() < 1000 {
            let message = format!("connections of {} are made more often than they serve", self.max_age);
            let fault = Fault::new("/connections/max_age", "invalid-value", message);
            faults.push(fault.hint("write 1s or more"));
        }
        if self.max_requests == Some(0) {
            let message = "a connection without a request is of no use";
            let fault = Fault::new("/connections/max_requests", "invalid-value", message);
            faults.push(fault.hint("leave it away for no limit; 1 has a connection for each request"));
        }
    }
}

fn is_default_age(span: &Span) -> bool {
    *span == DEFAULT_AGE
}
