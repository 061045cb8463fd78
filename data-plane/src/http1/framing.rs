//! How long the body of a message is (RFC 9112 section 6), and reading it to exactly there.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version};

use super::chunked::Chunked;
use super::head::Fault;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// 0 where there is none.
    Exact(u64),
    Chunked,
    /// Of a response only: it ends when its connection does.
    UntilClose,
}

/// The fields that say how long a body is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    content_length: Option<u64>,
    is_chunked: bool,
    has_unknown_coding: bool,
}

impl Framing {
    /// Digits, once. A list of equal numbers may be repaired by RFC 9110 section 8.6; here it is refused.
    pub fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let is_number = !value.is_empty() && value.len() < 20 && value.iter().all(u8::is_ascii_digit);
        if !is_number {
            return Err(Fault::Ambiguous("Content-Length is no number of bytes."));
        }
        let length = value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Fault::Ambiguous("There is more than one Content-Length.")),
        }
    }

    /// `chunked`, once and alone.
    pub fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.is_chunked || self.has_unknown_coding {
            return Err(Fault::Ambiguous("There is more than one Transfer-Encoding."));
        }
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        if !last.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Ambiguous("The last transfer coding is not chunked."));
        }
        self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
        self.has_unknown_coding = !self.is_chunked;
        Ok(())
    }

    pub fn of_request(self, version: Version) -> Result<Length, Fault> {
        self.check(version)?;
        Ok(if self.is_chunked { Length::Chunked } else { Length::Exact(self.content_length.unwrap_or(0)) })
    }

    pub fn of_response(self, version: Version, status: StatusCode, method: &Method) -> Result<Length, Fault> {
        self.check(version)?;
        let has_none = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || method == Method::HEAD;
        Ok(match self.content_length {
            _ if has_none => Length::Exact(0),
            _ if self.is_chunked => Length::Chunked,
            Some(length) => Length::Exact(length),
            None => Length::UntilClose,
        })
    }

    fn check(self, version: Version) -> Result<(), Fault> {
        if self.has_unknown_coding {
            return Err(Fault::UnknownCoding);
        }
        if self.is_chunked && self.content_length.is_some() {
            return Err(Fault::Ambiguous("There are both Content-Length and Transfer-Encoding."));
        }
        if self.is_chunked && version == Version::HTTP_10 {
            return Err(Fault::Ambiguous("HTTP/1.0 has no Transfer-Encoding."));
        }
        Ok(())
    }
}

/// A part of a body.
#[derive(Debug)]
pub enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Takes a body out of what was read, and nothing behind it.
#[derive(Debug)]
pub enum Decoder {
    Done,
    Exact(u64),
    Chunked(Chunked),
    UntilClose,
}

impl Decoder {
    pub fn new(length: Length, trailer_bytes: usize) -> Self {
        match length {
            Length::Exact(0) => Self::Done,
            Length::Exact(length) => Self::Exact(length),
            Length::Chunked => Self::Chunked(Chunked::new(trailer_bytes)),
            Length::UntilClose => Self::UntilClose,
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes are left, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Exact(length) => Some(*length),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The next part, or nothing when more must be read for it.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Part>, Fault> {
        let part = match self {
            Self::Done => return Ok(Some(Part::End)),
            Self::Exact(_) | Self::UntilClose if !input.has_remaining() => return Ok(None),
            Self::Exact(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                Part::Data(input.split_to(count).freeze())
            }
            Self::UntilClose => Part::Data(input.split().freeze()),
            Self::Chunked(chunked) => match chunked.next(input)? {
                Some(part) => part,
                None => return Ok(None),
            },
        };
        if matches!(self, Self::Exact(0)) || matches!(part, Part::Trailers(_) | Part::End) {
            *self = Self::Done;
        }
        Ok(Some(part))
    }

    /// The peer has ended: whether that is where the body ends.
    pub fn ended(&mut self) -> bool {
        if matches!(self, Self::UntilClose) {
            *self = Self::Done;
        }
        self.is_done()
    }
}
