//! From a connection to its requests: TLS, telling the protocol, and the HTTP codec with its bounds.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::io::{Observed, Prefix};
use super::watch::{Protocol, Verdict, Watch};
use crate::body::Body;
use crate::proxy;
use crate::settings::Limits;

/// What every HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The codecs, set up once for a core.
pub struct Http {
    http1: http1::Builder,
    http2: http2::Builder<OnThisCore>,
}

impl Http {
    pub fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        // A flat copy of head and small body is cheaper than a vectored write. `pipeline_flush` stays off: it buffers
        // without bound for a client that does not read, and holds back a stream while another request waits.
        http1.writev(false).header_read_timeout(None);
        // The codec's own bounds lie above ours, which answer in a readable way; these answer with a bare status.
        http1.max_headers(limits.header_fields + limits.header_fields / 4);
        http1.max_buf_size((limits.header_bytes + limits.uri_bytes).max(8 * 1024) * 2);
        let mut http2 = http2::Builder::new(OnThisCore);
        http2
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_frame_size(16 * 1024)
            .max_send_buf_size(limits.stream_window as usize)
            .header_table_size(4096)
            .max_header_list_size(u32::try_from(limits.header_bytes + limits.header_bytes / 4).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(128);
        Self { http1, http2 }
    }
}

/// Runs streams of HTTP/2 on the core that their connection is on.
#[derive(Clone, Copy)]
struct OnThisCore;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisCore {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stream);
    }
}

/// Serves a connection until its end.
pub async fn serve(connection: Rc<Connection>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    match tls {
        Some(acceptor) => serve_tls(connection, stream, acceptor).await,
        None => serve_plain(connection, stream).await,
    }
}

async fn serve_tls(connection: Rc<Connection>, stream: TcpStream, acceptor: TlsAcceptor) {
    let deadline = connection.core.clock.deadline(connection.core.limits.tls_handshake);
    let stream = tokio::select! {
        accepted = acceptor.accept(stream) => match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(client.address = %connection.client.address, %error, "a TLS handshake failed");
                // Who only looks whether somebody listens leaves without a word.
                let is_gone = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
                return connection.refused(if is_gone { "tls-abandoned" } else { "tls-handshake-failed" });
            }
        },
        () = deadline => return connection.refused("tls-handshake-timeout"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_http2(connection, stream, Prefix::default()).await;
    } else {
        serve_http1(connection, stream, Prefix::default()).await;
    }
}

async fn serve_plain(connection: Rc<Connection>, mut stream: TcpStream) {
    let mut watch = Watch::new(connection.clone(), Protocol::Http1);
    let mut prefix = Prefix::default();
    let protocol = {
        let mut told = pin!(tell(&mut stream, &mut prefix));
        let told = poll_fn(|context| match told.as_mut().poll(context) {
            Poll::Ready(protocol) => Poll::Ready(Ok(protocol)),
            Poll::Pending => watch.poll(context).map(Err),
        });
        told.await
    };
    drop(watch);
    match protocol {
        Ok(Some(Protocol::Http1)) => serve_http1(connection, stream, prefix).await,
        Ok(Some(Protocol::Http2)) => serve_http2(connection, stream, prefix).await,
        // Gone, or asked to go before it said anything.
        Ok(None) | Err(_) => {}
    }
}

/// Reads as much as it takes to tell HTTP/2 by prior knowledge (RFC 9113 section 3.3) from HTTP/1.
async fn tell(stream: &mut TcpStream, prefix: &mut Prefix) -> Option<Protocol> {
    loop {
        let count = stream.read(&mut prefix.bytes[prefix.length..]).await.ok()?;
        if count == 0 {
            return None;
        }
        prefix.length += count;
        if prefix.bytes[..prefix.length] != PREFACE[..prefix.length] {
            return Some(Protocol::Http1);
        }
        if prefix.length == PREFACE.len() {
            return Some(Protocol::Http2);
        }
    }
}

async fn serve_http1<S>(connection: Rc<Connection>, stream: S, prefix: Prefix)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = TokioIo::new(Observed::new(stream, prefix, connection.traffic.clone(), Protocol::Http1));
    let serving = connection.clone();
    let service = service_fn(move |request| answer(serving.clone(), request));
    let mut http = connection.core.http.http1.serve_connection(io, service);
    let end = drive(&connection, Protocol::Http1, Pin::new(&mut http), http1::Connection::graceful_shutdown).await;
    // Taken however it ended: a tunnel that is left there would keep the connection alive.
    let tunnel = connection.tunnel.take();
    match end {
        Ended::ByItself(Ok(())) => {
            if let Some(tunnel) = tunnel {
                let parts = http.into_parts();
                tunnel.run(&connection, parts.io.into_inner(), parts.read_buf).await;
            }
        }
        Ended::ByItself(Err(error)) => {
            tracing::debug!(client.address = %connection.client.address, %error, "a connection broke");
            if error.is_parse() {
                connection.refused(if error.is_parse_too_large() { "header-too-large" } else { "bad-request" });
            }
        }
        Ended::By(Verdict::SlowHead) => {
            connection.refused("header-too-slow");
            let mut stream = http.into_parts().io.into_inner().into_stream();
            let message = proxy::reject::slow_head();
            let farewell = async {
                if stream.write_all(&message).await.is_ok() {
                    let _ = stream.shutdown().await;
                }
            };
            tokio::select! {
                () = farewell => {}
                () = connection.core.clock.deadline(connection.core.limits.header) => {}
            }
        }
        Ended::By(_) => {}
    }
}

async fn serve_http2<S>(connection: Rc<Connection>, stream: S, prefix: Prefix)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = TokioIo::new(Observed::new(stream, prefix, connection.traffic.clone(), Protocol::Http2));
    let serving = connection.clone();
    let service = service_fn(move |request| answer(serving.clone(), request));
    let mut http = pin!(connection.core.http.http2.serve_connection(io, service));
    let end = drive(&connection, Protocol::Http2, http.as_mut(), http2::Connection::graceful_shutdown).await;
    if let Ended::ByItself(Err(error)) = end {
        tracing::debug!(client.address = %connection.client.address, %error, "a connection broke");
        let is_gone = error.source().is_some_and(|cause| cause.is::<std::io::Error>());
        if !is_gone {
            connection.refused("http2-error");
        }
    }
}

async fn answer(connection: Rc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(proxy::answer(connection, request).await)
}

/// How a connection ended.
enum Ended<T> {
    ByItself(T),
    By(Verdict),
}

/// Polls a codec under its watch.
async fn drive<C: Future>(
    connection: &Rc<Connection>,
    protocol: Protocol,
    mut codec: Pin<&mut C>,
    leave: fn(Pin<&mut C>),
) -> Ended<C::Output> {
    let mut watch = Watch::new(connection.clone(), protocol);
    poll_fn(move |context| {
        loop {
            if let Poll::Ready(output) = codec.as_mut().poll(context) {
                return Poll::Ready(Ended::ByItself(output));
            }
            match watch.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Verdict::Leave) => leave(codec.as_mut()),
                Poll::Ready(verdict) => return Poll::Ready(Ended::By(verdict)),
            }
        }
    })
    .await
}
