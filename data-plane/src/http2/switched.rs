//! A stream after a switch of protocols: bytes as they are (RFC 9113 section 8.5, RFC 8441).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::poll_room;

/// Both directions of a stream.
pub struct Switched {
    incoming: RecvStream,
    outgoing: SendStream<Bytes>,
    /// What came and was not taken.
    input: Bytes,
    is_shut: bool,
}

impl Switched {
    pub fn new(incoming: RecvStream, outgoing: SendStream<Bytes>) -> Self {
        Self { incoming, outgoing, input: Bytes::new(), is_shut: false }
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.input.is_empty() {
            match ready!(self.incoming.poll_data(context)) {
                Some(Ok(data)) => self.input = data,
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) if error.reason().is_some_and(is_in_good_order) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.input.len().min(buffer.remaining());
        buffer.put_slice(&self.input[..count]);
        self.input.advance(count);
        // It fails only where nothing more comes.
        let _ = self.incoming.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

/// A client that closes a tunnel may do that with a reset (RFC 9113 section 8.5).
fn is_in_good_order(reason: Reason) -> bool {
    matches!(reason, Reason::NO_ERROR | Reason::CANCEL)
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if self.outgoing.poll_reset(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.outgoing.reserve_capacity(bytes.len());
        let room = ready!(poll_room(&mut self.outgoing, bytes.len(), context)).map_err(broken)?;
        let sent = self.outgoing.send_data(Bytes::copy_from_slice(&bytes[..room]), false);
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut, true) {
            self.outgoing.reserve_capacity(0);
            // The stream may have ended already.
            let _ = self.outgoing.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}
