//! A request on its way to a target: the form for each protocol, and how far the body of the client has got.

use std::cell::Cell;
use std::rc::Rc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version, header};
use model::fields::Fields;

use super::pool::Pool;
use crate::body::{Body, End, Ending, Failure, Tally};
use crate::clock::Clock;
use crate::http1::{Length, request_head};

/// A request without its body. It is the same for all attempts.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) headers: Fields,
}

/// How far the body of a request has got.
pub(super) struct Upload {
    clock: Clock,
    tally: Rc<Tally>,
    ended_ns: Cell<Option<u64>>,
    /// It was taken to its end.
    is_complete: Cell<bool>,
}

/// Tells the upload of its end.
struct UploadEnd(Rc<Upload>);

impl Outgoing {
    pub(super) fn write_http1(&self, out: &mut Vec<u8>, pool: &Pool, length: Length) {
        let host = (!self.headers.contains_key(header::HOST)).then_some(&pool.host);
        request_head(out, &self.method, &self.target, host, &self.headers, length);
    }

    /// The host goes into the pseudo-header.
    pub(super) fn http2(&self, body: &Body, pool: &Pool) -> Request<()> {
        let mut headers = self.headers.to_map();
        let authority = headers.remove(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        // As over HTTP/1.1: a body of no bytes is told of only where a method has a meaning for one.
        let is_told = |length: &u64| *length > 0 || matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        if let Some(length) = http_body::Body::size_hint(body).exact().filter(is_told) {
            headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if pool.endpoint.url.https { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority.unwrap_or_else(|| pool.authority.clone()));
        parts.path_and_query = Some(self.target.clone());
        let mut message = Request::new(());
        *message.method_mut() = self.method.clone();
        *message.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
        *message.headers_mut() = headers;
        *message.version_mut() = Version::HTTP_2;
        message
    }
}

impl Upload {
    /// Without a body there is nothing to follow.
    pub(super) fn follow(mut body: Body, clock: &Clock) -> (Body, Option<Rc<Self>>) {
        if body.is_empty() {
            return (body, None);
        }
        let tally = body.tally();
        let (clock, ended_ns, is_complete) = (clock.clone(), Cell::new(None), Cell::new(false));
        let upload = Rc::new(Self { clock, tally, ended_ns, is_complete });
        (body.with_end(Box::new(UploadEnd(Rc::clone(&upload)))), Some(upload))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.tally.failure.get()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.tally.bytes.get()
    }

    /// When its last byte was taken.
    pub(super) fn ended_ns(&self) -> Option<u64> {
        self.ended_ns.get()
    }
}

impl End for UploadEnd {
    fn end(self: Box<Self>, ending: Ending) {
        self.0.is_complete.set(ending == Ending::Complete);
        self.0.ended_ns.set(Some(self.0.clock.now().monotonic_ns));
    }
}
