//! Connections to a target: the count of all of them, and those of HTTP/2, each driven by a task of its own.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client;
use model::resource::service::Pings;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use super::connect::Life;
use super::pulse::{Heard, Pulse};
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
    sender: RefCell<client::SendRequest<Bytes>>,
    pub(super) streams: Cell<usize>,
    most_streams: Rc<Cell<usize>>,
    pub(super) expires_ns: u64,
    pub(super) idle_ns: u64,
    /// Requests that it may serve yet.
    pub(super) requests_left: Cell<u32>,
    pub(super) idle_since_ns: Cell<u64>,
    /// When the last response came on it.
    pub(super) heard_ns: Cell<u64>,
    pub(super) is_silent: Cell<bool>,
    pulse: RefCell<Pulse>,
    drive: AbortHandle,
}

impl Http2 {
    pub(super) async fn handshake<T>(
        stream: T,
        open: Open,
        life: Life,
        pings: Pings,
        now_ns: u64,
    ) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let stream = Heard::new(stream);
        let is_heard = stream.flag();
        let (sender, mut connection) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            // Until it says how many it allows.
            .initial_max_send_streams(MAX_STREAMS)
            .enable_push(false)
            .handshake(stream)
            .await?;
        let most_streams = Rc::new(Cell::new(MAX_STREAMS));
        let pulse = Pulse::new(connection.ping_pong(), pings, is_heard, now_ns);
        let drive = Drive { connection, most_streams: Rc::clone(&most_streams), _open: open };
        let drive = tokio::task::spawn_local(drive).abort_handle();
        Ok(Self {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            most_streams,
            expires_ns: life.expires_ns,
            idle_ns: life.idle_ns,
            requests_left: Cell::new(life.requests_left),
            idle_since_ns: Cell::new(now_ns),
            heard_ns: Cell::new(now_ns),
            is_silent: Cell::new(false),
            pulse: RefCell::new(pulse),
            drive,
        })
    }

    /// What begins a stream. Each request has one of its own: one that waits for its turn holds no other up.
    pub(super) fn sender(&self) -> client::SendRequest<Bytes> {
        self.sender.borrow().clone()
    }

    /// Whether further requests may go out on it.
    pub(super) fn is_good(&self, now_ns: u64) -> bool {
        !self.is_silent.get() && self.requests_left.get() > 0 && now_ns < self.expires_ns && self.is_open()
    }

    fn is_open(&self) -> bool {
        let ready = self.sender.borrow_mut().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(())))
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Asks the target for a sign of life if its requests wait in vain, and gives the connection up, with all of them, when
    /// there is none.
    pub(super) fn look(&self, now_ns: u64) {
        if self.pulse.borrow_mut().is_gone(now_ns, self.streams() > 0, self.heard_ns.get()) {
            self.is_silent.set(true);
            self.drive.abort();
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.most_streams.get()
    }
}

/// Drives an HTTP/2 connection and keeps in view how many streams the service allows.
struct Drive<T: AsyncRead + AsyncWrite + Unpin> {
    connection: client::Connection<T, Bytes>,
    most_streams: Rc<Cell<usize>>,
    _open: Open,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Drive<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let end = Pin::new(&mut self.connection).poll(context);
        // A service that allows none at all would make the pool open connection after connection.
        self.most_streams.set(self.connection.max_concurrent_send_streams().clamp(1, MAX_STREAMS));
        end.map(|end| {
            if let Err(error) = end {
                tracing::debug!(%error, "a connection to a target broke");
            }
        })
    }
}
