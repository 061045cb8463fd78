//! What lies between a socket and the HTTP codec: it counts, and it gives back what was read to tell the protocol.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::Protocol;
use crate::proxy;

/// What has passed on a connection; the connection's watch looks at it now and then.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
    /// The last attempt to write found the client's buffers full.
    pub is_write_blocked: Cell<bool>,
    /// Requests that have not ended.
    pub in_flight: Cell<u32>,
    /// There are answers that have not been written out.
    pub has_answers: Cell<bool>,
}

/// A stream to a client, plain or TLS.
pub struct Observed<S> {
    stream: S,
    /// Read from the stream already.
    prefix: Prefix,
    traffic: Rc<Traffic>,
    protocol: Protocol,
    /// Goes out in the place of what the codec says of its own accord.
    substitute: Option<Bytes>,
}

/// Up to as many bytes as it takes to tell HTTP/2 from HTTP/1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prefix {
    pub bytes: [u8; 24],
    pub length: usize,
    pub given: usize,
}

impl<S> Observed<S> {
    pub fn new(stream: S, prefix: Prefix, traffic: Rc<Traffic>, protocol: Protocol) -> Self {
        traffic.bytes_in.set(traffic.bytes_in.get() + prefix.length as u64);
        Self { stream, prefix, traffic, protocol, substitute: None }
    }

    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Whether nobody has asked for what is being written: of a head that it cannot read, the codec of HTTP/1
    /// says so itself, with a bare status.
    fn is_unasked(&self) -> bool {
        self.protocol == Protocol::Http1 && self.traffic.in_flight.get() == 0 && !self.traffic.has_answers.get()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.given < this.prefix.length {
            let rest = &this.prefix.bytes[this.prefix.given..this.prefix.length];
            let taken = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..taken]);
            this.prefix.given += taken;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let count = (buffer.filled().len() - before) as u64;
        this.traffic.bytes_in.set(this.traffic.bytes_in.get() + count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.substitute.is_none() && this.is_unasked() {
            this.substitute = Some(proxy::reject::unreadable(buffer));
        }
        if let Some(message) = &mut this.substitute {
            while !message.is_empty() {
                let count = ready!(Pin::new(&mut this.stream).poll_write(context, message))?;
                message.advance(count);
            }
            return Poll::Ready(Ok(buffer.len()));
        }
        let written = Pin::new(&mut this.stream).poll_write(context, buffer);
        this.traffic.is_write_blocked.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            this.traffic.bytes_out.set(this.traffic.bytes_out.get() + count as u64);
            if count == buffer.len() && this.traffic.in_flight.get() == 0 {
                this.traffic.has_answers.set(false);
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
