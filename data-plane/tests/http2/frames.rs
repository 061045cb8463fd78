//! A client that sends whatever frames it is told to, right or wrong.
//!
//! Field blocks hold literals only, without Huffman coding (RFC 7541 section 6.2.2), so that any octet can be put into
//! them. The node is told to keep no dynamic table, so that its answers can be read without one.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::within;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// The octets of one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A field block of literals that are not indexed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// Text whose characters stand for one octet each.
fn string(block: &mut Vec<u8>, text: &str) {
    let octets: Vec<u8> = text.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect();
    integer(block, octets.len());
    block.extend(octets);
}

/// With a prefix of seven bits (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return block.push(u8::try_from(value).unwrap());
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap());
}

pub const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
pub const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")];

/// A head in one frame.
pub fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// `start` and then `more`.
pub fn with<'a>(start: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [start, more].concat()
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn number(&self, from: usize) -> u32 {
        u32::from_be_bytes(self.payload[from..from + 4].try_into().unwrap())
    }

    /// The status of a response, which stands first in its block.
    pub fn status(&self) -> u16 {
        let mut block = &self.payload[..];
        // An update of the size of the dynamic table (RFC 7541 section 6.3).
        while block[0] & 0xe0 == 0x20 {
            block = &block[1..];
        }
        match block[0] {
            // In the static table (RFC 7541 appendix A).
            indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            // A literal with the name of the static table.
            0x08 | 0x18 | 0x48 => match block[1] {
                3 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
                length => huffman_digits(&block[2..2 + usize::from(length & 0x7f)]),
            },
            other => panic!("no status: {other:#x}"),
        }
    }
}

/// Three digits in the Huffman code of RFC 7541 appendix B: `0` to `2` have five bits, the others six.
fn huffman_digits(octets: &[u8]) -> u16 {
    let mut bits = octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| u16::from(octet >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).fold(0, |code, _| code << 1 | bits.next().unwrap());
        let digit = if five < 3 { five } else { (five << 1 | bits.next().unwrap()) - 0x19 + 3 };
        number = number * 10 + digit;
    }
    number
}

/// What a node made of what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stream was answered to its end.
    Status(u16),
    /// The stream was reset for this reason, whatever came before.
    Reset(u32),
    /// The connection ended for this reason.
    Goaway(u32),
    /// The connection ended without a word.
    Closed,
}

pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// A connection on which nothing has been sent.
    pub async fn silent(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// A connection that has begun well.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_behind(address, &[]).await
    }

    /// The same, behind what a proxy says ahead of it.
    pub async fn connect_behind(address: SocketAddr, ahead: &[u8]) -> Self {
        let mut client = Self::silent(address).await;
        client.send([ahead, PREFACE, &settings(&[(HEADER_TABLE_SIZE, 0)])].concat()).await;
        client
    }

    /// Whether the node still took it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// The next frame; nothing when the connection ended.
    pub async fn read(&mut self) -> Option<Frame> {
        let mut start = [0; 9];
        within(self.stream.read_exact(&mut start)).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, start[0], start[1], start[2]]) as usize];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(start[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Some(Frame { kind: start[3], flags: start[4], stream, payload })
    }

    /// Reads until the stream or the connection has ended. Settings and pings of the node get what is due to them.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        let mut status = None;
        while let Some(frame) = self.read().await {
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    self.send(self::frame(SETTINGS, ACK, 0, &[])).await;
                }
                PING if frame.flags & ACK == 0 => {
                    self.send(self::frame(PING, ACK, 0, &frame.payload)).await;
                }
                GOAWAY if frame.number(4) != NO_ERROR => return Outcome::Goaway(frame.number(4)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                HEADERS if frame.stream == stream && status.is_none() => status = Some(frame.status()),
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.stream == stream && frame.flags & END_STREAM != 0 {
                return Outcome::Status(status.expect("an answer has a head"));
            }
        }
        Outcome::Closed
    }
}
