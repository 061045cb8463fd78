//! One request in flight: all that a policy may touch.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::fields::Fields;
use crate::policy::grpc_web;
use crate::router;
use crate::slots::Slot;
use crate::snapshot::{Consumer, Route, Service, Snapshot};

mod client_certificate;

pub use client_certificate::{AlternativeName, ClientCertificate};

/// One request in flight. It is served by one snapshot from beginning to end, and stays on its core.
pub struct Exchange {
    pub snapshot: Rc<Snapshot>,
    pub request: RequestHead,
    pub client: Client,
    /// What the client has proved to hold, on a connection whose listener asks for it.
    pub client_certificate: Option<Rc<ClientCertificate>>,
    pub time: Time,
    /// The listener that it came in through.
    pub listener: Option<Slot>,
    /// Set by the router.
    pub route: Option<Slot>,
    /// The backend that was drawn for it; absent where the gateway answers itself.
    pub service: Option<Slot>,
    /// Its place in the list of the route's backends.
    pub backend: usize,
    /// Set by the policy that recognised the caller.
    pub consumer: Option<Slot>,
    /// Set by the policy that takes calls of gRPC-Web: the bodies are to be translated.
    pub grpc_web: Option<grpc_web::Call>,
    request_id: Option<HeaderValue>,
    entropy: u64,
    response_fields: Vec<(HeaderName, HeaderValue)>,
}

/// The head of a request, with what routing and policies decide on in canonical form.
pub struct RequestHead {
    pub method: Method,
    /// In lower case, without port; empty if the client named none.
    pub host: Rc<str>,
    /// Canonical: routing, policies, the log and the service see this same value.
    pub target: PathAndQuery,
    pub headers: Fields,
}

/// The head of a response, from a service or from the gateway itself.
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: Fields,
}

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub address: SocketAddr,
    pub scheme: Scheme,
}

/// How the client speaks to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// When the request came in, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Nanoseconds on a clock that only goes forward; its zero is the start of the process.
    pub monotonic_ns: u64,
    pub unix_ms: u64,
}

impl Exchange {
    /// `entropy` is a random number; identifiers are made from it.
    #[must_use]
    pub fn new(snapshot: Rc<Snapshot>, request: RequestHead, client: Client, time: Time, entropy: u64) -> Self {
        Self {
            snapshot,
            request,
            client,
            client_certificate: None,
            time,
            listener: None,
            route: None,
            service: None,
            backend: 0,
            consumer: None,
            grpc_web: None,
            request_id: None,
            entropy,
            response_fields: Vec::new(),
        }
    }

    /// What routing looks at.
    #[must_use]
    pub fn asks(&self) -> router::Request<'_> {
        let RequestHead { method, host, target, headers } = &self.request;
        let source = Some(self.client.address.ip());
        let (path, query) = (target.path(), target.query());
        router::Request { listener: self.listener, source, host, path, method, headers, query }
    }

    #[must_use]
    pub fn route(&self) -> Option<&Route> {
        self.snapshot.routes.get(self.route?)
    }

    #[must_use]
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.snapshot.services.get(self.service?)
    }

    #[must_use]
    pub fn consumer(&self) -> Option<&Arc<Consumer>> {
        self.snapshot.consumers.get(self.consumer?)
    }

    /// The identifier of this request. It is made when first asked for, unless a policy has set one.
    pub fn request_id(&mut self) -> &HeaderValue {
        let (time, entropy) = (self.time, self.entropy);
        self.request_id.get_or_insert_with(|| new_request_id(time, entropy))
    }

    pub fn set_request_id(&mut self, id: HeaderValue) {
        self.request_id = Some(id);
    }

    /// Sets a field on whatever response leaves for this request, from the service or the gateway.
    pub fn respond_with(&mut self, name: HeaderName, value: HeaderValue) {
        self.response_fields.push((name, value));
    }

    /// Puts the fields of [`Exchange::respond_with`] onto the response.
    pub fn finish_head(&mut self, head: &mut ResponseHead) {
        for (name, value) in self.response_fields.drain(..) {
            head.headers.insert(&name, &value);
        }
    }
}

#[cfg(test)]
impl Exchange {
    /// `GET http://api.test{target}` from 192.0.2.1, a second after the start of the process.
    pub(crate) fn sample(snapshot: Snapshot, target: &'static str, fields: &[(&'static str, &str)]) -> Self {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a field value"))
        };
        let request = RequestHead {
            method: Method::GET,
            host: "api.test".into(),
            target: PathAndQuery::from_static(target),
            headers: Fields::default(),
        };
        let client = Client { address: SocketAddr::from(([192, 0, 2, 1], 40_000)), scheme: Scheme::Http };
        let time = Time { monotonic_ns: 1_000_000_000, unix_ms: 1_700_000_000_000 };
        let mut exchange = Self::new(Rc::new(snapshot), request, client, time, 7);
        for (name, value) in fields.iter().map(field) {
            exchange.request.headers.append(&name, &value);
        }
        exchange
    }
}

/// A version 7 UUID (RFC 9562 section 5.7).
fn new_request_id(time: Time, entropy: u64) -> HeaderValue {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&entropy.to_be_bytes());
    // The clock's low bits differ between two requests even where the entropy of one core repeats.
    random[8..].copy_from_slice(&time.monotonic_ns.to_be_bytes()[6..]);
    let id = uuid::Builder::from_unix_timestamp_millis(time.unix_ms, &random).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("a UUID is a header value")
}
