//! The head of a request as it came, checked and made canonical before anything decides by it.

use std::borrow::Cow;
use std::rc::Rc;

use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use model::exchange::{Client, RequestHead};
use model::fields::Fields;
use model::rejection::Rejection;
use model::resource::listener::Limits;
use model::router::host::HostFault;
use model::router::path::{self, PathFault};

use super::fields::{self, Survey};
use super::{forwarded, spelling};
use crate::body::{Body, Failure};
use crate::interim::SharedInterim;
use crate::listener::connection::Connection;
use crate::listener::known_host::KnownHost;
use crate::memory::Pressure;
use crate::upstream::UpstreamError;

/// A request as its codec gives it.
pub struct Received {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: Fields,
    /// Where it is said what comes before the answer, if the client knows of that.
    pub interim: Option<SharedInterim>,
}

/// A request that has come in.
pub struct Intake {
    pub head: RequestHead,
    /// Who sent it, as far as anybody is believed.
    pub client: Client,
    pub version: Version,
    /// The protocol that the client would like to switch to.
    pub upgrade: Option<HeaderValue>,
    pub interim: Option<SharedInterim>,
    pub body: Body,
    /// The target as it came, if its path came in another spelling than the canonical one.
    pub spelled: Option<Box<spelling::Received>>,
    /// Why it goes no further; the head holds what could be read of it.
    pub fault: Option<Rejection>,
}

/// Takes a request in.
pub fn take(received: Received, body: Body, connection: &Rc<Connection>) -> Intake {
    let limits = &connection.terms.limits;
    let Received { method, uri, version, mut headers, interim } = received;
    let survey = Survey::of(&headers);
    let upgrade = fields::wanted_upgrade(&headers, &survey, version, &method);
    let read = check_bounds(&survey, &uri, http_body::Body::size_hint(&body).lower(), limits)
        .and_then(|()| check_method(&method))
        .and_then(|()| check_scheme(&uri, connection))
        .and_then(|()| check_memory(connection))
        .and_then(|()| read_host(&uri, &mut headers, &survey, version, &connection.host))
        .and_then(|host| check_directed(host, connection))
        .and_then(|host| Ok((host, read_target(uri, &method)?)));
    fields::join_cookies(&mut headers, &survey, version);
    let client = forwarded::settle(&mut headers, &survey, connection);
    let (host, (target, spelled), fault) = match read {
        Ok((host, target)) => (host, target, None),
        Err(rejection) => ("".into(), (PathAndQuery::from_static("/"), None), Some(rejection)),
    };
    let body = settle_trailers(body, version, connection);
    let head = RequestHead { method, host, target, headers };
    Intake { head, client, version, upgrade, interim, body, spelled, fault }
}

/// Trailers have a place behind every body of HTTP/2, and behind one of HTTP/1.1 whose length nobody knows.
fn settle_trailers(body: Body, version: Version, connection: &Rc<Connection>) -> Body {
    if body.is_empty() || (version < Version::HTTP_2 && http_body::Body::size_hint(&body).exact().is_some()) {
        return body;
    }
    let connection = connection.clone();
    body.with_strained_trailers(Box::new(move |trailers| forwarded::settle_trailers(trailers, &connection)))
}

fn check_bounds(survey: &Survey, uri: &Uri, body: u64, limits: &Limits) -> Result<(), Rejection> {
    let refused = |status, code, detail| Err(Rejection::new(status, code, detail));
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.target_bytes as usize) {
        return refused(StatusCode::URI_TOO_LONG, "uri-too-long", "The target of the request is too long.");
    }
    if survey.fields > limits.header_fields as usize {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return refused(status, "too-many-header-fields", "The request has too many header fields.");
    }
    if survey.bytes > limits.header_bytes as usize {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return refused(status, "header-too-large", "The header of the request is too large.");
    }
    if body > limits.body_bytes {
        return Err(UpstreamError::RequestBody(Failure::TooLarge).rejection());
    }
    if survey.has_padded {
        return Err(bad("header-padded", "The value of a header field begins or ends with space."));
    }
    Ok(())
}

fn check_memory(connection: &Connection) -> Result<(), Rejection> {
    if connection.core.pressure.get() < Pressure::NothingNew {
        return Ok(());
    }
    let detail = "The gateway is short of memory and takes no new requests for a moment.";
    Err(Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "memory-short", detail))
}

/// Tunnels to anywhere are not what a gateway is for.
fn check_method(method: &Method) -> Result<(), Rejection> {
    let refused = |detail| Err(Rejection::new(StatusCode::NOT_IMPLEMENTED, "method-not-implemented", detail));
    match *method {
        Method::CONNECT => refused("The gateway opens no tunnels."),
        // It would show the client what the gateway adds for the service (RFC 9110 section 9.3.8).
        Method::TRACE => refused("The gateway does not send requests back."),
        _ => Ok(()),
    }
}

/// What is asked for by `https` must not come over a connection that anybody can read (RFC 9110 sections 4.2.2 and 7.4),
/// unless a proxy may have secured it that is known here. The other way round it does no harm.
fn check_scheme(uri: &Uri, connection: &Connection) -> Result<(), Rejection> {
    match uri.scheme() {
        None => Ok(()),
        Some(scheme) if *scheme == Scheme::HTTP => Ok(()),
        Some(scheme) if *scheme == Scheme::HTTPS && connection.may_be_secured() => Ok(()),
        Some(scheme) if *scheme == Scheme::HTTPS => {
            let detail = "The target has the scheme https, and the connection is not secured.";
            Err(Rejection::new(StatusCode::MISDIRECTED_REQUEST, "misdirected-request", detail))
        }
        Some(_) => Err(bad("scheme-unknown", "The scheme of the target is neither http nor https.")),
    }
}

fn bad(code: &'static str, detail: &'static str) -> Rejection {
    Rejection::new(StatusCode::BAD_REQUEST, code, detail)
}

/// The canonical host. The `Host` field that goes on is the one that it was read from.
fn read_host(
    uri: &Uri,
    headers: &mut Fields,
    survey: &Survey,
    version: Version,
    known: &KnownHost,
) -> Result<Rc<str>, Rejection> {
    if survey.hosts > 1 {
        return Err(bad("several-hosts", "The request names its host more than once."));
    }
    let canonical = |text: &[u8]| known.canonical(text).map_err(|fault| bad(fault.code(), fault.detail()));
    let field = headers.get(HOST).map(canonical).transpose()?;
    // A target in absolute form, or `:authority`, stands above the field (RFC 9112 section 3.2.2, RFC 9113
    // section 8.3.1). Where they name different hosts somebody on the way may go by the other: that is refused.
    let Some(authority) = uri.authority() else {
        return match field {
            Some(host) if !host.is_empty() || version < Version::HTTP_2 => Ok(host),
            None if version <= Version::HTTP_10 => Ok("".into()),
            _ => Err(bad("host-missing", "The request names no host.")),
        };
    };
    let host = canonical(authority.as_str().as_bytes())?;
    if field.is_some_and(|field| field != host) {
        return Err(bad("host-mismatch", "The request names two different hosts."));
    }
    let invalid = HostFault::InvalidName;
    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| bad(invalid.code(), invalid.detail()))?;
    headers.insert(&HOST, &value);
    Ok(host)
}

/// A client may send requests for several hosts over one connection, but only for those that its certificate is for
/// (RFC 9110 section 15.5.20): another host may be for other clients.
fn check_directed(host: Rc<str>, connection: &Connection) -> Result<Rc<str>, Rejection> {
    match connection.tls.get() {
        Some(tls) if tls.is_misdirected(&host) => {
            let detail = "The host is served with another certificate than that of this connection.";
            Err(Rejection::new(StatusCode::MISDIRECTED_REQUEST, "misdirected-request", detail))
        }
        _ => Ok(host),
    }
}

/// The canonical path with the query as it came, and the target as it came if that is another.
fn read_target(uri: Uri, method: &Method) -> Result<(PathAndQuery, Option<Box<spelling::Received>>), Rejection> {
    let Some(as_it_came) = uri.into_parts().path_and_query else {
        return Err(spelling::refused(PathFault::NotAbsolute));
    };
    let rebuilt = match (path::canonical(as_it_came.path()), as_it_came.query()) {
        (Ok(Cow::Borrowed(_)), _) => return Ok((as_it_came, None)),
        (Err(fault), None) if *method == Method::OPTIONS && as_it_came.path() == spelling::ASTERISK => {
            return Ok((as_it_came.clone(), spelled(as_it_came, Some(fault))));
        }
        (Err(fault), _) => return Ok((PathAndQuery::from_static("/"), spelled(as_it_came, Some(fault)))),
        (Ok(path), None) => PathAndQuery::try_from(path.as_ref()),
        (Ok(path), Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")),
    };
    let target = rebuilt.map_err(|_| bad("path-invalid", "The path is no valid path."))?;
    Ok((target, spelled(as_it_came, None)))
}

fn spelled(target: PathAndQuery, fault: Option<PathFault>) -> Option<Box<spelling::Received>> {
    Some(Box::new(spelling::Received { target, fault }))
}
