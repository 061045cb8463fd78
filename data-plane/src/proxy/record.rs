//! One request from its beginning to its end, however it ends: what the log and the metrics say about it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Version};
use model::exchange::{Client, Exchange, RequestHead};
use model::rejection::Rejection;
use model::slots::Slot;

use super::Reply;
use crate::body::{End, Ending, Failure, Tally};
use crate::listener::Tunnel;
use crate::listener::connection::Connection;
use crate::telemetry::RequestRecord;
use crate::upstream::Upgraded;

/// One request. Dropping it is its end.
pub struct Record {
    pub connection: Rc<Connection>,
    pub exchange: Exchange,
    pub version: Version,
    /// The client speaks gRPC.
    pub is_grpc: bool,
    pub status: Option<StatusCode>,
    /// Why the gateway answered itself, or why the answer broke off.
    pub code: Option<&'static str>,
    /// The policy that rejected.
    pub policy: Option<Slot>,
    /// It came as far as the filters of its route, and there are some.
    pub is_filtered: bool,
    /// Its answer names the revision.
    pub names_revision: bool,
    /// What the service gets in place of the target that the route was found by.
    pub rewritten: Option<PathAndQuery>,
    /// The hash of its key, for services that go by one.
    pub hash: Option<u64>,
    /// The number in its sticky cookie, for services that have one.
    pub tag: Option<u64>,
    pub target: Option<Rc<str>>,
    pub upstream_ns: Option<u64>,
    /// How often the service was tried.
    pub attempts: u8,
    /// Of the request body, while it comes.
    pub tally: Option<Rc<Tally>>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// What the connection becomes after this request, and how long that may idle.
    pub tunnel: Option<(Upgraded, Duration)>,
    /// For the log.
    user_agent: Option<Bytes>,
}

impl Record {
    /// Begins a request with the snapshot that will serve it.
    pub fn begin(connection: &Rc<Connection>, head: RequestHead, client: Client, version: Version) -> Box<Self> {
        connection.request_begins();
        let core = &connection.core;
        core.telemetry.metrics.request_started();
        let is_grpc = version == Version::HTTP_2 && head.headers.get(CONTENT_TYPE).is_some_and(is_grpc);
        let user_agent = core.telemetry.has_log().then(|| head.headers.share(USER_AGENT)).flatten();
        let mut exchange = Exchange::new(core.snapshot(), head, client, core.clock.now(), fastrand::u64(..));
        exchange.listener = connection.listener.slot.get();
        exchange.client_certificate = connection.tls.get().and_then(|tls| tls.client_certificate.clone());
        Box::new(Self {
            connection: connection.clone(),
            exchange,
            version,
            is_grpc,
            status: None,
            code: None,
            policy: None,
            is_filtered: false,
            names_revision: false,
            rewritten: None,
            hash: None,
            tag: None,
            target: None,
            upstream_ns: None,
            attempts: 0,
            tally: None,
            bytes_in: 0,
            bytes_out: 0,
            tunnel: None,
            user_agent,
        })
    }

    /// The client speaks gRPC, or gRPC-Web where that is taken for it.
    pub fn speaks_grpc(&self) -> bool {
        self.is_grpc || self.exchange.grpc_web.is_some()
    }

    pub fn rejected(&mut self, rejection: &Rejection) {
        self.code = Some(rejection.code);
    }

    /// Lets the reply go, and ends when its body does or when the tunnel that it opens closes.
    pub fn finish(mut self: Box<Self>, mut reply: Reply) -> Reply {
        self.status = Some(reply.head.status);
        reply.body = match self.tunnel.take() {
            Some((service, idle)) => {
                let connection = self.connection.clone();
                connection.tunnel.replace(Some(Tunnel { service, idle, record: self }));
                reply.body
            }
            None => reply.body.with_end(self),
        };
        reply
    }
}

/// `application/grpc`, `application/grpc+proto` and the like; not gRPC-Web.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl End for Record {
    fn taken(&mut self, bytes: u64) {
        self.bytes_out = bytes;
    }

    fn end(mut self: Box<Self>, ending: Ending) {
        match ending {
            Ending::Complete => {}
            Ending::Failed(Failure::Late) => self.code = Some("response-late"),
            Ending::Failed(_) => self.code = Some("response-broken"),
            Ending::Dropped => self.code = Some("client-gone"),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.code = Some("panic");
            let (route, revision) =
                (self.exchange.route().map(|route| route.name.as_str()), self.exchange.snapshot.revision);
            tracing::error!(route.name = route, config.revision = revision, "a request ended by a panic");
        } else if self.status.is_none() {
            self.code = Some("client-gone");
        }
        self.connection.request_ended();
        let exchange = &mut self.exchange;
        let snapshot = exchange.snapshot.clone();
        let bytes_in = self.tally.as_ref().map_or(self.bytes_in, |tally| tally.bytes.get());
        let core = &self.connection.core;
        // Where the answer came in this poll, that was just now.
        let now = if self.upstream_ns.is_some() { core.clock.recent() } else { core.clock.now() };
        let request_id = core.telemetry.has_log().then(|| exchange.request_id().clone());
        core.telemetry.ended(&RequestRecord {
            time_unix_ms: exchange.time.unix_ms,
            request_id: request_id.as_ref().map_or(&[], HeaderValue::as_bytes),
            method: &exchange.request.method,
            host: &exchange.request.host,
            path: exchange.request.target.path(),
            protocol: self.version,
            client: exchange.client.address,
            client_certificate: exchange.client_certificate.as_deref(),
            user_agent: self.user_agent.as_deref(),
            route: exchange.route.and_then(|slot| Some((slot, &snapshot.routes.get(slot)?.name))),
            service: exchange.service.and_then(|slot| Some((slot, &snapshot.services.get(slot)?.name))),
            target: self.target.as_deref(),
            consumer: exchange.consumer().map(|consumer| &consumer.name),
            status: self.status,
            code: self.code,
            policy: self.policy.and_then(|slot| Some(&snapshot.policies.get(slot)?.name)),
            revision: snapshot.revision,
            duration_ns: now.monotonic_ns.saturating_sub(exchange.time.monotonic_ns),
            upstream_ns: self.upstream_ns,
            attempts: self.attempts,
            bytes_in,
            bytes_out: self.bytes_out,
        });
    }
}
