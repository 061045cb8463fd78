//! The part of a request's life that its service takes part in.

use std::rc::Rc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderValue, StatusCode, Version};
use model::exchange::ResponseHead;
use model::policy::grpc_web::format_of_grpc;
use model::rejection::Rejection;
use model::snapshot::{Route, Service, Snapshot};

use super::record::Record;
use super::{Reply, fields, grpc, mirror};
use crate::body::Body;
use crate::grpc_web;
use crate::interim::SharedInterim;
use crate::proxy_protocol::Addresses;
use crate::upstream::{End, Forwarding, RouteTerms, TimeLimits, UpstreamError, UpstreamRequest, UpstreamResponse};

/// What goes to the service besides the head.
pub struct Onward {
    pub body: Body,
    /// The protocol that the client would like to switch to.
    pub upgrade: Option<HeaderValue>,
    pub interim: Option<SharedInterim>,
}

/// A request that is ready to go, and what the reply to it depends on.
struct Ready {
    forwarding: Forwarding,
    wants_upgrade: bool,
    idle: Duration,
}

/// Sends the request to its service and makes the reply from what comes back.
pub async fn forward(
    record: &mut Record,
    snapshot: &Rc<Snapshot>,
    route: &Route,
    onward: Onward,
) -> Result<Reply, Rejection> {
    let Ready { mut forwarding, wants_upgrade, idle } = prepare(record, snapshot, route, onward)?;
    let response = forwarding.answer().await.map_err(|unanswered| {
        (record.target, record.attempts) = (unanswered.target, unanswered.attempts);
        unanswered.error.rejection()
    })?;
    let tag = response.tag;
    let mut reply = reply(record, response, wants_upgrade, idle)?;
    if let Some(tag) = tag {
        stick(record, &mut reply, tag);
    }
    if record.speaks_grpc() {
        reply.body = reply.body.with_farewell(grpc::farewell);
    }
    let call = record
        .exchange
        .grpc_web
        .filter(|_| reply.head.headers.get_str(CONTENT_TYPE).and_then(format_of_grpc).is_some());
    if let Some(call) = call {
        reply.body = grpc_web::response(reply.body, call);
    }
    Ok(reply)
}

/// What is done before the wait is no part of the future that waits, which every connection has the memory for.
fn prepare(
    record: &mut Record,
    snapshot: &Rc<Snapshot>,
    route: &Route,
    mut onward: Onward,
) -> Result<Ready, Rejection> {
    let service = record.exchange.service.and_then(|slot| Some((slot, snapshot.services.get(slot)?)));
    let Some((slot, service)) = service else { return Err(no_backend()) };
    let idle = route.timeouts().idle.unwrap_or(service.timeouts.idle).get();
    let wants_upgrade = onward.upgrade.is_some();
    if let Some(call) = record.exchange.grpc_web {
        onward.body = grpc_web::request(onward.body, call);
    }
    let time = time_limits(record, route, service)?;
    let mut request = request(record, onward, time, idle);
    let backend = record.exchange.backend;
    let mirrors = [route.mirrors(), route.backend_mirrors(backend)];
    let is_mirrored = mirrors.iter().any(|list| !list.is_empty());
    let connection = &record.connection;
    if service.proxy_protocol.is_some() || is_mirrored {
        let (source, destination) = (record.exchange.client.address, connection.destination);
        request.ends = Some(Box::new(Addresses { source, destination }));
    }
    if is_mirrored {
        mirror::mirror(&connection.core, snapshot, mirrors.into_iter().flatten(), &mut request);
    }
    let terms = RouteTerms { subset: route.subset(backend), retries: route.retries(), importance: route.importance() };
    let forwarding = connection.core.upstreams.forward(snapshot, slot, terms, request);
    Ok(Ready { forwarding, wants_upgrade, idle })
}

fn time_limits(record: &Record, route: &Route, service: &Service) -> Result<TimeLimits, Rejection> {
    let own = route.timeouts();
    let asked = if record.speaks_grpc() { grpc::timeout(&record.exchange.request.headers)? } else { None };
    let end = |after: Duration, is_of_client| {
        let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        End { at_ns: record.exchange.time.monotonic_ns.saturating_add(after_ns), is_of_client }
    };
    let ends = [own.request.map(|whole| end(whole.get(), false)), asked.map(|asked| end(asked, true))];
    let exchange = own.backend_request.map(|exchange| exchange.get());
    Ok(TimeLimits {
        head: exchange.unwrap_or(service.timeouts.request.get()),
        exchange,
        whole: ends.into_iter().flatten().min_by_key(|end| end.at_ns),
        is_call: record.speaks_grpc(),
    })
}

/// Gives the client a cookie by which it comes back to its target.
#[cold]
fn stick(record: &Record, reply: &mut Reply, tag: u64) {
    if let Some(sticky) = record.exchange.service().and_then(|service| service.sticky.as_ref()) {
        reply.head.headers.append(&SET_COOKIE, &sticky.set(tag, record.exchange.client.scheme));
    }
}

/// Every backend of the route has weight 0 (HTTPRoute, BackendRefs).
fn no_backend() -> Rejection {
    let detail = "The route leads to no service at the moment.";
    Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "no-backend", detail)
}

fn request(record: &mut Record, onward: Onward, time: TimeLimits, idle: Duration) -> UpstreamRequest {
    let core = &record.connection.core;
    // Whoever looks at the request from here on finds what routing and policies decided, not its fields.
    let mut headers = std::mem::take(&mut record.exchange.request.headers);
    if let Some(protocol) = onward.upgrade {
        fields::switch_protocols(&mut headers, &protocol);
    }
    if core.via {
        fields::via(&mut headers, record.version);
    }
    let mut body = onward.body;
    if !body.is_empty() {
        let limits = &record.connection.terms.limits;
        body = body.with_limit(limits.body_bytes);
        // A call of gRPC may have nothing to say for a while.
        body = match record.is_grpc {
            true => body.with_idle_timeout(&core.clock, idle),
            false => body.with_pace_of_client(&core.clock, limits),
        };
        record.tally = Some(body.tally());
    }
    UpstreamRequest {
        method: record.exchange.request.method.clone(),
        target: record.rewritten.take().unwrap_or_else(|| record.exchange.request.target.clone()),
        headers,
        body,
        interim: onward.interim,
        ends: None,
        time,
        hash: record.hash,
        tag: record.tag,
    }
}

fn reply(
    record: &mut Record,
    response: UpstreamResponse,
    wants_upgrade: bool,
    idle: Duration,
) -> Result<Reply, Rejection> {
    let UpstreamResponse {
        head: ResponseHead { status, mut headers },
        body,
        upgrade,
        target,
        head_ns,
        attempts,
        tag: _,
    } = response;
    record.target = Some(target);
    (record.upstream_ns, record.attempts) = (Some(head_ns), attempts);
    let core = &record.connection.core;
    let switched = (status == StatusCode::SWITCHING_PROTOCOLS)
        .then(|| headers.get(http::header::UPGRADE).and_then(|protocol| HeaderValue::from_bytes(protocol).ok()));
    fields::clean_response(&mut headers);
    if core.via {
        fields::via(&mut headers, Version::HTTP_11);
    }
    if let Some(protocol) = switched {
        let (Some(service), Some(protocol), true) = (upgrade, protocol, wants_upgrade) else {
            return Err(UpstreamError::BadResponse("it switched protocols unasked".into()).rejection());
        };
        fields::switch_protocols(&mut headers, &protocol);
        record.tunnel = Some((service, idle));
        return Ok(Reply { head: ResponseHead { status, headers }, body: Body::empty() });
    }
    let body = body.with_idle_timeout(&core.clock, idle).with_pace(record.connection.withheld.clone());
    let body = body.with_strained_trailers(Box::new(fields::clean_response_trailers));
    Ok(Reply { head: ResponseHead { status, headers }, body })
}
