//! Header fields that belong to one connection, or that only the gateway may set: they go no further
//! (RFC 9110 section 7.6.1).

use http::header::{CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE, VIA};
use http::{Method, Version};
use model::fields::{Fields, Kind};

use crate::http1::is_forbidden_in_trailers;

/// What one look over the fields of a request told.
#[derive(Debug, Default)]
pub struct Survey {
    pub fields: usize,
    /// Names and values, and 32 bytes for each field (RFC 9113 section 6.5.2).
    pub bytes: usize,
    pub hosts: usize,
    cookies: usize,
    has_connection: bool,
    /// Fields that must not go on.
    has_unwanted: bool,
    /// A value begins or ends with space, which HTTP/1.1 takes away and HTTP/2 must not have (RFC 9113 section 8.2.1).
    pub has_padded: bool,
}

impl Survey {
    pub fn of(headers: &Fields) -> Self {
        let mut survey = Self::default();
        for (kind, name, value) in headers.iter_kinds() {
            survey.fields += 1;
            survey.bytes += name.len() + value.len() + 32;
            survey.has_padded |= matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
            match kind {
                Kind::Host => survey.hosts += 1,
                Kind::Cookie => survey.cookies += 1,
                Kind::Connection => survey.has_connection = true,
                _ => survey.has_unwanted |= is_unwanted(kind, name),
            }
        }
        survey
    }
}

/// Fields of the connection, fields in which clients could claim what only the gateway knows, and
/// names that some servers take for another with a hyphen.
fn is_unwanted(kind: Kind, name: &[u8]) -> bool {
    match kind {
        Kind::TransferEncoding | Kind::Upgrade | Kind::Te | Kind::Expect | Kind::Hop => true,
        Kind::ProxyAuthorization | Kind::Claim => true,
        Kind::Other => name.contains(&b'_'),
        Kind::Host | Kind::Cookie | Kind::Date | Kind::ContentLength | Kind::Connection => false,
    }
}

/// The protocol that a request asks to switch to. HTTP/2 is not to be had this way, and asks in another that the
/// listener has turned into this one.
pub fn wanted_upgrade(headers: &Fields, survey: &Survey, version: Version, method: &Method) -> Option<HeaderValue> {
    if !survey.has_connection || version < Version::HTTP_11 || method != Method::GET {
        return None;
    }
    let wants = headers.elements(CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| wants)?;
    let is_http2 = protocol.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"h2c"));
    HeaderValue::from_bytes(protocol).ok().filter(|_| !is_http2)
}

/// Takes out what must not go on to the service or mislead a policy.
pub fn clean_request(headers: &mut Fields, survey: &Survey) {
    let wants_trailers = survey.has_unwanted && wants_trailers(headers);
    if survey.has_connection {
        remove_named_in_connection(headers);
    }
    if survey.has_unwanted {
        headers.retain(|name, _| !is_unwanted(Kind::of(name), name));
    }
    if wants_trailers {
        headers.append(&TE, &HeaderValue::from_static("trailers"));
    }
}

/// Takes the same out of the trailers of a request, and what `is_reserved` besides: a service may put them together with
/// the fields of the header (RFC 9110 section 6.5.1).
pub fn clean_request_trailers(trailers: &mut HeaderMap, is_reserved: impl Fn(&[u8]) -> bool) {
    remove(trailers, |name| is_unwanted(Kind::of(name), name) || is_forbidden_in_trailers(name) || is_reserved(name));
}

/// Takes out of the trailers of a response what a header only may have. A service of HTTP/1.1 that sends it is not
/// understood at all.
pub fn clean_response_trailers(trailers: &mut HeaderMap) {
    remove(trailers, is_forbidden_in_trailers);
}

fn remove(trailers: &mut HeaderMap, is_unwanted: impl Fn(&[u8]) -> bool) {
    let names = trailers.keys().filter(|name| is_unwanted(name.as_str().as_bytes()));
    for name in names.cloned().collect::<Vec<HeaderName>>() {
        trailers.remove(name);
    }
}

/// Whether the sender of a message would like to have trailers (RFC 9110 section 10.1.4).
pub fn wants_trailers(headers: &Fields) -> bool {
    headers.elements(TE).any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

/// Takes out of a response what belongs to the connection with the service.
pub fn clean_response(headers: &mut Fields) {
    let is_unwanted = |kind| matches!(kind, Kind::TransferEncoding | Kind::Upgrade | Kind::Te | Kind::Hop);
    let (mut has_connection, mut has_unwanted) = (false, false);
    for kind in headers.kinds() {
        has_connection |= kind == Kind::Connection;
        has_unwanted |= is_unwanted(kind);
    }
    if has_connection {
        remove_named_in_connection(headers);
    }
    if has_unwanted {
        headers.retain(|name, _| !is_unwanted(Kind::of(name)));
    }
}

/// Removes `Connection` and what it names, but for what a message cannot be understood without.
fn remove_named_in_connection(headers: &mut Fields) {
    let mut named: Vec<Vec<u8>> = headers.elements(CONNECTION).map(<[u8]>::to_ascii_lowercase).collect();
    // A client may name thousands.
    named.sort_unstable();
    headers.retain(|name, _| match name {
        b"host" | b"content-length" => true,
        b"connection" => false,
        name => named.binary_search_by(|named| named.as_slice().cmp(name)).is_err(),
    });
}

/// Puts a cookie together that came in crumbs over HTTP/2: elsewhere it is one field (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut Fields, survey: &Survey, version: Version) {
    if survey.cookies < 2 || version < Version::HTTP_2 {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(&COOKIE, &whole);
    }
}

/// The request to switch protocols, for the service, or the consent, for the client.
pub fn switch_protocols(headers: &mut Fields, protocol: &HeaderValue) {
    headers.insert(&CONNECTION, &HeaderValue::from_static("upgrade"));
    headers.insert(&UPGRADE, protocol);
}

/// Says that the message passed here (RFC 9110 section 7.6.3).
pub fn via(headers: &mut Fields, received: Version) {
    let received = match received {
        Version::HTTP_2 => "2 sluice",
        Version::HTTP_10 => "1.0 sluice",
        _ => "1.1 sluice",
    };
    headers.append(&VIA, &HeaderValue::from_static(received));
}
