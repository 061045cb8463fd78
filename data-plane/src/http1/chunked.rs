//! The chunked transfer coding (RFC 9112 section 7.1), read strictly: a size is 1 to 16 hexadecimal digits, every line
//! ends with CR LF, and extensions are bounded, have no control characters and go no further.

use bytes::{Buf, BytesMut};

use super::framing::Part;
use super::head::Fault;
use super::lines;

/// Bytes of chunk extensions in one body, in all: nobody needs them, and they could be sent without end.
const MAX_EXTENSION_BYTES: u32 = 8 * 1024;

const MAX_TRAILERS: usize = 64;

/// How far a chunked body has been read.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    extension_bytes: u32,
    trailer_bytes: usize,
}

#[derive(Debug)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    /// Behind the CR of the line with the size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    /// Behind the CR.
    DataEndLine,
    Trailers,
}

const START: State = State::Size { value: 0, digits: 0 };

fn invalid() -> Fault {
    Fault::Ambiguous("The chunks of the body are not valid.")
}

impl Chunked {
    pub fn new(trailer_bytes: usize) -> Self {
        Self { state: START, extension_bytes: 0, trailer_bytes }
    }

    /// The next part, or nothing when more must be read for it.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Part>, Fault> {
        while input.has_remaining() {
            match &mut self.state {
                State::Data { left } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Some(Part::Data(input.split_to(count).freeze())));
                }
                State::Trailers => return self.trailers(input),
                _ => {
                    let byte = input.get_u8();
                    self.step(byte)?;
                }
            }
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match (&self.state, byte) {
            (State::Size { value, digits }, byte) if byte.is_ascii_hexdigit() && *digits < 16 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                State::Size { value: (value << 4) | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeEnd { size: *value },
            (State::Size { value, digits: 1.. }, b';') => State::Extension { size: *value },
            (State::Extension { size }, b'\r') => State::SizeEnd { size: *size },
            (State::Extension { size }, byte) if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => {
                self.extension_bytes += 1;
                if self.extension_bytes > MAX_EXTENSION_BYTES {
                    return Err(invalid());
                }
                State::Extension { size: *size }
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailers,
            (State::SizeEnd { size }, b'\n') => State::Data { left: *size },
            (State::DataEnd, b'\r') => State::DataEndLine,
            (State::DataEndLine, b'\n') => START,
            _ => return Err(invalid()),
        };
        Ok(())
    }

    /// The trailer section, once all of it is there. Nothing in it may change how the message is understood
    /// (RFC 9110 section 6.5.1).
    fn trailers(&mut self, input: &mut BytesMut) -> Result<Option<Part>, Fault> {
        if input.starts_with(b"\r\n") {
            input.advance(2);
            return Ok(Some(Part::End));
        }
        let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
            return if input.len() > self.trailer_bytes { Err(Fault::HeadTooLarge) } else { Ok(None) };
        };
        if end > self.trailer_bytes {
            return Err(Fault::HeadTooLarge);
        }
        let section = input.split_to(end + 4);
        let trailers = lines::fields(section, MAX_TRAILERS)?;
        if trailers.iter().any(|(name, _)| is_forbidden_in_trailers(name)) {
            return Err(Fault::Ambiguous("A trailer field is one that a header only may have."));
        }
        Ok(Some(Part::Trailers(trailers.to_map())))
    }
}

/// Fields for framing, routing, authentication and the handling of connection and content: they mean nothing in trailers,
/// or too much (RFC 9110 section 6.5.1).
pub fn is_forbidden_in_trailers(name: &[u8]) -> bool {
    matches!(
        name,
        b"content-length"
            | b"transfer-encoding"
            | b"host"
            | b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"upgrade"
            | b"te"
            | b"trailer"
            | b"expect"
            | b"authorization"
            | b"proxy-authorization"
            | b"cookie"
            | b"set-cookie"
            | b"content-encoding"
            | b"content-type"
            | b"content-range"
            | b"range"
            | b"cache-control"
            | b"max-forwards"
    )
}
