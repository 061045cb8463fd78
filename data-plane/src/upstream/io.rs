//! What lies between the codec of a connection to a target and its stream: it tells what the codec does not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How far a connection has got. It never leaves its core: the atoms, never contended, are there because the codec
/// wants a stream that could be sent elsewhere.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes_in: AtomicU64,
    is_held_up: AtomicBool,
}

impl Progress {
    /// How much came in.
    pub(super) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Whether something waits to be written that the target does not take. The codec counts a request as over
    /// while its last bytes lie in the codec's buffer.
    pub(super) fn is_held_up(&self) -> bool {
        self.is_held_up.load(Ordering::Relaxed)
    }
}

/// A stream to a target, plain or TLS.
pub(super) struct Followed<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S> Followed<S> {
    pub(super) fn new(stream: S) -> (Self, Arc<Progress>) {
        let progress = Arc::<Progress>::default();
        (Self { stream, progress: Arc::clone(&progress) }, progress)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let count = (buffer.filled().len() - before) as u64;
        this.progress.bytes_in.store(this.progress.bytes_in() + count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, buffer);
        if written.is_pending() {
            this.progress.is_held_up.store(true, Ordering::Relaxed);
        }
        written
    }

    /// The codec flushes when it has written all that it had.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.progress.is_held_up.store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
