//! Header fields that belong to one connection, or that only the gateway may set: they go no further
//! (RFC 9110 section 7.6.1).

use http::header::{CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{Method, Version};
use model::exchange::Scheme;

use crate::listener::connection::Connection;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

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
}

impl Survey {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for (name, value) in headers {
            survey.fields += 1;
            survey.bytes += name.as_str().len() + value.len() + 32;
            match name.as_str() {
                "host" => survey.hosts += 1,
                "cookie" => survey.cookies += 1,
                "connection" => survey.has_connection = true,
                name if is_unwanted(name) => survey.has_unwanted = true,
                _ => {}
            }
        }
        survey
    }
}

/// Fields of the connection, fields in which clients could claim what only the gateway knows, and
/// names that some servers take for another with a hyphen.
fn is_unwanted(name: &str) -> bool {
    match name {
        "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" | "expect" | "http2-settings" => {
            true
        }
        // For a proxy that the client chose (RFC 9110 section 11.7), which a gateway is not.
        "proxy-authorization" => true,
        "forwarded" | "x-real-ip" => true,
        name => name.starts_with("x-forwarded-") || name.contains('_'),
    }
}

/// The protocol that a request asks to switch to. Only HTTP/1.1 has this, and HTTP/2 is not to be had this way.
pub fn wanted_upgrade(headers: &HeaderMap, survey: &Survey, version: Version, method: &Method) -> Option<HeaderValue> {
    if !survey.has_connection || version != Version::HTTP_11 || method != Method::GET {
        return None;
    }
    let wants = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| wants)?;
    let is_http2 = protocol.as_bytes().get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"h2c"));
    (!is_http2).then(|| protocol.clone())
}

/// Takes out what must not go on to the service or mislead a policy.
pub fn clean_request(headers: &mut HeaderMap, survey: &Survey) {
    let wants_trailers =
        survey.has_unwanted && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    if survey.has_connection {
        remove_named_in_connection(headers);
    }
    if survey.has_unwanted {
        let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name.as_str())).cloned().collect();
        for name in unwanted {
            headers.remove(name);
        }
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out of a response what belongs to the connection with the service.
pub fn clean_response(headers: &mut HeaderMap) {
    let (mut has_connection, mut has_unwanted) = (false, false);
    for name in headers.keys() {
        match name.as_str() {
            "connection" => has_connection = true,
            "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" => has_unwanted = true,
            _ => {}
        }
    }
    if has_connection {
        remove_named_in_connection(headers);
    }
    if has_unwanted {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
            headers.remove(name);
        }
    }
}

/// Removes `Connection` and what it names, but for what a message cannot be understood without.
fn remove_named_in_connection(headers: &mut HeaderMap) {
    let is_kept = |token: &str| ["host", "content-length"].iter().any(|kept| token.eq_ignore_ascii_case(kept));
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter(|token| !is_kept(token)).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// The elements of a list field, of all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|value| value.split(',')).map(str::trim)
}

/// Puts a cookie together that came in crumbs over HTTP/2: elsewhere it is one field (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap, survey: &Survey, version: Version) {
    if survey.cookies < 2 || version < Version::HTTP_2 {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Says who the client is. What it said of itself has been taken out.
pub fn forwarded(headers: &mut HeaderMap, connection: &Connection) {
    headers.insert(X_FORWARDED_FOR, connection.forwarded_for.clone());
    let scheme = match connection.client.scheme {
        Scheme::Http => HeaderValue::from_static("http"),
        Scheme::Https => HeaderValue::from_static("https"),
    };
    headers.insert(X_FORWARDED_PROTO, scheme);
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// The request to switch protocols, for the service, or the consent, for the client.
pub fn switch_protocols(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Says that the message passed here (RFC 9110 section 7.6.3).
pub fn via(headers: &mut HeaderMap, received: Version) {
    let received = match received {
        Version::HTTP_2 => "2 sluice",
        Version::HTTP_10 => "1.0 sluice",
        _ => "1.1 sluice",
    };
    headers.append(VIA, HeaderValue::from_static(received));
}
