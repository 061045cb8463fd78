//! What lies between a socket and the codec of HTTP/2: it counts, follows the frames, and gives back what was read to
//! tell the protocol.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Fault, Frames};
use crate::http1::Traffic;

/// A stream to a client, plain or TLS.
pub struct Observed<S> {
    stream: S,
    /// Read from the stream already.
    input: BytesMut,
    traffic: Rc<Traffic>,
    frames: Frames,
    fault: Rc<Cell<Option<Fault>>>,
}

impl<S> Observed<S> {
    pub fn new(stream: S, input: BytesMut, traffic: Rc<Traffic>, frames: Frames) -> Self {
        traffic.received(input.len());
        Self { stream, input, traffic, frames, fault: Rc::default() }
    }

    /// Why reading from it failed, if that was not the fault of the stream. The codec does not keep it.
    pub fn fault(&self) -> Rc<Cell<Option<Fault>>> {
        self.fault.clone()
    }
}

impl<S: AsyncWrite + Unpin> Observed<S> {
    /// Reading ends here. The client is told why if it takes that at once.
    fn refuse(&mut self, fault: Fault, context: &mut Context<'_>) -> io::Error {
        if self.fault.replace(Some(fault)).is_none()
            && let Some(goodbye) = self.frames.goodbye()
        {
            let _ = Pin::new(&mut self.stream).poll_write(context, &goodbye);
            let _ = Pin::new(&mut self.stream).poll_flush(context);
        }
        fault.into()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Observed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.input.has_remaining() {
            let count = this.input.len().min(buffer.remaining());
            buffer.put_slice(&this.input.split_to(count));
        } else {
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            this.traffic.received(buffer.filled().len() - before);
        }
        if let Err(fault) = this.frames.received(&buffer.filled()[before..]) {
            buffer.set_filled(before);
            return Poll::Ready(Err(this.refuse(fault, context)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, buffer);
        this.traffic.written(&written);
        if let Poll::Ready(Ok(count)) = written {
            this.frames.sent(&buffer[..count]);
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
