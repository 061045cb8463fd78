//! When requests of a route are tried again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::service::{Backoff, GrpcCode, Retries};

/// When requests of a route are tried again (HTTPRoute, Retry): each field in place of what `retries` of the service say, which
/// hold for everything else, the methods and the budget among it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteRetries {
    /// How often a request is tried again; 0: never. Default: that of the service. At most 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u8>,
    /// After responses of these statuses, 400 to 599. Default: those of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<u16>>,
    /// After calls of gRPC that end with one of these codes and nothing else. Default: those of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_codes: Option<Vec<GrpcCode>>,
    /// The wait before a target is asked again. Default: that of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

impl RouteRetries {
    /// What holds for a service that says this.
    #[must_use]
    pub fn joined(&self, service: &Retries) -> Retries {
        let Self { attempts, statuses, grpc_codes, backoff } = self.clone();
        let mut joined = service.clone();
        joined.attempts = attempts.unwrap_or(joined.attempts);
        joined.statuses = statuses.unwrap_or(joined.statuses);
        joined.grpc_codes = grpc_codes.unwrap_or(joined.grpc_codes);
        joined.backoff = backoff.unwrap_or(joined.backoff);
        joined
    }

    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        self.joined(&Retries::default()).check(faults);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::written;

    fn read(value: serde_json::Value) -> RouteRetries {
        written::read(value).unwrap_or_else(|_| panic!("retries"))
    }

    #[test]
    fn each_field_takes_the_place_of_that_of_the_service() {
        let service = Retries { attempts: 2, statuses: vec![502], buffer_bytes: 7, ..Retries::default() };
        assert_eq!(read(json!({})).joined(&service), service);
        let expected = Retries { attempts: 4, statuses: Vec::new(), ..service.clone() };
        assert_eq!(read(json!({"attempts": 4, "statuses": []})).joined(&service), expected);
    }

    #[test]
    fn what_a_service_may_not_say_a_route_may_not() {
        let faults = |value| {
            let mut faults = Vec::new();
            read(value).check(&mut faults);
            faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        assert_eq!(faults(json!({"attempts": 6})), ["/retries/attempts"]);
        assert_eq!(faults(json!({"statuses": [503, 200]})), ["/retries/statuses/1"]);
        assert_eq!(faults(json!({"backoff": {"base": "2s", "max": "1s"}})), ["/retries/backoff/base"]);
        assert!(faults(json!({"attempts": 0, "grpc_codes": ["unavailable"]})).is_empty());
    }
}
