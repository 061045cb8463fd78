//! Connections to a target: the count of all of them, and those of HTTP/2, each driven by a task of its own.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::client::conn::http2;
use hyper::rt::{Read, Write};

use super::connect::Life;
use crate::body::Body;
use crate::telemetry::EndpointCounts;

/// Requests on one HTTP/2 connection at a time, unless the service allows fewer.
const MAX_STREAMS: usize = 100;

const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What a stream may hold of a request body that the service does not take.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Bound of an HTTP/2 response head, as RFC 9113 section 6.5.2 counts it.
const HEADER_LIST_BYTES: u32 = 32 * 1024;

/// Counts a connection for as long as it exists.
pub(super) struct Open(Rc<EndpointCounts>);

impl Open {
    pub(super) fn count(counts: &Rc<EndpointCounts>) -> Self {
        counts.open.set(counts.open.get() + 1);
        Self(Rc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// An HTTP/2 connection, shared by its requests. It ends in good order when it was dropped by the pool and
/// all of them.
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Body>,
    streams: Cell<usize>,
    most_streams: Rc<Cell<usize>>,
    pub(super) expires_ns: u64,
    /// Requests that it may serve yet.
    requests_left: Cell<u32>,
    pub(super) idle_since_ns: Cell<u64>,
    /// When the last response came on it.
    heard_ns: Cell<u64>,
    is_silent: Cell<bool>,
}

impl Http2 {
    pub(super) async fn handshake<T>(io: T, open: Open, life: Life, now_ns: u64) -> hyper::Result<Self>
    where
        T: Read + Write + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(OnThisCore)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(io)
            .await?;
        let most_streams = Rc::new(Cell::new(MAX_STREAMS));
        tokio::task::spawn_local(Drive { connection, most_streams: Rc::clone(&most_streams), _open: open });
        Ok(Self {
            sender,
            streams: Cell::new(0),
            most_streams,
            expires_ns: life.expires_ns,
            requests_left: Cell::new(life.requests_left),
            idle_since_ns: Cell::new(now_ns),
            heard_ns: Cell::new(now_ns),
            is_silent: Cell::new(false),
        })
    }

    /// Whether further requests may go out on it.
    pub(super) fn is_good(&self, now_ns: u64) -> bool {
        !self.is_silent.get() && self.requests_left.get() > 0 && !self.sender.is_closed() && now_ns < self.expires_ns
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.get()
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.most_streams.get()
    }
}

/// One request on an HTTP/2 connection.
pub(super) struct Stream(Rc<Http2>);

impl Stream {
    pub(super) fn begin(connection: &Rc<Http2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.requests_left.set(connection.requests_left.get() - 1);
        Self(Rc::clone(connection))
    }

    pub(super) fn sender(&self) -> http2::SendRequest<Body> {
        self.0.sender.clone()
    }

    /// The head of a response came.
    pub(super) fn answered(&self, now_ns: u64) {
        self.0.heard_ns.set(now_ns);
    }

    /// No response came in time. If there was none to any other request either since this one was sent, the peer
    /// may be gone without a word, and the connection gets no further requests. Pings would tell as well, but
    /// services exist that take them for an attack.
    pub(super) fn timed_out(&self, sent_ns: u64) {
        if self.0.heard_ns.get() <= sent_ns {
            self.0.is_silent.set(true);
        }
    }

    pub(super) fn end(self, now_ns: u64) {
        self.0.idle_since_ns.set(now_ns);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// Drives an HTTP/2 connection and keeps in view how many streams the service allows.
struct Drive<T: Read + Write + Unpin + 'static> {
    connection: http2::Connection<T, Body, OnThisCore>,
    most_streams: Rc<Cell<usize>>,
    _open: Open,
}

impl<T: Read + Write + Unpin + 'static> Future for Drive<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let end = Pin::new(&mut self.connection).poll(context);
        // A service that allows none at all would make the pool open connection after connection.
        self.most_streams.set(self.connection.current_max_send_streams().clamp(1, MAX_STREAMS));
        end.map(|end| {
            if let Err(error) = end {
                tracing::debug!(%error, "a connection to a target broke");
            }
        })
    }
}

/// Runs what hyper spawns on the core that it was spawned on.
#[derive(Clone)]
pub(super) struct OnThisCore;

impl<F> hyper::rt::Executor<F> for OnThisCore
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
