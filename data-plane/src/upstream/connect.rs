//! Making a connection: name, TCP, TLS, HTTP, all within one deadline.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header;
use model::fields::Fields;
use model::resource::service::{Connections, Protocol, ProxyVersion};
use model::snapshot::{EndpointTls, Service};
use model::value::Span;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::UpstreamError;
use super::connection::{Http2, Open};
use super::http1::Http1;
use super::pool::Pool;
use super::tls::{self, Offer};
use crate::http1::Stream;
use crate::proxy_protocol::{self, Addresses};

/// How long the others wait for an address that was tried first (RFC 8305 section 5), and how many are tried.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const MAX_ADDRESSES: usize = 16;

/// What a service says of connections to its targets.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// How many there may be, idle ones and those being made included.
    pub(super) most: u64,
    connections: Connections,
}

/// A connection on which nothing happens is asked for a sign of life, and breaks when there is none for half a minute: a target
/// that went without a word is noticed before a request meets it. By TCP, which asks idle connections too: many PINGs of
/// HTTP/2 are taken for an attack, and are for connections with requests (`pulse.rs`).
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// How much a connection may serve.
#[derive(Clone, Copy)]
pub(super) struct Life {
    /// When it is too old for another request.
    pub(super) expires_ns: u64,
    /// How long it may wait for a request.
    pub(super) idle_ns: u64,
    pub(super) requests_left: u32,
}

impl Terms {
    pub(super) fn of(service: &Service) -> Self {
        Self { most: service.limits.connections_per_target.into(), connections: service.connections }
    }

    /// Connections that are made together do not end together.
    fn life(&self, now_ns: u64) -> Life {
        let ns = |span: Span| u64::try_from(span.get().as_nanos()).unwrap_or(u64::MAX);
        let age_ns = ns(self.connections.max_age);
        let requests = self.connections.max_requests.unwrap_or(u32::MAX);
        Life {
            expires_ns: now_ns.saturating_add(age_ns - fastrand::u64(..=age_ns / 10)),
            idle_ns: ns(self.connections.max_idle),
            requests_left: requests - fastrand::u32(..=requests / 10),
        }
    }
}

/// A connection with the protocol that was agreed on.
pub(super) enum Connected {
    Http1(Http1),
    Http2(Http2),
}

/// What a new connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Any,
    /// A request that may switch protocols, which HTTP/2 cannot.
    Upgrade,
}

impl Purpose {
    /// What a request with these fields is for.
    pub(super) fn of(headers: &Fields) -> Self {
        if headers.contains_key(header::UPGRADE) { Self::Upgrade } else { Self::Any }
    }
}

impl Pool {
    /// Makes a connection within `timeout`.
    pub(super) async fn connect(
        &self,
        timeout: Duration,
        terms: Terms,
        purpose: Purpose,
        ends: Option<&Addresses>,
    ) -> Result<Connected, UpstreamError> {
        let open = Open::count(&self.counts);
        let deadline = self.core.clock.deadline(timeout);
        tokio::select! {
            connected = self.connect_all(open, terms, purpose, ends) => connected.map_err(UpstreamError::Unreachable),
            () = deadline => Err(UpstreamError::ConnectTimeout),
        }
    }

    async fn connect_all(
        &self,
        open: Open,
        terms: Terms,
        purpose: Purpose,
        ends: Option<&Addresses>,
    ) -> Result<Connected, String> {
        let url = &self.endpoint.url;
        let addresses = self.core.resolver.addresses(&url.host, self.endpoint.name_servers.as_ref()).await;
        let addresses = addresses.map_err(|error| format!("`{}` has no address: {error}", url.host))?;
        let mut stream = self.connect_any(&addresses).await?;
        // Only a socket that is broken already refuses it, which the next write tells better.
        let _ = stream.set_nodelay(true);
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&probes);
        if let (Some(version), Some(ends)) = (self.endpoint.proxy_protocol, ends) {
            let mut header = Vec::with_capacity(128);
            match version {
                ProxyVersion::V1 => proxy_protocol::write_v1(&mut header, *ends),
                ProxyVersion::V2 => proxy_protocol::write_v2(&mut header, *ends),
            }
            stream.write_all(&header).await.map_err(|error| format!("header of the PROXY protocol: {error}"))?;
        }
        match &self.endpoint.tls {
            Some(settings) => {
                let stream = self.encrypt(stream, settings, purpose).await?;
                let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                match (agreed.as_deref(), self.endpoint.protocol) {
                    (Some(b"h2"), _) => self.speak_http2(stream, open, terms).await,
                    (_, Protocol::Http2) => Err("it did not agree to HTTP/2 in the TLS handshake".into()),
                    _ => Ok(self.speak_http1(Stream::Tls(Box::new(stream.into())), open, terms)),
                }
            }
            None if self.endpoint.protocol == Protocol::Http2 => self.speak_http2(stream, open, terms).await,
            None => Ok(self.speak_http1(Stream::Plain(stream), open, terms)),
        }
    }

    /// Tries the addresses of a name: the next when one has failed, or has had a quarter of a second; the first connection
    /// wins, and the others are given up (RFC 8305, Happy Eyeballs).
    async fn connect_any(&self, addresses: &[IpAddr]) -> Result<TcpStream, String> {
        let mut rest = in_order(addresses);
        let mut under_way = FuturesUnordered::new();
        let mut failure = String::new();
        loop {
            let next = rest.next().map(|address| SocketAddr::new(address, self.endpoint.url.port));
            let has_next = next.is_some();
            under_way.extend(next.map(|address| async move {
                TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
            }));
            tokio::select! {
                biased;
                ended = under_way.next() => match ended {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(error)) => failure = error,
                    None => return Err(failure),
                },
                () = self.core.clock.deadline(ATTEMPT_DELAY), if has_next => {}
            }
        }
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
        settings: &EndpointTls,
        purpose: Purpose,
    ) -> Result<TlsStream<TcpStream>, String> {
        let offer = match (self.endpoint.protocol, purpose) {
            (Protocol::Http2, _) => Offer::Http2,
            (Protocol::Auto, Purpose::Any) => Offer::Either,
            (Protocol::Auto, Purpose::Upgrade) | (Protocol::Http1, _) => Offer::Http1,
        };
        let config = tls::client_config(settings, offer).await?;
        let name = tls::server_name(settings, &self.endpoint.url.host)?;
        let connector = TlsConnector::from(config);
        connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
    }

    fn speak_http1(&self, stream: Stream, open: Open, terms: Terms) -> Connected {
        Connected::Http1(Http1::new(stream, open, terms.life(self.core.clock.now().monotonic_ns)))
    }

    async fn speak_http2<T>(&self, stream: T, open: Open, terms: Terms) -> Result<Connected, String>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let now_ns = self.core.clock.now().monotonic_ns;
        let connection = Http2::handshake(stream, open, terms.life(now_ns), terms.connections.pings, now_ns).await;
        connection.map(Connected::Http2).map_err(|error| error.to_string())
    }
}

/// In which order addresses are tried: the families take turns, IPv6 first (RFC 8305 section 4), and within each one it is a
/// random address that comes first, so that connections are spread over them.
fn in_order(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let begin = fastrand::usize(..addresses.len().max(1));
    let turned = || addresses[begin..].iter().chain(&addresses[..begin]).copied();
    let (mut v6, mut v4) = (turned().filter(IpAddr::is_ipv6), turned().filter(IpAddr::is_ipv4));
    let pairs = std::iter::from_fn(move || match [v6.next(), v4.next()] {
        [None, None] => None,
        pair => Some(pair),
    });
    pairs.flatten().flatten().take(MAX_ADDRESSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_every_address_has_one() {
        let addresses =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "::1", "::2"].map(|text| text.parse::<IpAddr>().expect("one"));
        for seed in 0..50 {
            fastrand::seed(seed);
            let order: Vec<_> = in_order(&addresses).collect();
            let families: Vec<_> = order.iter().map(IpAddr::is_ipv6).collect();
            assert_eq!(families, [true, false, true, false, false]);
            assert!(addresses.iter().all(|address| order.contains(address)), "{order:?}");
        }
        assert_eq!(in_order(&addresses[..1]).collect::<Vec<_>>(), addresses[..1]);
        assert_eq!(in_order(&[addresses[0]; 100]).count(), MAX_ADDRESSES);
    }
}
