//! What the heads of messages say: their first lines, and the fields that are about the message itself
//! (RFC 9112 sections 3, 4, 6 and 9).

use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};
use model::fields::{Fields, Kind};

use super::framing::{Framing, Length};
use super::lines::Lines;

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
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub fields: Fields,
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
    pub fields: Fields,
    pub length: Length,
    pub is_persistent: bool,
}

impl RequestHead {
    /// Reads `GET /path HTTP/1.1` and what follows it (RFC 9112 section 3).
    pub fn parse(lines: Lines) -> Result<Self, Fault> {
        const INVALID: Fault = Fault::Malformed("The first line is not valid.");
        let line = &lines.head[..lines.first];
        let (method, rest) = line.split_at(memchr::memchr(b' ', line).ok_or(INVALID)?);
        let (target, version) = rest.split_last_chunk::<9>().ok_or(INVALID)?;
        let target = target.get(1..).filter(|target| !target.is_empty()).ok_or(INVALID)?;
        let version = version.strip_prefix(b" ").and_then(version_of).ok_or(INVALID)??;
        if memchr::memchr2(b' ', b'\t', target).is_some() {
            return Err(INVALID);
        }
        let method = Method::from_bytes(method).map_err(|_| INVALID)?;
        let uri = uri(&lines, target, &method)?;
        let said = Said::of(&lines)?;
        let length = said.framing.of_request(version)?;
        let is_persistent = said.connection.is_persistent(version);
        let expects_continue = said.expects_continue && version == Version::HTTP_11 && length != Length::Exact(0);
        let fields = Fields::of_head(lines.head, lines.fields);
        Ok(Self { method, uri, version, fields, length, is_persistent, expects_continue })
    }
}

impl ResponseHead {
    /// Whether the answer is still to come.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Reads `HTTP/1.1 200 OK` and what follows it (RFC 9112 section 4), as the answer to a request of the method.
    pub fn parse(lines: Lines, method: &Method) -> Result<Self, Fault> {
        const INVALID: Fault = Fault::Malformed("The first line is not valid.");
        let (version, rest) = lines.head[..lines.first].split_first_chunk::<8>().ok_or(INVALID)?;
        let version = version_of(version).ok_or(INVALID)??;
        // The reason, and the space before it, are of no use to anybody.
        let status = match rest {
            [b' ', status @ ..] => status.split(|byte| *byte == b' ').next().unwrap_or_default(),
            _ => return Err(INVALID),
        };
        let status = StatusCode::from_bytes(status).map_err(|_| Fault::Malformed("The status is none."))?;
        let said = Said::of(&lines)?;
        let length = said.framing.of_response(version, status, method)?;
        let is_persistent = said.connection.is_persistent(version) && length != Length::UntilClose;
        Ok(Self { status, fields: Fields::of_head(lines.head, lines.fields), length, is_persistent })
    }
}

/// Nothing if this is no version of HTTP at all (RFC 9112 section 2.3).
fn version_of(text: &[u8]) -> Option<Result<Version, Fault>> {
    match text {
        b"HTTP/1.1" => Some(Ok(Version::HTTP_11)),
        b"HTTP/1.0" => Some(Ok(Version::HTTP_10)),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Some(Err(Fault::UnknownVersion)),
        _ => None,
    }
}

/// The target in any of its forms (RFC 9112 section 3.2). A fragment is for the client alone.
fn uri(lines: &Lines, target: &[u8], method: &Method) -> Result<Uri, Fault> {
    let invalid = Fault::Malformed("The target is not valid.");
    if memchr::memchr(b'#', target).is_some() {
        return Err(invalid);
    }
    let bytes = lines.head.slice_ref(target);
    if target.starts_with(b"/") {
        return PathAndQuery::from_maybe_shared(bytes).map(Uri::from).map_err(|_| invalid);
    }
    let uri = Uri::from_maybe_shared(bytes).map_err(|_| invalid)?;
    // The authority alone is for tunnels, the asterisk for questions about the server.
    let is_known =
        uri.scheme().is_some() || *method == Method::CONNECT || (*method == Method::OPTIONS && target == b"*");
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

/// What the fields of a message say about it.
struct Said {
    framing: Framing,
    connection: Persistence,
    expects_continue: bool,
}

impl Said {
    fn of(lines: &Lines) -> Result<Self, Fault> {
        let mut said =
            Self { framing: Framing::default(), connection: Persistence::default(), expects_continue: false };
        for line in &lines.fields {
            let value = || line.value_in(&lines.head);
            match line.kind() {
                Kind::Expect => said.expects_continue = value().eq_ignore_ascii_case(b"100-continue"),
                Kind::Connection => said.connection.read(value()),
                Kind::ContentLength => said.framing.content_length(value())?,
                Kind::TransferEncoding => said.framing.transfer_encoding(value())?,
                _ => {}
            }
        }
        Ok(said)
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
