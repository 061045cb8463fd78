//! Who the client of a request is, and what services are told of it: `X-Forwarded-*`, and `Forwarded` (RFC 7239).
//!
//! Only trusted proxies are believed, and of what they wrote only as far as each hop vouches for the one before it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use model::exchange::{Client, Scheme};
use model::fields::Fields;
use model::resource::listener::{ForwardedField, ForwardedFields, FromTrusted};
use model::snapshot::Forwarding;

use super::fields::{self, Survey};
use crate::listener::connection::Connection;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Says who the client is, and puts in place of what was said about it what services are told.
pub fn settle(headers: &mut Fields, survey: &Survey, connection: &Connection) -> Client {
    let rule = &connection.terms.forwarding;
    if connection.is_from_proxy {
        return settle_for_proxy(headers, survey, connection, rule);
    }
    if !rule.reserved.is_empty() {
        headers.retain(|name, _| !is_reserved(rule, name));
    }
    fields::clean_request(headers, survey);
    if let Some(certificate) = connection.tls.get().and_then(|tls| tls.client_cert.as_ref()) {
        headers.append(&CLIENT_CERT, certificate);
    }
    if rule.send != ForwardedFields::Forwarded {
        headers.extend(&connection.x_forwarded);
        headers.append_copy(&X_FORWARDED_HOST, &HOST);
    }
    if rule.send != ForwardedFields::XForwarded {
        append(headers, &FORWARDED, &own_hop(headers, connection.client));
    }
    connection.client
}

/// What is said of a client in all its requests: they are many.
pub fn x_forwarded(client: Client) -> Fields {
    let mut fields = Fields::default();
    append(&mut fields, &X_FORWARDED_FOR, &client.address.ip().to_string());
    fields.append(&X_FORWARDED_PROTO, &scheme_value(client.scheme));
    fields
}

/// Whether only trusted proxies may send a field.
fn is_reserved(rule: &Forwarding, name: &[u8]) -> bool {
    rule.reserved.iter().any(|pattern| pattern.matches(name))
}

/// Takes out of the trailers of a request what its header may not have either; of the client itself they say nothing,
/// whoever sends them.
pub fn settle_trailers(trailers: &mut HeaderMap, connection: &Connection) {
    let rule = &connection.terms.forwarding;
    fields::clean_request_trailers(trailers, |name| !connection.is_from_proxy && is_reserved(rule, name));
}

fn settle_for_proxy(headers: &mut Fields, survey: &Survey, connection: &Connection, rule: &Forwarding) -> Client {
    let way = Way::read(headers, rule.read);
    let (client, at) = way.client(connection.client, rule);
    // What else the proxy says of the client goes on with the rest: `X-Forwarded-Port` and the like.
    let is_extended = rule.from_trusted == FromTrusted::Extend;
    let is_kept = is_extended && rule.read == ForwardedField::XForwarded && rule.send != ForwardedFields::Forwarded;
    let kept: Vec<(HeaderName, HeaderValue)> = if is_kept { fields_of(headers, is_x_forwarded) } else { Vec::new() };
    // Its own clients have shown them; the certificate on this connection is its own.
    let certificates = if is_extended { fields_of(headers, is_client_cert) } else { Vec::new() };
    fields::clean_request(headers, survey);
    for (name, value) in &certificates {
        headers.append(name, value);
    }
    let hops = if is_extended { &way.hops[..] } else { &[] };
    if rule.send != ForwardedFields::Forwarded {
        let peer = if is_extended { connection.client.address.ip() } else { client.address.ip() };
        let nodes = hops.iter().map(Hop::as_x_forwarded).chain([peer.to_string()]);
        append(headers, &X_FORWARDED_FOR, &nodes.collect::<Vec<_>>().join(", "));
        for (name, value) in &kept {
            headers.append(name, value);
        }
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.append(&X_FORWARDED_PROTO, &scheme_value(client.scheme));
        }
        if !headers.contains_key(X_FORWARDED_HOST) {
            match at.and_then(|at| way.hops[at].host.as_deref()) {
                Some(host) => append(headers, &X_FORWARDED_HOST, host),
                None => headers.append_copy(&X_FORWARDED_HOST, &HOST),
            }
        }
    }
    if rule.send != ForwardedFields::XForwarded {
        let last = if is_extended { connection.client } else { client };
        let own = own_hop(headers, last);
        let elements = hops.iter().map(Hop::as_forwarded).chain([own]);
        append(headers, &FORWARDED, &elements.collect::<Vec<_>>().join(", "));
    }
    client
}

/// But for the addresses.
fn is_x_forwarded(name: &[u8]) -> bool {
    name.starts_with(b"x-forwarded-") && name != X_FORWARDED_FOR.as_str().as_bytes()
}

fn is_client_cert(name: &[u8]) -> bool {
    matches!(name, b"client-cert" | b"client-cert-chain")
}

/// The fields of these names.
fn fields_of(headers: &Fields, is_meant: fn(&[u8]) -> bool) -> Vec<(HeaderName, HeaderValue)> {
    let parsed = |(name, value): (&[u8], &[u8])| {
        Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    headers.iter().filter(|(name, _)| is_meant(name)).filter_map(parsed).collect()
}

fn append(headers: &mut Fields, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, &value);
    }
}

fn scheme_value(scheme: Scheme) -> HeaderValue {
    HeaderValue::from_static(scheme.as_str())
}

/// The element of `Forwarded` about the hop to this gateway.
fn own_hop(headers: &Fields, client: Client) -> String {
    let host = headers.get_str(HOST).filter(|host| !host.is_empty()).map(|host| format!(";host={}", quoted(host)));
    let node = quoted(&node_of(client.address.ip()));
    format!("for={node}{};proto={}", host.unwrap_or_default(), client.scheme.as_str())
}

/// RFC 7239 section 6.
fn node_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A token as it is, anything else as a quoted string (RFC 9110 section 5.6.4).
fn quoted(text: &str) -> String {
    let is_token = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if is_token && !text.is_empty() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
    out
}

/// The way of a request as trusted proxies tell it, the client first.
#[derive(Debug, Default, PartialEq)]
struct Way {
    hops: Vec<Hop>,
}

/// One hop: who sent it to the next, and how.
#[derive(Clone, Debug, Default, PartialEq)]
struct Hop {
    /// An address with a port or without, a name of its own choice, or `unknown`.
    node: String,
    scheme: Option<Scheme>,
    host: Option<String>,
}

impl Way {
    /// What cannot be read makes the whole of it worthless: where its parts begin and end is not certain any more.
    fn read(headers: &Fields, field: ForwardedField) -> Self {
        let hops = match field {
            ForwardedField::XForwarded => read_x_forwarded(headers),
            ForwardedField::Forwarded => {
                let lines: Vec<&[u8]> = headers.get_all(FORWARDED).collect();
                std::str::from_utf8(&lines.join(&b","[..])).ok().and_then(read_forwarded)
            }
        };
        Self { hops: hops.unwrap_or_default() }
    }

    /// The last address from the left that somebody vouches for whom the gateway trusts, and its place.
    fn client(&self, peer: Client, rule: &Forwarding) -> (Client, Option<usize>) {
        let (mut client, mut place) = (peer, None);
        for (index, hop) in self.hops.iter().enumerate().rev() {
            let Some(address) = address_of(&hop.node) else { break };
            client = Client { address, scheme: hop.scheme.unwrap_or(client.scheme) };
            place = Some(index);
            if !rule.trusted.contains(address.ip()) {
                break;
            }
        }
        (client, place)
    }
}

impl Hop {
    fn as_x_forwarded(&self) -> String {
        // Port and brackets are not usual there, and a name of its own choice could be taken for a host.
        address_of(&self.node).map_or_else(|| "unknown".into(), |address| address.ip().to_string())
    }

    fn as_forwarded(&self) -> String {
        let node = match address_of(&self.node) {
            Some(address) => node_of(address.ip()),
            None if self.node.starts_with('_') => self.node.clone(),
            None => "unknown".into(),
        };
        let mut element = format!("for={}", quoted(&node));
        if let Some(host) = &self.host {
            element.push_str(&format!(";host={}", quoted(host)));
        }
        if let Some(scheme) = self.scheme {
            element.push_str(&format!(";proto={}", scheme.as_str()));
        }
        element
    }
}

fn read_x_forwarded(headers: &Fields) -> Option<Vec<Hop>> {
    let nodes = headers.elements(X_FORWARDED_FOR).map(|node| std::str::from_utf8(node).map(str::trim));
    let mut hops = Vec::new();
    for node in nodes {
        hops.push(Hop { node: node.ok()?.to_owned(), ..Hop::default() });
    }
    // One for each hop, or one for all of the way.
    let schemes: Vec<Option<Scheme>> = headers.elements(X_FORWARDED_PROTO).map(scheme_of).collect();
    match schemes[..] {
        [only] => hops.iter_mut().for_each(|hop| hop.scheme = only),
        _ if schemes.len() == hops.len() => {
            hops.iter_mut().zip(schemes).for_each(|(hop, scheme)| hop.scheme = scheme);
        }
        _ => {}
    }
    Some(hops)
}

fn scheme_of(text: &[u8]) -> Option<Scheme> {
    let text = text.trim_ascii();
    if text.eq_ignore_ascii_case(b"https") {
        Some(Scheme::Https)
    } else if text.eq_ignore_ascii_case(b"http") {
        Some(Scheme::Http)
    } else {
        None
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`; the port is 0 without one, and
/// where it is a name.
fn address_of(node: &str) -> Option<SocketAddr> {
    if let Ok(address) = node.parse::<IpAddr>() {
        return Some(SocketAddr::new(address.to_canonical(), 0));
    }
    let (host, port) = match node.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            let port = if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) };
            (IpAddr::V6(host.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (host, port) = node.split_once(':')?;
            (IpAddr::V4(host.parse().ok()?), Some(port))
        }
    };
    let port = match port {
        None => 0,
        Some(name) if name.starts_with('_') => 0,
        Some(number) => number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?,
    };
    Some(SocketAddr::new(host.to_canonical(), port))
}

/// The elements of `Forwarded` (RFC 7239 section 4); nothing if they are not well formed.
fn read_forwarded(text: &str) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let mut hop = Hop::default();
        loop {
            let (pair, behind) = read_pair(rest)?;
            if let Some((name, value)) = pair {
                match name.to_ascii_lowercase().as_str() {
                    "for" if hop.node.is_empty() => hop.node = value,
                    "host" if hop.host.is_none() => hop.host = Some(value),
                    "proto" if hop.scheme.is_none() => hop.scheme = scheme_of(value.as_bytes()),
                    // Each at most once.
                    "for" | "host" => return None,
                    _ => {}
                }
            }
            rest = behind.trim_start_matches([' ', '\t']);
            match rest.strip_prefix(';') {
                Some(behind) => rest = behind.trim_start_matches([' ', '\t']),
                None => break,
            }
        }
        hops.push(hop);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind.trim_start_matches([' ', '\t', ',']),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(hops)
}

/// One `name=value`, which may be missing between semicolons.
fn read_pair(text: &str) -> Option<(Option<(&str, String)>, &str)> {
    if text.is_empty() || text.starts_with([';', ',']) {
        return Some((None, text));
    }
    let (name, rest) = text.split_once('=')?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    let Some(mut inside) = rest.strip_prefix('"') else {
        // An address of IPv6 has to be quoted, but not everybody does.
        let end = rest.find([';', ',', ' ', '\t', '"']).unwrap_or(rest.len());
        let (value, behind) = rest.split_at(end);
        return (!value.is_empty()).then(|| (Some((name, value.to_owned())), behind));
    };
    let mut value = String::new();
    loop {
        let end = inside.find(['"', '\\'])?;
        value.push_str(&inside[..end]);
        let mut behind = inside[end..].chars();
        match behind.next() {
            Some('"') => return Some((Some((name, value)), behind.as_str())),
            _ => value.push(behind.next()?),
        }
        inside = behind.as_str();
    }
}

#[cfg(test)]
mod tests;
