//! Policies: the two traits, the ordered table, and what follows from a line in it.
//!
//! A new policy is one file in `policy/` and one line in [`POLICIES`]. Parsing, schema, admin validation,
//! distribution, running order, metrics and documentation follow.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::exchange::{Exchange, ResponseHead};
use crate::problem::Fault;
use crate::rejection::Rejection;
use crate::written;

mod chain;
pub mod grpc_web;
pub mod headers;
pub mod key_auth;
pub mod rate_limit;
pub mod request_id;

pub use chain::{Chain, Step};

/// Every policy type, in the order in which they run on a request; responses pass in reverse. A rejection
/// stops the requests of all that come later, so the order is from what everything needs to what few reach:
///
/// 1. `request-id`, so that every answer has an identifier, also each rejection below.
/// 2. `grpc-web`, so that each rejection below, and each answer, is told to browsers in the way of gRPC-Web; what comes
///    later sees a call of gRPC.
/// 3. `key-auth`, before whatever depends on who calls; it takes the credential off before anything else could
///    copy, log or forward it.
/// 4. `rate-limit`, after the caller is known, because it counts by caller; before work is done for the request.
///    Requests without a good credential are not counted: they cost one hash and never reach a service.
/// 5. `headers`, last, so that nothing above can be misled by fields that were put in or taken out here, and
///    what is set here is what the service gets. On the way back it is the first to see the service's response.
pub static POLICIES: &[PolicyKind] = &[
    PolicyKind::of::<request_id::RequestId>(),
    PolicyKind::of::<grpc_web::GrpcWeb>(),
    PolicyKind::of::<key_auth::KeyAuth>(),
    PolicyKind::of::<rate_limit::RateLimit>(),
    PolicyKind::of::<headers::Headers>(),
];

/// What a person writes in `config`, and how it becomes something that runs.
pub trait PolicySpec: Serialize + DeserializeOwned + JsonSchema + 'static {
    /// The word in `type`, `rate-limit` for example.
    const NAME: &'static str;
    /// One line for documentation.
    const SUMMARY: &'static str;
    type Compiled: Policy;

    /// Parses everything that a request would otherwise have to, and reports what the types cannot express.
    /// `previous` is what this policy compiled to before the change: counters may be carried over from it.
    fn compile(&self, previous: Option<&Self::Compiled>) -> Result<Self::Compiled, Vec<Fault>>;
}

/// A compiled policy. All requests share it; it acts on one exchange at a time and never calls another.
pub trait Policy: Any + Send + Sync {
    /// Before the request goes to the service.
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        let _ = exchange;
        Outcome::Continue
    }

    /// Before a response goes to the client, also when this or a later policy rejected the request.
    fn on_response(&self, exchange: &mut Exchange, head: &mut ResponseHead) {
        let _ = (exchange, head);
    }
}

/// What a policy decides about a request. Those that never wait allocate nothing.
pub enum Outcome<'a> {
    Continue,
    Reject(Rejection),
    Wait(Pin<Box<dyn Future<Output = Result<(), Rejection>> + 'a>>),
}

/// A line of [`POLICIES`]: one policy type with its types erased.
pub struct PolicyKind {
    pub name: &'static str,
    pub summary: &'static str,
    /// The schema of `config`.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    canonical: fn(Value) -> Result<Value, Vec<Fault>>,
    compile: CompileFn,
}

/// Makes the running form of a `config`, with the form before it at hand.
type CompileFn = fn(Value, Option<&dyn Policy>) -> Result<Arc<dyn Policy>, Vec<Fault>>;

impl PolicyKind {
    const fn of<S: PolicySpec>() -> Self {
        Self {
            name: S::NAME,
            summary: S::SUMMARY,
            schema: |generator| generator.subschema_for::<S>(),
            canonical: |config| {
                let spec: S = written::read(config)?;
                Ok(serde_json::to_value(&spec).expect("written forms are plain data"))
            },
            compile: |config, previous| {
                let spec: S = written::read(config)?;
                let previous = previous.and_then(|policy| (policy as &dyn Any).downcast_ref());
                Ok(Arc::new(spec.compile(previous)?))
            },
        }
    }

    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        POLICIES.iter().find(|kind| kind.name == name)
    }

    /// The names of all types.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        POLICIES.iter().map(|kind| kind.name)
    }

    /// Its place in the running order.
    #[must_use]
    pub fn order(&self) -> u8 {
        let place = POLICIES.iter().position(|kind| kind.name == self.name);
        u8::try_from(place.expect("kinds come from the table")).expect("fewer than 256 policy types")
    }

    /// Every fault in a `config`: what the types find, else what compiling finds.
    pub fn check(&self, config: &Value) -> Result<(), Vec<Fault>> {
        self.compile(config, None).map(drop)
    }

    /// Expands shorthands and drops defaults; a missing `config` is an empty one.
    pub fn canonical(&self, config: &Value) -> Result<Value, Vec<Fault>> {
        let canonical = (self.canonical)(or_empty(config))?;
        let is_empty = canonical.as_object().is_some_and(serde_json::Map::is_empty);
        Ok(if is_empty { Value::Null } else { canonical })
    }

    pub fn compile(&self, config: &Value, previous: Option<&dyn Policy>) -> Result<Arc<dyn Policy>, Vec<Fault>> {
        (self.compile)(or_empty(config), previous)
    }
}

fn or_empty(config: &Value) -> Value {
    match config {
        Value::Null => Value::Object(serde_json::Map::new()),
        config => config.clone(),
    }
}

/// What becomes of one request under one policy: the fields that it puts on every response, and the rejection.
#[cfg(test)]
fn check(policy: &dyn Policy, exchange: &mut Exchange) -> (crate::fields::Fields, Option<Rejection>) {
    let rejection = match policy.on_request(exchange) {
        Outcome::Continue => None,
        Outcome::Reject(rejection) => Some(rejection),
        Outcome::Wait(_) => panic!("no policy under test waits"),
    };
    let mut head = ResponseHead { status: http::StatusCode::OK, headers: crate::fields::Fields::default() };
    policy.on_response(exchange, &mut head);
    exchange.finish_head(&mut head);
    (head.headers, rejection)
}
