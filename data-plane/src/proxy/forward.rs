//! The part of a request's life that its service takes part in.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use model::exchange::ResponseHead;
use model::rejection::Rejection;

use super::record::Record;
use super::{Reply, fields, intake};
use crate::body::{Body, Failure, Tally};
use crate::upstream::{UpstreamError, UpstreamRequest, UpstreamResponse};

/// What goes to the service besides the head.
pub struct Onward {
    pub body: Body,
    /// The protocol that the client would like to switch to.
    pub upgrade: Option<HeaderValue>,
}

/// Sends the request to its service and makes the reply from what comes back.
pub async fn forward(record: &mut Record, onward: Onward) -> Result<Reply, Rejection> {
    let connection = record.connection.clone();
    let core = &connection.core;
    let snapshot = record.exchange.snapshot.clone();
    let Some((slot, service)) = record.exchange.service.zip(record.exchange.service()) else {
        return Err(UpstreamError::NoTarget.rejection());
    };
    let own = record.exchange.route().and_then(|route| route.timeouts.as_deref());
    let timeout = own.and_then(|own| own.request).unwrap_or(service.timeouts.request).get();
    let idle = own.and_then(|own| own.idle).unwrap_or(service.timeouts.idle).get();

    let wants_upgrade = onward.upgrade.is_some();
    let tally = (!onward.body.is_empty()).then(Rc::<Tally>::default);
    record.tally = tally.clone();
    let request = request(record, onward, timeout);
    let sent_ns = core.clock.now().monotonic_ns;
    let forwarded = core.upstreams.forward(&snapshot, slot, request).await;
    record.upstream_ns = Some(core.clock.now().monotonic_ns - sent_ns);
    match forwarded {
        Ok(response) => reply(record, response, wants_upgrade, idle),
        Err(error) => Err(body_failure(tally.as_deref()).unwrap_or_else(|| error.rejection())),
    }
}

fn request(record: &mut Record, onward: Onward, timeout: Duration) -> UpstreamRequest {
    let core = &record.connection.core;
    // Whoever looks at the request from here on finds what routing and policies decided, not its fields.
    let mut headers = std::mem::take(&mut record.exchange.request.headers);
    if let Some(protocol) = onward.upgrade {
        fields::switch_protocols(&mut headers, protocol);
    }
    if core.via {
        fields::via(&mut headers, record.version);
    }
    let mut body = onward.body;
    if let Some(tally) = &record.tally {
        body = body
            .with_limit(core.limits.body_bytes)
            .with_minimum_rate(&core.clock, core.limits.body_rate, core.limits.body_grace)
            .with_tally(tally.clone());
    }
    UpstreamRequest {
        method: record.exchange.request.method.clone(),
        target: record.exchange.request.target.clone(),
        headers,
        body,
        timeout,
    }
}

fn reply(
    record: &mut Record,
    response: UpstreamResponse,
    wants_upgrade: bool,
    idle: Duration,
) -> Result<Reply, Rejection> {
    let UpstreamResponse { head: ResponseHead { status, mut headers }, body, upgrade, endpoint } = response;
    record.target = Some(endpoint);
    let core = &record.connection.core;
    let switched = (status == StatusCode::SWITCHING_PROTOCOLS).then(|| headers.get(http::header::UPGRADE).cloned());
    fields::clean_response(&mut headers);
    if core.via {
        fields::via(&mut headers, http::Version::HTTP_11);
    }
    if let Some(protocol) = switched {
        let (Some(service), Some(protocol), true) = (upgrade, protocol, wants_upgrade) else {
            return Err(UpstreamError::BadResponse("it switched protocols unasked".into()).rejection());
        };
        fields::switch_protocols(&mut headers, protocol);
        record.tunnel = Some((service, idle));
        return Ok(Reply { head: ResponseHead { status, headers }, body: Body::empty() });
    }
    let body = body.with_idle_timeout(&core.clock, idle).with_pace(record.connection.withheld.clone());
    Ok(Reply { head: ResponseHead { status, headers }, body })
}

/// The answer when it was the client's body that failed.
fn body_failure(tally: Option<&Tally>) -> Option<Rejection> {
    let failed = |status, code, detail| Rejection::new(status, code, detail);
    Some(match tally?.failure.get()? {
        Failure::TooLarge => intake::body_too_large(),
        Failure::TooSlow | Failure::Idle => {
            failed(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "The body of the request came too slowly.")
        }
        Failure::Broken => {
            failed(StatusCode::BAD_REQUEST, "bad-request-body", "The body of the request did not arrive whole.")
        }
    })
}
