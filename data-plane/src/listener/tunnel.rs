//! What a connection, or a stream of one, becomes after a protocol switch (RFC 9110 section 7.8): bytes both ways until
//! one side ends.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::connection::Connection;
use crate::clock::Clock;
use crate::http1::{SharedWire, Switched, Traffic};
use crate::http2;
use crate::proxy::record::Record;
use crate::upstream::Upgraded;

/// Of each direction. Enough for most messages; more of them pass in turns.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// What a connection becomes when the service has switched protocols.
pub struct Tunnel {
    pub service: Upgraded,
    /// Without any byte in either direction.
    pub idle: Duration,
    /// Ends with the tunnel.
    pub record: Box<Record>,
}

impl Tunnel {
    /// Passes bytes both ways, first those that came behind the request and the answer.
    pub async fn run(self, connection: &Rc<Connection>, client: SharedWire) {
        let early = client.borrow().input_length();
        self.pass(&connection.core.clock, &connection.traffic, early as u64, Switched(client)).await;
    }

    /// The same on a stream of HTTP/2, once the answer that opens it is on its way.
    pub async fn run_on_stream(self, connection: &Rc<Connection>, client: http2::Switched) {
        let traffic = Rc::<Traffic>::default();
        let client = Counted { stream: client, traffic: traffic.clone() };
        self.pass(&connection.core.clock, &traffic, 0, client).await;
    }

    /// `traffic` counts what passes `client`; `early` bytes of it have come already.
    async fn pass<C>(self, clock: &Clock, traffic: &Traffic, early: u64, mut client: C)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { mut service, idle, mut record } = self;
        let (bytes_in, bytes_out) = (traffic.bytes_in.get() - early, traffic.bytes_out.get());
        let pass = async {
            // How it ended is for the two ends to know.
            let _ = copy_bidirectional_with_sizes(&mut client, &mut service.stream, BUFFER_BYTES, BUFFER_BYTES).await;
        };
        tokio::select! {
            () = pass => {}
            () = idles(clock, traffic, idle) => {}
        }
        record.bytes_in = traffic.bytes_in.get() - bytes_in;
        record.bytes_out = traffic.bytes_out.get() - bytes_out;
    }
}

/// Ends when nothing has passed for `span`, within half of it.
async fn idles(clock: &Clock, traffic: &Traffic, span: Duration) {
    let passed = || (traffic.bytes_in.get(), traffic.bytes_out.get());
    let (mut before, mut quiet) = (passed(), Duration::ZERO);
    while quiet < span {
        clock.deadline(span / 2).await;
        let now = passed();
        quiet = if now == before { quiet + span / 2 } else { Duration::ZERO };
        before = now;
    }
}

/// A stream that shares its connection, and so its counts, with others.
struct Counted<S> {
    stream: S,
    traffic: Rc<Traffic>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.traffic.received(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.traffic.written(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
