//! A request on its way to a target: the form for each protocol, and how far its body has got.

use std::cell::Cell;
use std::rc::Rc;

use bytes::BytesMut;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Uri, Version, header};
use model::fields::Fields;

use super::UpstreamRequest;
use super::connect::Purpose;
use super::pool::Pool;
use crate::body::{Body, End, Ending, Failure, Tally};
use crate::clock::Clock;
use crate::http1::{Length, request_head};

/// A request that has not been sent.
pub(super) struct Outgoing {
    method: Method,
    target: PathAndQuery,
    headers: Fields,
    body: Body,
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
    /// Without a body there is no upload to follow.
    pub(super) fn new(request: UpstreamRequest, clock: &Clock) -> (Self, Option<Rc<Upload>>) {
        let UpstreamRequest { method, target, headers, mut body, interim: _, ends: _, time: _ } = request;
        let mut upload = None;
        if !body.is_empty() {
            let tally = body.tally();
            let follow = Rc::new(Upload {
                clock: clock.clone(),
                tally,
                ended_ns: Cell::new(None),
                is_complete: Cell::new(false),
            });
            body = body.with_end(Box::new(UploadEnd(Rc::clone(&follow))));
            upload = Some(follow);
        }
        (Self { method, target, headers, body }, upload)
    }

    pub(super) fn purpose(&self) -> Purpose {
        if self.headers.contains_key(header::UPGRADE) { Purpose::Upgrade } else { Purpose::Any }
    }

    /// Whether a service may get it more than once (RFC 9110 section 9.2.2), and whether all of it is at hand again.
    pub(super) fn is_repeatable(&self) -> bool {
        self.body.is_empty() && self.method.is_idempotent()
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// How long its body is, as HTTP/1.1 tells it.
    pub(super) fn length(&self) -> Length {
        http_body::Body::size_hint(&self.body).exact().map_or(Length::Chunked, Length::Exact)
    }

    pub(super) fn take_body(&mut self) -> Body {
        std::mem::replace(&mut self.body, Body::empty())
    }

    pub(super) fn write_http1(&self, out: &mut BytesMut, pool: &Pool, length: Length) {
        let host = (!self.headers.contains_key(header::HOST)).then_some(&pool.host);
        request_head(out, &self.method, &self.target, host, &self.headers, length);
    }

    /// The host goes into the pseudo-header.
    pub(super) fn into_http2(self, pool: &Pool) -> Request<Body> {
        let Self { method, target, mut headers, body } = self;
        let authority = headers.get(header::HOST).and_then(|host| Authority::try_from(host).ok());
        headers.remove(header::HOST);
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if pool.endpoint.url.https { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority.unwrap_or_else(|| pool.authority.clone()));
        parts.path_and_query = Some(target);
        let mut message = Request::new(body);
        *message.method_mut() = method;
        *message.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
        *message.headers_mut() = headers.into_map();
        *message.version_mut() = Version::HTTP_2;
        message
    }

    /// What a connection gave back because it wrote nothing of it.
    pub(super) fn recovered(message: Request<Body>) -> Self {
        let (parts, body) = message.into_parts();
        let (uri, mut headers) = (parts.uri.into_parts(), Fields::from(&parts.headers));
        if let Some(host) = uri.authority.and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
            headers.insert(&header::HOST, &host);
        }
        let target = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self { method: parts.method, target, headers, body }
    }
}

impl Upload {
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
