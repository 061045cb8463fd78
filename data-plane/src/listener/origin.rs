//! Where a connection comes from: its peer, or whom a proxy in front names by the PROXY protocol ahead of everything
//! else.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use bytes::BytesMut;
use model::resource::listener::ProxyProtocolMode;
use model::snapshot::ProxyHeaders;
use tokio::net::TcpStream;

use super::terms::Terms;
use crate::clock::Clock;
use crate::proxy_protocol::{self, Addresses, Beginning, Malformed};

/// Where a connection comes from.
pub struct Origin {
    pub client: SocketAddr,
    /// The address that the client has connected to, if a proxy says so.
    pub destination: Option<SocketAddr>,
    /// Read from the connection already.
    pub input: BytesMut,
}

impl Origin {
    /// Nobody speaks for the peer.
    pub fn is(peer: SocketAddr) -> Self {
        Self { client: peer, destination: None, input: BytesMut::new() }
    }
}

/// Whether a peer may, or must, say for whom it has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    None,
    May,
    Must,
    /// Such peers are not let in.
    Unwanted,
}

impl Duty {
    pub fn of(peer: SocketAddr, rule: Option<&ProxyHeaders>) -> Self {
        let Some(rule) = rule else { return Self::None };
        match (rule.from.contains(peer.ip()), rule.mode) {
            (true, ProxyProtocolMode::Required) => Self::Must,
            (true, ProxyProtocolMode::Optional) => Self::May,
            (false, ProxyProtocolMode::Required) => Self::Unwanted,
            (false, ProxyProtocolMode::Optional) => Self::None,
        }
    }
}

/// Why a connection is given up before it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Unwanted,
    Missing,
    Malformed,
    TooSlow,
    Gone,
}

impl Refused {
    /// Nothing for peers that only look whether somebody listens.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Unwanted => Some("proxy-protocol-unwanted-peer"),
            Self::Missing => Some("proxy-protocol-missing"),
            Self::Malformed => Some("proxy-protocol-malformed"),
            Self::TooSlow => Some("proxy-protocol-timeout"),
            Self::Gone => None,
        }
    }
}

/// Reads the header that a proxy sends ahead, within the time for heads.
pub async fn told(
    stream: &TcpStream,
    peer: SocketAddr,
    duty: Duty,
    terms: &Terms,
    clock: &Clock,
) -> Result<Origin, Refused> {
    tokio::select! {
        origin = read(stream, peer, duty) => origin,
        () = clock.deadline(terms.limits.header_time.get()) => Err(Refused::TooSlow),
    }
}

async fn read(stream: &TcpStream, peer: SocketAddr, duty: Duty) -> Result<Origin, Refused> {
    let mut held = BytesMut::with_capacity(256);
    loop {
        let before = held.len();
        // What lies behind the header is for somebody else, who may want it from the socket: TLS.
        peek(stream, &mut held).await.map_err(|_| Refused::Gone)?;
        let length = match proxy_protocol::read(&held) {
            Ok(Beginning::Header { length, .. }) => length,
            Ok(Beginning::Part) => held.len(),
            Ok(Beginning::Other) => before,
            Err(Malformed) => return Err(Refused::Malformed),
        };
        let mut rest = held.split_off(before);
        rest.truncate(length - before);
        take(stream, &mut rest).map_err(|_| Refused::Gone)?;
        held.unsplit(rest);
        match proxy_protocol::read(&held) {
            Ok(Beginning::Header { addresses, .. }) => {
                let (client, destination) = match addresses {
                    Some(Addresses { source, destination }) => (source, Some(destination)),
                    None => (peer, None),
                };
                return Ok(Origin { client, destination, input: BytesMut::new() });
            }
            Ok(Beginning::Part) if length > before => {}
            _ if duty == Duty::Must => return Err(Refused::Missing),
            _ => return Ok(Origin { input: held, ..Origin::is(peer) }),
        }
    }
}

/// Adds what has come to `held` and leaves it in the socket.
async fn peek(stream: &TcpStream, held: &mut BytesMut) -> Result<(), Error> {
    let before = held.len();
    held.resize(before + 512, 0);
    let count = stream.peek(&mut held[before..]).await?;
    held.truncate(before + count);
    if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Takes what was seen already out of the socket.
fn take(stream: &TcpStream, seen: &mut [u8]) -> Result<(), Error> {
    let mut taken = 0;
    while taken < seen.len() {
        match stream.try_read(&mut seen[taken..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => taken += count,
        }
    }
    Ok(())
}
