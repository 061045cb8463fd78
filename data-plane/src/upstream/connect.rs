//! Making a connection: name, TCP, TLS, HTTP, all within one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use model::resource::service::{Protocol, ProxyVersion};
use model::snapshot::EndpointTls;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::UpstreamError;
use super::connection::{Http2, Open};
use super::http1::Http1;
use super::pool::Pool;
use super::tls;
use crate::http1::Stream;
use crate::proxy_protocol::{self, Addresses};

/// Age at which a connection takes no further requests, so that load follows changes behind a name.
const MAX_AGE_NS: u64 = 3_600_000_000_000;

/// Up to a tenth less, so that connections made together do not end together.
const AGE_JITTER_NS: u64 = MAX_AGE_NS / 10;

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

impl Pool {
    /// Makes a connection within `timeout`.
    pub(super) async fn connect(
        &self,
        timeout: Duration,
        purpose: Purpose,
        ends: Option<&Addresses>,
    ) -> Result<Connected, UpstreamError> {
        let open = Open::count(&self.counts);
        let deadline = self.core.clock.deadline(timeout);
        tokio::select! {
            connected = self.connect_all(open, timeout, purpose, ends) => connected.map_err(UpstreamError::Unreachable),
            () = deadline => Err(UpstreamError::ConnectTimeout),
        }
    }

    async fn connect_all(
        &self,
        open: Open,
        timeout: Duration,
        purpose: Purpose,
        ends: Option<&Addresses>,
    ) -> Result<Connected, String> {
        let url = &self.endpoint.url;
        let addresses = self.core.resolver.addresses(&url.host).await;
        let addresses = addresses.map_err(|error| format!("`{}` has no address: {error}", url.host))?;
        let mut stream = self.connect_any(&addresses, timeout).await?;
        // Only a socket that is broken already refuses it, which the next write tells better.
        let _ = stream.set_nodelay(true);
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
                    (Some(b"h2"), _) => self.speak_http2(stream, open).await,
                    (_, Protocol::Http2) => Err("it did not agree to HTTP/2 in the TLS handshake".into()),
                    _ => Ok(self.speak_http1(Stream::Tls(Box::new(stream.into())), open)),
                }
            }
            None if self.endpoint.protocol == Protocol::Http2 => self.speak_http2(stream, open).await,
            None => Ok(self.speak_http1(Stream::Plain(stream), open)),
        }
    }

    /// Tries one address after the other, from a random one on: each gets its part of the time.
    async fn connect_any(&self, addresses: &[IpAddr], timeout: Duration) -> Result<TcpStream, String> {
        let share = timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let begin = fastrand::usize(..addresses.len());
        let mut failure = String::new();
        for address in addresses[begin..].iter().chain(&addresses[..begin]) {
            let address = SocketAddr::new(*address, self.endpoint.url.port);
            let connected = tokio::select! {
                connected = TcpStream::connect(address) => connected,
                () = self.core.clock.deadline(share) => Err(io::ErrorKind::TimedOut.into()),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = format!("{address}: {error}"),
            }
        }
        Err(failure)
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
        settings: &EndpointTls,
        purpose: Purpose,
    ) -> Result<TlsStream<TcpStream>, String> {
        let (offer, cell) = match (self.endpoint.protocol, purpose) {
            (Protocol::Http2, _) => (tls::HTTP2, &self.tls),
            (Protocol::Auto, Purpose::Any) => (tls::EITHER, &self.tls),
            (Protocol::Auto, Purpose::Upgrade) => (tls::HTTP1, &self.tls_for_upgrades),
            (Protocol::Http1, _) => (tls::HTTP1, &self.tls),
        };
        let config = match cell.get() {
            Some(config) => config,
            None => {
                let config = tls::client_config(settings, offer).await?;
                cell.get_or_init(|| config)
            }
        };
        let name = tls::server_name(settings, &self.endpoint.url.host)?;
        let connector = TlsConnector::from(std::sync::Arc::clone(config));
        connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
    }

    fn speak_http1(&self, stream: Stream, open: Open) -> Connected {
        Connected::Http1(Http1::new(stream, open, self.expiry_ns()))
    }

    async fn speak_http2<T>(&self, stream: T, open: Open) -> Result<Connected, String>
    where
        TokioIo<T>: Read + Write + Unpin + 'static,
    {
        let now_ns = self.core.clock.now().monotonic_ns;
        let connection = Http2::handshake(TokioIo::new(stream), open, self.expiry_ns(), now_ns).await;
        connection.map(Connected::Http2).map_err(|error| error.to_string())
    }

    fn expiry_ns(&self) -> u64 {
        self.core.clock.now().monotonic_ns + MAX_AGE_NS - fastrand::u64(..AGE_JITTER_NS)
    }
}
