//! From a connection to its protocol: TLS, ALPN or the first bytes, and the bounds of the codecs.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use model::resource::listener::Limits;
use rustls::pki_types::UnixTime;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use super::http1::LINGER;
use super::tls::ListenerTls;
use super::watch::{Protocol, Watch};
use super::{http1, http2};
use crate::http1::{Bounds, Stream};

/// What every HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FIRST_READ_BYTES: usize = 4 * 1024;

/// The codecs' own bounds lie above those of the intake, which answers with a request's identifier and log line.
pub fn above(limit: u32) -> u32 {
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

/// Serves a connection until its end. What it takes to get as far as its protocol, and what each protocol takes, lies in
/// boxes of their own: a connection holds the memory of what it is, not of the largest that it could have been.
pub async fn serve(connection: Rc<Connection>, stream: TcpStream, input: BytesMut) {
    let terms = connection.terms.clone();
    match &terms.tls {
        // It is read only as long as it could be something that TLS never begins with.
        Some(_) if !input.is_empty() => connection.refused("tls-handshake-failed"),
        Some(tls) => {
            let Some(stream) = Box::pin(shake_hands(&connection, stream, tls)).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                Box::pin(http2::serve(connection, stream, BytesMut::new())).await;
            } else {
                let stream = Stream::Tls(Box::new(stream.into()));
                Box::pin(http1::serve(connection, stream, BytesMut::new())).await;
            }
        }
        None => serve_plain(connection, stream, input).await,
    }
}

/// The stream within TLS, of which the connection knows what was negotiated.
async fn shake_hands(
    connection: &Rc<Connection>,
    stream: TcpStream,
    tls: &ListenerTls,
) -> Option<TlsStream<TcpStream>> {
    let deadline = connection.core.clock.deadline(connection.terms.limits.tls_handshake.get());
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let shake_hands = async {
        let stream = acceptor.accept(stream).into_fallible().await?;
        match tls.negotiated(stream.get_ref().1, UnixTime::now()) {
            Ok(negotiated) => Ok((stream, negotiated)),
            Err(error) => Err((error, stream.into_inner().0)),
        }
    };
    tokio::select! {
        shaken = shake_hands => match shaken {
            Ok((stream, negotiated)) => {
                let _ = connection.tls.set(negotiated);
                Some(stream)
            }
            Err((error, stream)) => {
                tracing::debug!(client.address = %connection.client.address, %error, "a TLS handshake failed");
                // Who only looks whether somebody listens leaves without a word.
                let is_gone = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
                connection.refused(if is_gone { "tls-abandoned" } else { "tls-handshake-failed" });
                if !is_gone {
                    Box::pin(drain(connection, stream)).await;
                }
                None
            }
        },
        () = deadline => {
            connection.refused("tls-handshake-timeout");
            None
        }
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
        Ok(Some(Protocol::Http1)) => Box::pin(http1::serve(connection, Stream::Plain(stream), input)).await,
        Ok(Some(Protocol::Http2)) => Box::pin(http2::serve(connection, stream, input)).await,
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

/// Sends no more, and takes what still comes for a moment: closing at once would reset the connection, and the client
/// might never read why it is not let in.
async fn drain(connection: &Connection, mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        loop {
            stream.readable().await?;
            match stream.try_read(&mut [0; FIRST_READ_BYTES]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    tokio::select! {
        // Whoever is gone reads nothing.
        _ = drained => {}
        () = connection.core.clock.deadline(LINGER) => {}
    }
}
