//! `request-id`: every request has an identifier, the same for the service, the client and the log.
//!
//! ```yaml
//! policies:
//!   - { name: request-id, type: request-id, apply_to: everything }
//! ```

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Policy, PolicySpec};
use crate::exchange::Exchange;
use crate::problem::Fault;
use crate::resource::route::HeaderField;

/// Longest identifier that is taken over from a client, in bytes.
const MAX_BYTES: usize = 128;

/// Gives every request an identifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestId {
    /// The header field that carries it, in requests and responses. Default: `X-Request-Id`.
    #[serde(skip_serializing_if = "is_default_header")]
    pub header: HeaderField,
}

impl Default for RequestId {
    fn default() -> Self {
        Self { header: HeaderField(HeaderName::from_static("x-request-id")) }
    }
}

fn is_default_header(header: &HeaderField) -> bool {
    header.0 == "x-request-id"
}

/// The compiled form.
pub struct Compiled {
    header: HeaderName,
}

impl PolicySpec for RequestId {
    const NAME: &'static str = "request-id";
    const SUMMARY: &'static str = "gives every request an identifier";
    type Compiled = Compiled;

    fn compile(&self, _: Option<&Compiled>) -> Result<Compiled, Vec<Fault>> {
        Ok(Compiled { header: self.header.0.clone() })
    }
}

impl Policy for Compiled {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        let sent = exchange.request.headers.get_str(&self.header);
        let sent = sent.filter(|id| (1..=MAX_BYTES).contains(&id.len())).and_then(|id| HeaderValue::from_str(id).ok());
        let id = match sent {
            Some(id) => {
                exchange.set_request_id(id.clone());
                id
            }
            None => exchange.request_id().clone(),
        };
        exchange.request.headers.insert(&self.header, &id);
        exchange.respond_with(self.header.clone(), id);
        Outcome::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check;
    use crate::snapshot::Snapshot;

    /// The identifier on the request that is forwarded, which the response has too.
    fn identifier(sent: &[(&'static str, &str)]) -> String {
        let policy = RequestId::default().compile(None).expect("a policy");
        let mut exchange = Exchange::sample(Snapshot::default(), "/", sent);
        let (response, rejection) = check(&policy, &mut exchange);
        assert!(rejection.is_none());
        let forwarded = exchange.request.headers.get_str("x-request-id");
        assert_eq!(forwarded, response.get_str("x-request-id"));
        forwarded.expect("text").to_owned()
    }

    #[test]
    fn a_good_identifier_is_kept_and_others_are_replaced() {
        assert_eq!(identifier(&[("x-request-id", "abc")]), "abc");
        let long = "x".repeat(MAX_BYTES + 1);
        for sent in [&[][..], &[("x-request-id", "")], &[("x-request-id", "\u{e4}")], &[("x-request-id", &long)]] {
            let made = uuid::Uuid::parse_str(&identifier(sent)).expect("a UUID");
            assert_eq!(made.get_version_num(), 7);
        }
    }
}
