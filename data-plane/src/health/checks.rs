//! One active check of one target: a connection of its own, a question, and whether the answer will do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::resource::service::{HealthCheck, HttpCheck, Protocol, ProxyVersion, StatusRange};
use model::snapshot::Endpoint;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::dns::Names;
use crate::http1::Stream;
use crate::upstream::tls::{self, Offer};

/// How much of an answer is looked at.
const MAX_BODY: usize = 64 * 1024;

/// For the connection by which a target shows that it is there again.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// Headers of the PROXY protocol for connections that are for nobody.
const FOR_NOBODY_V1: &[u8] = b"PROXY UNKNOWN\r\n";
const FOR_NOBODY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A message of `grpc.health.v1.HealthCheckResponse` with the status `SERVING`.
const SERVING: &[u8] = &[0x08, 0x01];

/// Whoever asks one target.
pub(super) struct Checker {
    names: Names,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) terms: Arc<HealthCheck>,
}

/// Whether a target takes a connection.
pub(super) async fn probe(names: &Names, endpoint: &Endpoint) -> bool {
    tokio::time::timeout(PROBE_WITHIN, reach(names, endpoint)).await.is_ok_and(|reached| reached.is_ok())
}

/// Where requests would find it too.
async fn reach(names: &Names, endpoint: &Endpoint) -> Result<TcpStream, String> {
    let (host, port) = (endpoint.url.host.as_str(), endpoint.url.port);
    let addresses: Arc<[IpAddr]> = match host.parse() {
        Ok(address) => Arc::new([address]),
        Err(_) => {
            let found = names.addresses(host, endpoint.name_servers.as_ref()).await;
            found.map_err(|error| format!("`{host}` has no address: {error}"))?.addresses
        }
    };
    let addresses: Vec<SocketAddr> = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
    TcpStream::connect(&*addresses).await.map_err(|error| format!("no connection: {error}"))
}

impl Checker {
    pub(super) fn new(names: Names, endpoint: Arc<Endpoint>, terms: Arc<HealthCheck>) -> Self {
        Self { names, endpoint, terms }
    }

    /// Asks once: nothing if the target is well, and otherwise why not.
    pub(super) async fn check(&self) -> Result<(), String> {
        let timeout = self.terms.timeout;
        let asked = tokio::time::timeout(timeout.get(), self.ask()).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {timeout}")))
    }

    async fn ask(&self) -> Result<(), String> {
        let speaks_http2 = self.terms.grpc.is_some() || self.endpoint.protocol == Protocol::Http2;
        let stream = self.connect(speaks_http2).await?;
        let Some(request) = self.request()? else { return Ok(()) };
        let (status, body) = answer(stream, request, speaks_http2).await?;
        match (&self.terms.http, &self.terms.grpc) {
            (Some(check), _) => judge_http(check, status, &body),
            (None, Some(_)) => judge_grpc(status, &body),
            (None, None) => Ok(()),
        }
    }

    /// What is asked, if a connection alone does not tell enough.
    fn request(&self) -> Result<Option<Request<Full<Bytes>>>, String> {
        match (&self.terms.http, &self.terms.grpc) {
            (Some(check), _) => self.http_request(check).map(Some),
            (None, Some(check)) => self.grpc_request(&check.service).map(Some),
            (None, None) => Ok(None),
        }
    }

    async fn connect(&self, speaks_http2: bool) -> Result<Stream, String> {
        let mut stream = reach(&self.names, &self.endpoint).await?;
        // Only a socket that is broken already refuses it, which the next write tells better.
        let _ = stream.set_nodelay(true);
        let header = match self.endpoint.proxy_protocol {
            Some(ProxyVersion::V1) => FOR_NOBODY_V1,
            Some(ProxyVersion::V2) => FOR_NOBODY_V2,
            None => &[],
        };
        stream.write_all(header).await.map_err(|error| format!("header of the PROXY protocol: {error}"))?;
        let Some(settings) = &self.endpoint.tls else { return Ok(Stream::Plain(stream)) };
        let offer = if speaks_http2 { Offer::Http2 } else { Offer::Http1 };
        let config = tls::client_config(settings, offer).await?;
        let name = tls::server_name(settings, &self.endpoint.url.host)?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    fn http_request(&self, check: &HttpCheck) -> Result<Request<Full<Bytes>>, String> {
        let host = check.host.clone().unwrap_or_else(|| self.endpoint.url.authority());
        let request = Request::get(&*check.path).header(header::HOST, host).header(header::USER_AGENT, "sluice-check");
        request.body(Full::default()).map_err(|error| error.to_string())
    }

    fn grpc_request(&self, service: &str) -> Result<Request<Full<Bytes>>, String> {
        let mut message = BytesMut::new();
        if !service.is_empty() {
            // Field 1, a string: its length in groups of seven bits.
            message.extend_from_slice(&[0x0a]);
            let mut length = service.len();
            while length >= 0x80 {
                message.extend_from_slice(&[u8::try_from(length & 0x7f).expect("seven bits") | 0x80]);
                length >>= 7;
            }
            message.extend_from_slice(&[u8::try_from(length).expect("seven bits")]);
            message.extend_from_slice(service.as_bytes());
        }
        let mut body = BytesMut::from(&[0][..]);
        body.extend_from_slice(&u32::try_from(message.len()).map_err(|error| error.to_string())?.to_be_bytes());
        body.extend_from_slice(&message);
        let scheme = if self.endpoint.url.https { "https" } else { "http" };
        let uri = format!("{scheme}://{}/grpc.health.v1.Health/Check", self.endpoint.url.authority());
        let request = Request::builder().method(Method::POST).uri(uri).version(Version::HTTP_2);
        let request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
        request.body(Full::new(body.freeze())).map_err(|error| error.to_string())
    }
}

/// The status and the beginning of the body of an answer.
async fn answer(
    stream: Stream,
    mut request: Request<Full<Bytes>>,
    speaks_http2: bool,
) -> Result<(StatusCode, Bytes), String> {
    let broken = |error: hyper::Error| format!("no valid answer: {error}");
    let io = TokioIo::new(stream);
    if !speaks_http2 {
        let (mut sender, connection) = http1::handshake(io).await.map_err(broken)?;
        return beside(connection, async { read(sender.send_request(request).await.map_err(broken)?).await }).await;
    }
    if let Some(host) = request.headers_mut().remove(header::HOST) {
        let host = host.to_str().map_err(|error| error.to_string())?;
        let uri = format!("http://{host}{}", request.uri());
        *request.uri_mut() = uri.parse().map_err(|_| format!("`{uri}` cannot be asked for"))?;
    }
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
    beside(connection, async { read(sender.send_request(request).await.map_err(broken)?).await }).await
}

/// Drives a connection for as long as an exchange on it takes.
async fn beside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    match select(std::pin::pin!(exchange), std::pin::pin!(connection)).await {
        Either::Left((result, _)) => result,
        // What had come before its end is still to be read.
        Either::Right((_, exchange)) => exchange.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), String> {
    let (parts, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    while body.len() < MAX_BODY {
        let Some(frame) = incoming.frame().await else { break };
        let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
        if let Some(data) = frame.data_ref() {
            body.extend_from_slice(&data[..data.len().min(MAX_BODY - body.len())]);
        }
    }
    Ok((parts.status, body.freeze()))
}

fn judge_http(check: &HttpCheck, status: StatusCode, body: &[u8]) -> Result<(), String> {
    let is_expected = match &check.expected_status[..] {
        [] => StatusRange::SUCCESS.holds(status.as_u16()),
        ranges => ranges.iter().any(|range| range.holds(status.as_u16())),
    };
    if !is_expected {
        return Err(format!("it answered {}", status.as_u16()));
    }
    match &check.expected_body {
        Some(text) if memchr::memmem::find(body, text.as_bytes()).is_none() => {
            Err("its answer does not hold the text that was expected".to_owned())
        }
        _ => Ok(()),
    }
}

/// A frame that holds the message, whatever the trailers say.
fn judge_grpc(status: StatusCode, body: &[u8]) -> Result<(), String> {
    if status != StatusCode::OK {
        return Err(format!("it answered {}", status.as_u16()));
    }
    match body.split_at_checked(5) {
        Some((_, message)) if message.starts_with(SERVING) => Ok(()),
        Some(_) => Err("it does not say that it is serving".to_owned()),
        None => Err("it has no health to tell of, as `grpc.health.v1.Health` has".to_owned()),
    }
}
