//! The heads of messages: found in what was read, checked, and parsed (RFC 9112 sections 2 to 6).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version, request};

use super::framing::{Framing, Length};

/// Heads with up to this many fields are parsed without an allocation for their places.
const FEW_FIELDS: usize = 64;

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub head_bytes: usize,
    pub target_bytes: usize,
    pub fields: usize,
}

/// Why a message cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the head is too large")]
    HeadTooLarge,
    #[error("there are too many header fields")]
    TooManyFields,
    #[error("the target is too long")]
    TargetTooLong,
    #[error("{0}")]
    Malformed(&'static str),
    /// It could be read in more than one way.
    #[error("{0}")]
    Ambiguous(&'static str),
    #[error("a transfer coding other than chunked")]
    UnknownCoding,
    #[error("a version of HTTP other than 1.0 and 1.1")]
    UnknownVersion,
}

/// The head of a request, and what it says about the connection.
#[derive(Debug)]
pub struct RequestHead {
    pub parts: request::Parts,
    pub length: Length,
    /// Whether the client would send another request behind this one.
    pub is_persistent: bool,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
}

/// The head of a response, and what it says about the connection.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub length: Length,
    pub is_persistent: bool,
}

/// Looks for the end of a head, and at every line end on the way. It goes on where it stopped when more comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    looked: usize,
    line: usize,
    lines: usize,
}

impl Scan {
    /// Where the head ends, if all of it is there.
    pub fn find(&mut self, input: &[u8], bounds: &Bounds) -> Result<Option<usize>, Fault> {
        for place in memchr::memchr_iter(b'\n', &input[self.looked..]) {
            let end = self.looked + place;
            if end == self.line || input[end - 1] != b'\r' {
                return Err(Fault::Malformed("A line does not end with CR LF."));
            }
            if self.lines == 0 && end > bounds.target_bytes {
                return Err(Fault::TargetTooLong);
            }
            if end == self.line + 1 {
                return if end < bounds.head_bytes { Ok(Some(end + 1)) } else { Err(Fault::HeadTooLarge) };
            }
            self.lines += 1;
            if self.lines > bounds.fields + 1 {
                return Err(Fault::TooManyFields);
            }
            self.line = end + 1;
        }
        self.looked = input.len();
        if self.lines == 0 && self.looked > bounds.target_bytes {
            return Err(Fault::TargetTooLong);
        }
        if self.looked >= bounds.head_bytes { Err(Fault::HeadTooLarge) } else { Ok(None) }
    }

    /// How many lines there are before the empty one.
    pub fn lines(&self) -> usize {
        self.lines
    }
}

impl RequestHead {
    /// Parses a head that a [`Scan`] has found.
    pub fn parse(head: &Bytes, lines: usize) -> Result<Self, Fault> {
        with_places(lines, |places| {
            let mut request = httparse::Request::new(&mut []);
            let parsed = request.parse_with_uninit_headers(head, places);
            if parsed == Err(httparse::Error::Version) && names_http(head) {
                return Err(Fault::UnknownVersion);
            }
            complete(parsed, head.len())?;
            let version = version(request.version)?;
            let method = request.method.unwrap_or_default();
            let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::Malformed("The method is none."))?;
            let uri = uri(head, request.path.unwrap_or_default(), &method)?;
            let fields = Fields::of(head, request.headers)?;
            let length = fields.framing.of_request(version)?;
            let (mut parts, ()) = http::Request::new(()).into_parts();
            (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, fields.headers);
            let is_persistent = fields.connection.is_persistent(version);
            let expects_continue = fields.expects_continue && version == Version::HTTP_11 && length != Length::Exact(0);
            Ok(Self { parts, length, is_persistent, expects_continue })
        })
    }
}

impl ResponseHead {
    /// Whether the answer is still to come.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Parses the head of the answer to a request of the method.
    pub fn parse(head: &Bytes, lines: usize, method: &Method) -> Result<Self, Fault> {
        with_places(lines, |places| {
            let mut response = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let parsed = config.parse_response_with_uninit_headers(&mut response, head, places);
            complete(parsed, head.len())?;
            let version = version(response.version)?;
            let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.ok_or(Fault::Malformed("The status is none."))?;
            let fields = Fields::of(head, response.headers)?;
            let length = fields.framing.of_response(version, status, method)?;
            let is_persistent = fields.connection.is_persistent(version) && length != Length::UntilClose;
            Ok(Self { status, headers: fields.headers, length, is_persistent })
        })
    }
}

/// Calls with a place for each field.
fn with_places<'a, T>(lines: usize, parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'a>>]) -> T) -> T {
    if lines <= FEW_FIELDS {
        parse(&mut [const { MaybeUninit::uninit() }; FEW_FIELDS])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); lines])
    }
}

fn complete(parsed: httparse::Result<usize>, length: usize) -> Result<(), Fault> {
    use httparse::Error;
    match parsed {
        Ok(httparse::Status::Complete(end)) if end == length => Ok(()),
        Ok(_) => Err(Fault::Malformed("The head does not end where it should.")),
        Err(Error::TooManyHeaders) => Err(Fault::TooManyFields),
        Err(Error::HeaderName) => Err(Fault::Malformed("The name of a header field is not valid.")),
        Err(Error::HeaderValue) => Err(Fault::Malformed("The value of a header field is not valid.")),
        Err(Error::Token) => Err(Fault::Malformed("The first line is not valid.")),
        Err(_) => Err(Fault::Malformed("The head is not valid.")),
    }
}

/// Whether the first line ends with a version of HTTP that has the form of one (RFC 9112 section 2.3).
fn names_http(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

fn version(minor: Option<u8>) -> Result<Version, Fault> {
    match minor {
        Some(0) => Ok(Version::HTTP_10),
        Some(1) => Ok(Version::HTTP_11),
        _ => Err(Fault::UnknownVersion),
    }
}

/// The target in any of its forms (RFC 9112 section 3.2). A fragment is for the client alone.
fn uri(head: &Bytes, target: &str, method: &Method) -> Result<Uri, Fault> {
    let invalid = Fault::Malformed("The target is not valid.");
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        return Err(invalid);
    }
    let bytes = head.slice_ref(target.as_bytes());
    if target.starts_with('/') {
        return PathAndQuery::from_maybe_shared(bytes).map(Uri::from).map_err(|_| invalid);
    }
    let uri = Uri::from_maybe_shared(bytes).map_err(|_| invalid)?;
    // The authority alone is for tunnels, the asterisk for questions about the server.
    let is_known =
        uri.scheme().is_some() || *method == Method::CONNECT || (*method == Method::OPTIONS && target == "*");
    if is_known { Ok(uri) } else { Err(invalid) }
}

/// What `Connection` says about the time after the message (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, Default)]
struct Persistence {
    says_close: bool,
    says_keep_alive: bool,
}

impl Persistence {
    fn read(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.says_close |= token.eq_ignore_ascii_case(b"close");
            self.says_keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn is_persistent(self, version: Version) -> bool {
        !self.says_close && (version == Version::HTTP_11 || self.says_keep_alive)
    }
}

/// The fields of a message, and what they say about it.
struct Fields {
    headers: HeaderMap,
    framing: Framing,
    connection: Persistence,
    expects_continue: bool,
}

impl Fields {
    fn of(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<Self, Fault> {
        let mut headers = HeaderMap::with_capacity(fields.len() + fields.len() / 2 + 4);
        let (mut framing, mut connection, mut expects_continue) = (Framing::default(), Persistence::default(), false);
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let name = name.map_err(|_| Fault::Malformed("The name of a header field is not valid."))?;
            match field.name.len() {
                6 if name == EXPECT => expects_continue = field.value.eq_ignore_ascii_case(b"100-continue"),
                10 if name == CONNECTION => connection.read(field.value),
                14 if name == CONTENT_LENGTH => framing.content_length(field.value)?,
                17 if name == TRANSFER_ENCODING => framing.transfer_encoding(field.value)?,
                _ => {}
            }
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
            headers.append(name, value.map_err(|_| Fault::Malformed("The value of a header field is not valid."))?);
        }
        Ok(Self { headers, framing, connection, expects_continue })
    }
}

impl Fault {
    /// What a client is told, and the status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Malformed(_) | Self::Ambiguous(_) => StatusCode::BAD_REQUEST,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::UnknownVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }

    /// The stable name of the reason.
    pub fn code(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "header-too-large",
            Self::TooManyFields => "too-many-header-fields",
            Self::TargetTooLong => "uri-too-long",
            Self::Malformed(_) => "bad-request",
            Self::Ambiguous(_) => "bad-framing",
            Self::UnknownCoding => "transfer-coding-unknown",
            Self::UnknownVersion => "http-version-unknown",
        }
    }

    pub fn detail(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "The header of the request is too large.",
            Self::TooManyFields => "The request has too many header fields.",
            Self::TargetTooLong => "The target of the request is too long.",
            Self::Malformed(detail) | Self::Ambiguous(detail) => detail,
            Self::UnknownCoding => "The only transfer coding that the gateway knows is chunked.",
            Self::UnknownVersion => "The gateway speaks HTTP/1.0, HTTP/1.1 and HTTP/2.",
        }
    }
}
