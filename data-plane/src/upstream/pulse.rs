//! Whether the target at the other end of an HTTP/2 connection is still there: when requests wait and nothing comes, it
//! is asked by a PING (RFC 9113 section 6.7). Anything that it sends is an answer.
//!
//! Whoever owns the connection looks once a second, so that no connection has a timer of its own.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::{Ping, PingPong};
use model::resource::service::Pings;
use model::value::Span;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of the peer of one connection.
pub(super) struct Pulse {
    channel: Option<PingPong>,
    terms: Pings,
    /// Something came since this was looked at.
    is_heard: Rc<Cell<bool>>,
    /// Since when requests have waited and nothing came.
    quiet_since_ns: u64,
    /// When the PING was sent that is not answered.
    asked_ns: Option<u64>,
    last_asked_ns: Option<u64>,
}

impl Pulse {
    pub(super) fn new(channel: Option<PingPong>, terms: Pings, is_heard: Rc<Cell<bool>>, now_ns: u64) -> Self {
        Self { channel, terms, is_heard, quiet_since_ns: now_ns, asked_ns: None, last_asked_ns: None }
    }

    /// Whether the peer has been asked and has not said anything in time. Asks it if it is time for that; `responded_ns` is
    /// when the last response began.
    pub(super) fn is_gone(&mut self, now_ns: u64, has_requests: bool, responded_ns: u64) -> bool {
        if self.is_heard.take() {
            self.asked_ns = None;
            self.quiet_since_ns = now_ns;
        }
        if let Some(asked_ns) = self.asked_ns {
            return has_passed(self.terms.timeout, asked_ns, now_ns);
        }
        if !has_requests {
            self.quiet_since_ns = now_ns;
        }
        let is_quiet = has_passed(self.terms.after, self.quiet_since_ns, now_ns);
        let may_ask = self
            .last_asked_ns
            .is_none_or(|last_ns| responded_ns > last_ns || has_passed(self.terms.min_interval, last_ns, now_ns));
        if self.terms.enabled && is_quiet && may_ask {
            self.ask(now_ns);
        }
        false
    }

    fn ask(&mut self, now_ns: u64) {
        let Some(channel) = &mut self.channel else { return };
        // The codec takes one at a time, and keeps the answer to the one before until it is fetched.
        let _ = channel.poll_pong(&mut Context::from_waker(Waker::noop()));
        // If it still has one to be answered, that is as good.
        let _ = channel.send_ping(Ping::opaque());
        self.asked_ns = Some(now_ns);
        self.last_asked_ns = Some(now_ns);
    }
}

fn has_passed(span: Span, since_ns: u64, now_ns: u64) -> bool {
    Duration::from_nanos(now_ns.saturating_sub(since_ns)) >= span.get()
}

/// A stream that notes when something comes.
pub(super) struct Heard<T> {
    stream: T,
    is_heard: Rc<Cell<bool>>,
}

impl<T> Heard<T> {
    pub(super) fn new(stream: T) -> Self {
        Self { stream, is_heard: Rc::default() }
    }

    /// Set whenever something has come.
    pub(super) fn flag(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_heard)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.is_heard.set(true);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
