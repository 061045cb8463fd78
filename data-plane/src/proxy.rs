//! The life of a request, from its head to the last byte of its answer.

use std::rc::Rc;

use http::header::{ALLOW, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use model::exchange::{Exchange, ResponseHead};
use model::fields::Fields;
use model::hashing::hash_of;
use model::policy::Chain;
use model::rejection::Rejection;
use model::snapshot::{Action, FixedResponse};

use crate::body::Body;
use crate::listener::connection::Connection;

pub mod fields;
mod filters;
mod forward;
pub mod forwarded;
mod grpc;
pub mod intake;
pub mod mirror;
pub mod record;
pub mod reject;
mod spelling;

use intake::{Intake, Received};
use record::Record;

/// The revision that served a request, for listeners that tell.
const REVISION: HeaderName = HeaderName::from_static("sluice-revision");

/// An answer on its way to the client.
pub struct Reply {
    pub head: ResponseHead,
    pub body: Body,
}

/// Answers one request.
pub async fn answer(connection: &Rc<Connection>, request: Received, body: Body) -> Reply {
    let Intake { head, client, version, upgrade, interim, body, spelled, fault } =
        intake::take(request, body, connection);
    let is_opening = upgrade.is_some() && version == Version::HTTP_2;
    let mut record = Record::begin(connection, head, client, version);
    let mut chain = Chain::default();
    let passed = match fault {
        Some(rejection) => {
            let Exchange { snapshot, listener, .. } = &record.exchange;
            let listener = listener.and_then(|slot| snapshot.listeners.get(slot));
            record.names_revision = listener.is_some_and(|listener| listener.revision_header);
            Err(rejection)
        }
        None => pass(&mut record, &mut chain, spelled, forward::Onward { body, upgrade, interim }).await,
    };
    let passed = passed.and_then(|reply| if is_opening { opened(reply) } else { Ok(reply) });
    let mut reply = passed.unwrap_or_else(|rejection| reject::reply(&rejection, &mut record));
    if record.is_filtered {
        filters::change_response(&record.exchange, &mut reply.head);
    }
    chain.on_response(&mut record.exchange, &mut reply.head);
    record.exchange.finish_head(&mut reply.head);
    if record.names_revision
        && let Some(revision) = &record.exchange.snapshot.revision_value
    {
        reply.head.headers.insert(&REVISION, revision);
    }
    record.finish(reply)
}

/// Finds the route, runs the policies, and gets the answer that it leads to.
async fn pass(
    record: &mut Record,
    chain: &mut Chain,
    spelled: Option<Box<spelling::Received>>,
    onward: forward::Onward,
) -> Result<Reply, Rejection> {
    let exchange = &mut record.exchange;
    let snapshot = exchange.snapshot.clone();
    let listener = exchange.listener.and_then(|slot| snapshot.listeners.get(slot));
    record.names_revision = listener.is_some_and(|listener| listener.revision_header);
    let found = match spelled {
        None => snapshot.router.find(&exchange.asks()),
        Some(spelled) => spelled.find(&snapshot, exchange)?,
    };
    exchange.route = found.map(|found| found.route);
    let route = exchange.route.and_then(|slot| snapshot.routes.get(slot));
    if let Some((service, backend)) = route.and_then(|route| route.draw_service(fastrand::u64(..))) {
        (exchange.service, exchange.backend) = (Some(service), backend);
    }
    let service = exchange.service.and_then(|slot| snapshot.services.get(slot));
    *chain = Chain::merge(
        &snapshot,
        [
            &snapshot.everything,
            listener.map_or(&[], |listener| &listener.policies),
            service.map_or(&[], |service| &service.policies),
            route.map_or(&[], |route| route.policies()),
        ],
    );
    if let Err(rejection) = chain.on_request(exchange).await {
        record.policy = chain.last().map(|step| step.policy);
        return Err(rejection);
    }
    if !chain.steps().is_empty() {
        record.connection.core.clock.forget();
    }
    let (Some(found), Some(route)) = (found, route) else { return without_route(&record.exchange) };
    if let Some(key) = service.and_then(|service| service.load_balancing.hash_key()) {
        record.hash = hash_of(key, &record.exchange, Some(&found));
    }
    if let Some(sticky) = service.and_then(|service| service.sticky.as_ref()) {
        record.tag = sticky.read(&record.exchange);
    }
    record.is_filtered = route.filters_of(record.exchange.backend).next().is_some();
    match &route.action {
        Action::Respond(fixed) => Ok(fixed_reply(fixed, &record.exchange.request.method)),
        Action::Redirect(redirect) => filters::redirect(record, &found, redirect),
        Action::Forward(_) | Action::Split(_) => {
            if record.is_filtered {
                let filters = route.filters_of(record.exchange.backend);
                filters::change_request(record, &found, filters)?;
            }
            forward::forward(record, &snapshot, route, onward).await
        }
    }
}

/// What is asked about the gateway as a whole it answers itself (RFC 9110 section 9.3.7).
#[cold]
fn without_route(exchange: &Exchange) -> Result<Reply, Rejection> {
    if exchange.request.target.path() != spelling::ASTERISK {
        return Err(Rejection::new(StatusCode::NOT_FOUND, "no-route", "No route matches this request."));
    }
    let mut headers = Fields::default();
    headers.append(&ALLOW, &HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    headers.append(&CONTENT_LENGTH, &HeaderValue::from_static("0"));
    Ok(Reply { head: ResponseHead { status: StatusCode::OK, headers }, body: Body::empty() })
}

/// Any 2xx would tell a client of HTTP/2 that its WebSocket is open (RFC 8441 section 5): it gets none unless it is.
fn opened(reply: Reply) -> Result<Reply, Rejection> {
    if !reply.head.status.is_success() {
        return Ok(reply);
    }
    Err(Rejection::new(StatusCode::BAD_GATEWAY, "websocket-unopened", "The service opened no WebSocket."))
}

fn fixed_reply(fixed: &FixedResponse, method: &Method) -> Reply {
    let mut headers = Fields::default();
    headers.append(&http::header::CONTENT_TYPE, &fixed.content_type);
    Reply { head: ResponseHead { status: fixed.status, headers }, body: Body::full(fixed.body.clone()) }
        .without_body_for(method)
}

impl Reply {
    /// What a HEAD request gets: the fields of the answer, its length among them, and no body (RFC 9110 section 9.3.2).
    fn without_body_for(mut self, method: &Method) -> Self {
        if method == Method::HEAD {
            if let Some(length) = http_body::Body::size_hint(&self.body).exact() {
                self.head.headers.insert(&http::header::CONTENT_LENGTH, &length.into());
            }
            self.body = Body::empty();
        }
        self
    }
}
