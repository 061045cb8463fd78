//! Writing messages: always in the one way that cannot be misread, whatever they came in.

use std::cell::{Cell, RefCell};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use model::fields::{Fields, Kind};

use super::framing::Length;

/// Names and the space around them, for most messages.
const FIELD_BYTES: usize = 40;

/// Writes the head of a request. The length of the body is written from `length`, not from the fields.
pub fn request_head(
    out: &mut Vec<u8>,
    method: &Method,
    target: &PathAndQuery,
    host: Option<&HeaderValue>,
    headers: &Fields,
    length: Length,
) {
    let target = target.as_str();
    out.reserve(256 + target.len() + headers.len() * FIELD_BYTES);
    put(out, &[method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    if let Some(host) = host {
        put(out, &[b"host: ", host.as_bytes(), b"\r\n"]);
    }
    let has = fields(out, headers);
    match length {
        // A body of no bytes is no body, where a method has a meaning for one it says so (RFC 9110 section 8.6).
        Length::Exact(0) if !has.length && !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {}
        length => framing(out, length),
    }
    // `TE` is about this connection, and says so (RFC 9110 section 10.1.4).
    if has.te && !has.upgrade {
        out.extend_from_slice(b"connection: te\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// How the head of a response says how long its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Body and length are the same.
    Length(Length),
    /// There is no body; the length is that which there would be, if the fields say it (RFC 9110 section 8.6).
    AsFielded,
    /// Neither a body nor a word about its length.
    Nothing,
}

/// Writes the head of a response. `connection` goes into it unless it has such a field already.
pub fn response_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &Fields,
    announced: Announced,
    connection: Option<&'static str>,
    date: &Date,
    unix_ms: u64,
) {
    out.reserve(256 + headers.len() * FIELD_BYTES);
    status_line(out, status);
    let has = fields(out, headers);
    match announced {
        Announced::Length(length) => framing(out, length),
        Announced::AsFielded => {
            if let Some(length) = headers.get(CONTENT_LENGTH) {
                put(out, &[b"content-length: ", length, b"\r\n"]);
            }
        }
        Announced::Nothing => {}
    }
    if let Some(connection) = connection.filter(|_| !has.connection) {
        put(out, &[b"connection: ", connection.as_bytes(), b"\r\n"]);
    }
    if !has.date {
        date.put(out, unix_ms);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response (RFC 9110 section 15.2): it has neither a body nor a word about the connection.
pub fn interim_head(out: &mut Vec<u8>, status: StatusCode, headers: &Fields) {
    status_line(out, status);
    fields(out, headers);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    let reason = status.canonical_reason().unwrap_or_default();
    put(out, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
}

/// Which fields a message has, of those that something hangs on.
#[derive(Default)]
struct Has {
    length: bool,
    connection: bool,
    upgrade: bool,
    te: bool,
    date: bool,
}

/// Writes the fields but for those about the length.
fn fields(out: &mut Vec<u8>, headers: &Fields) -> Has {
    let mut has = Has::default();
    headers.write(out, |kind| {
        match kind {
            Kind::ContentLength => has.length = true,
            Kind::Connection => has.connection = true,
            Kind::Upgrade => has.upgrade = true,
            Kind::Te => has.te = true,
            Kind::Date => has.date = true,
            _ => {}
        }
        !matches!(kind, Kind::ContentLength | Kind::TransferEncoding)
    });
    has
}

fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

fn framing(out: &mut Vec<u8>, length: Length) {
    match length {
        Length::Exact(length) => {
            put(out, &[b"content-length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
        }
        Length::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Length::UntilClose => {}
    }
}

/// The line before the data of a chunk.
pub fn chunk_size(out: &mut Vec<u8>, length: usize) {
    let mut digits = [0; 16];
    let (mut rest, mut place) = (length, digits.len());
    while rest > 0 {
        place -= 1;
        digits[place] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    put(out, &[&digits[place..], b"\r\n"]);
}

/// The end of a chunked body, with the trailers.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// The `Date` of a core's responses (RFC 9110 section 6.6.1), formatted once a second.
#[derive(Debug, Default)]
pub struct Date {
    second: Cell<u64>,
    line: RefCell<Bytes>,
}

impl Date {
    const NAME: &str = "date: ";

    fn put(&self, out: &mut Vec<u8>, unix_ms: u64) {
        self.renew(unix_ms);
        out.extend_from_slice(&self.line.borrow());
    }

    /// For HTTP/2.
    pub fn value(&self, unix_ms: u64) -> HeaderValue {
        self.renew(unix_ms);
        let line = self.line.borrow();
        let value = line.slice(Self::NAME.len()..line.len() - 2);
        HeaderValue::from_maybe_shared(value).expect("a date is a field value")
    }

    fn renew(&self, unix_ms: u64) {
        let second = unix_ms / 1000;
        if self.second.replace(second) != second || self.line.borrow().is_empty() {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            self.line.replace(format!("{}{date}\r\n", Self::NAME).into());
        }
    }
}
