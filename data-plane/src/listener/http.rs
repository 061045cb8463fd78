//! From a connection to its requests: TLS, telling the protocol, and the HTTP codec with its bounds.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use http::request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use model::fields::Fields;
use model::resource::listener::Limits;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::frames::Frames;
use super::http1;
use super::io::Observed;
use super::tls::ListenerTls;
use super::watch::{Protocol, Verdict, Watch};
use super::websocket::Opening;
use crate::body::Body;
use crate::http1::{Bounds, Stream};
use crate::proxy::intake::Received;
use crate::proxy::{self, Reply};

/// What every HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FIRST_READ_BYTES: usize = 4 * 1024;

/// What a client may send ahead on a stream of HTTP/2, and on all of a connection (RFC 9113 section 5.2).
pub const STREAM_WINDOW: u32 = 64 * 1024;
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The codecs' own bounds lie above those of the intake, which answers with a request's identifier and log line.
fn above(limit: u32) -> u32 {
    limit + limit / 4
}

/// The bounds of HTTP/1.1.
#[must_use]
pub fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        head_bytes: above(limits.header_bytes + limits.target_bytes) as usize,
        target_bytes: above(limits.target_bytes) as usize,
        fields: above(limits.header_fields) as usize,
    }
}

/// The codec of HTTP/2.
#[must_use]
pub fn http2(limits: &Limits) -> http2::Builder<OnThisCore> {
    let mut http2 = http2::Builder::new(OnThisCore);
    http2
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(16 * 1024)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .header_table_size(4096)
        .max_header_list_size(above(limits.header_bytes))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .enable_connect_protocol();
    http2
}

/// Runs streams of HTTP/2 on the core that their connection is on.
#[derive(Clone, Copy)]
pub struct OnThisCore;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisCore {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stream);
    }
}

/// Serves a connection until its end.
pub async fn serve(connection: Rc<Connection>, stream: TcpStream, input: BytesMut) {
    let terms = connection.terms.clone();
    match &terms.tls {
        // It is read only as long as it could be something that TLS never begins with.
        Some(_) if !input.is_empty() => connection.refused("tls-handshake-failed"),
        Some(tls) => serve_tls(connection, stream, tls).await,
        None => serve_plain(connection, stream, input).await,
    }
}

async fn serve_tls(connection: Rc<Connection>, stream: TcpStream, tls: &ListenerTls) {
    let deadline = connection.core.clock.deadline(connection.terms.limits.tls_handshake.get());
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let shake_hands = async {
        let stream = acceptor.accept(stream).await?;
        let negotiated = tls.negotiated(stream.get_ref().1, UnixTime::now())?;
        Ok::<_, std::io::Error>((stream, negotiated))
    };
    let (stream, negotiated) = tokio::select! {
        shaken = shake_hands => match shaken {
            Ok(shaken) => shaken,
            Err(error) => {
                tracing::debug!(client.address = %connection.client.address, %error, "a TLS handshake failed");
                // Who only looks whether somebody listens leaves without a word.
                let is_gone = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
                return connection.refused(if is_gone { "tls-abandoned" } else { "tls-handshake-failed" });
            }
        },
        () = deadline => return connection.refused("tls-handshake-timeout"),
    };
    let _ = connection.tls.set(negotiated);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_http2(connection, stream, BytesMut::new()).await;
    } else {
        let stream = Stream::Tls(Box::new(stream.into()));
        http1::serve(connection, stream, BytesMut::new()).await;
    }
}

async fn serve_plain(connection: Rc<Connection>, stream: TcpStream, mut input: BytesMut) {
    let mut watch = Watch::new(connection.clone(), Protocol::Http1);
    let protocol = {
        let mut told = pin!(tell(&stream, &mut input));
        let told = poll_fn(|context| match told.as_mut().poll(context) {
            Poll::Ready(protocol) => Poll::Ready(Ok(protocol)),
            Poll::Pending => watch.poll(context).map(Err),
        });
        told.await
    };
    drop(watch);
    match protocol {
        Ok(Some(Protocol::Http1)) => http1::serve(connection, Stream::Plain(stream), input).await,
        Ok(Some(Protocol::Http2)) => serve_http2(connection, stream, input).await,
        // Gone, or asked to go before it said anything.
        Ok(None) | Err(_) => {}
    }
}

/// Reads as much as it takes to tell HTTP/2 by prior knowledge (RFC 9113 section 3.3) from HTTP/1.
async fn tell(stream: &TcpStream, input: &mut BytesMut) -> Option<Protocol> {
    loop {
        let length = input.len().min(PREFACE.len());
        if input[..length] != PREFACE[..length] {
            return Some(Protocol::Http1);
        }
        if length == PREFACE.len() {
            return Some(Protocol::Http2);
        }
        stream.readable().await.ok()?;
        input.reserve(FIRST_READ_BYTES);
        match stream.try_read_buf(input) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

async fn serve_http2<S>(connection: Rc<Connection>, stream: S, input: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let frames = Frames::new(connection.core.clock.clone());
    let observed = Observed::new(stream, input, connection.traffic.clone(), frames);
    let (fault, io) = (observed.fault(), TokioIo::new(observed));
    let serving = connection.clone();
    let service = service_fn(move |request| answer(serving.clone(), request));
    let mut http = pin!(connection.terms.http2.serve_connection(io, service));
    let end = drive(&connection, http.as_mut(), http2::Connection::graceful_shutdown).await;
    if let Some(Err(error)) = end {
        tracing::debug!(client.address = %connection.client.address, %error, "a connection broke");
        let is_gone = error.source().is_some_and(|cause| cause.is::<std::io::Error>());
        match fault.get() {
            Some(fault) => connection.refused(fault.code()),
            None if !is_gone => connection.refused("http2-error"),
            None => {}
        }
    }
}

async fn answer(connection: Rc<Connection>, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let opening = Opening::of(&mut request);
    let (parts, body) = request.into_parts();
    let request::Parts { method, uri, version, headers, .. } = parts;
    let received = Received { method, uri, version, headers: Fields::from(&headers) };
    let mut reply = proxy::answer(&connection, received, Body::incoming(body)).await;
    if let Some(opening) = opening {
        reply = opening.answered(&connection, reply);
    }
    let Reply { head, body } = reply;
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.to_map();
    Ok(response)
}

/// Polls the codec of HTTP/2 under its watch; nothing when the watch ended it.
async fn drive<C: Future>(
    connection: &Rc<Connection>,
    mut codec: Pin<&mut C>,
    leave: fn(Pin<&mut C>),
) -> Option<C::Output> {
    let mut watch = Watch::new(connection.clone(), Protocol::Http2);
    poll_fn(move |context| {
        loop {
            if let Poll::Ready(output) = codec.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            match watch.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Verdict::Leave) => leave(codec.as_mut()),
                Poll::Ready(Verdict::Close | Verdict::SlowHead) => return Poll::Ready(None),
            }
        }
    })
    .await
}
