//! One connection of a client: who it is, what goes on on it, and whether it should go.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use model::exchange::{Client, Scheme};
use model::fields::Fields;

use super::OpenListener;
use super::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use super::known_host::KnownHost;
use super::terms::Terms;
use super::tls::Negotiated;
use super::tunnel::{self, Tunnel};
use crate::cores::core::Core;
use crate::http1::Traffic;
use crate::proxy::forwarded::x_forwarded;
use crate::proxy_protocol::Addresses;

/// One connection of a client.
pub struct Connection {
    pub core: Rc<Core>,
    pub listener: Rc<OpenListener>,
    pub terms: Rc<Terms>,
    /// Its peer, or whom a proxy has named by the PROXY protocol.
    pub client: Client,
    /// The address that the client has connected to.
    pub destination: SocketAddr,
    /// What it says of the clients of its requests is believed.
    pub is_from_proxy: bool,
    /// A proxy has named the client: it may have taken off the TLS of a connection that has none here.
    is_named_by_proxy: bool,
    /// What came out of the TLS handshake.
    pub tls: OnceCell<Negotiated>,
    /// What services are told of the client, of those that are told by `X-Forwarded-*`.
    pub x_forwarded: Fields,
    pub host: KnownHost,
    pub traffic: Rc<Traffic>,
    /// Requests that have not ended.
    pub in_flight: Cell<u32>,
    /// Response bodies of which the client takes no more for now.
    pub withheld: Rc<Cell<u32>>,
    /// Requests that have begun.
    pub requests: Cell<u64>,
    /// How much had come in when the last request ended.
    pub idle_from: Cell<u64>,
    /// What the connection becomes after the response that is being written.
    pub tunnel: RefCell<Option<Tunnel>>,
    /// It has become that.
    is_tunnel: Cell<bool>,
    leaving: Cell<bool>,
    is_reset: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Connection {
    pub fn new(
        core: &Rc<Core>,
        listener: &Rc<OpenListener>,
        terms: Rc<Terms>,
        ends: Addresses,
        is_named_by_proxy: bool,
    ) -> Rc<Self> {
        let Addresses { source: address, destination } = ends;
        let ip = address.ip().to_canonical();
        let scheme = if terms.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let client = Client { address: SocketAddr::new(ip, address.port()), scheme };
        Rc::new(Self {
            core: core.clone(),
            listener: listener.clone(),
            destination,
            is_from_proxy: terms.forwarding.trusted.contains(ip),
            is_named_by_proxy,
            terms,
            client,
            tls: OnceCell::new(),
            x_forwarded: x_forwarded(client),
            host: KnownHost::default(),
            traffic: Rc::default(),
            in_flight: Cell::new(0),
            withheld: Rc::default(),
            requests: Cell::new(0),
            idle_from: Cell::new(0),
            tunnel: RefCell::default(),
            is_tunnel: Cell::new(false),
            leaving: Cell::new(false),
            is_reset: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    /// Whether the client may have a secured connection, to this gateway or to a proxy in front that is known to it.
    pub fn may_be_secured(&self) -> bool {
        self.terms.tls.is_some() || self.is_from_proxy || self.is_named_by_proxy
    }

    /// Asks the client to go: no further requests, those that run may end.
    pub fn leave(&self) {
        self.leaving.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ends it in the middle of what it does.
    pub fn reset(&self) {
        if !self.is_reset.replace(true) {
            self.refused("memory-short-reset");
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// It is a tunnel from now on, and nobody waits for requests on it. Returns when it is to end in the middle of that.
    pub async fn reset_as_tunnel(&self) {
        self.is_tunnel.set(true);
        poll_fn(|context| {
            self.on_leave(context.waker());
            if self.is_reset() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub fn is_reset(&self) -> bool {
        self.is_reset.get()
    }

    /// About how much is held for it: heads, what has come of bodies and cannot be passed on, and of answers what the
    /// client does not take. Good for telling large connections from small ones, and kept without counting bytes.
    pub fn holds_bytes(&self) -> u64 {
        const HEAD_BYTES: u64 = 16 * 1024;
        if self.is_tunnel.get() {
            // What has come on it went on long ago.
            return HEAD_BYTES + 2 * tunnel::BUFFER_BYTES as u64;
        }
        let (requests, stalled) = (u64::from(self.in_flight.get()), u64::from(self.withheld.get()));
        let came = self.traffic.bytes_in.get() - self.idle_from.get();
        requests * HEAD_BYTES + stalled * u64::from(STREAM_WINDOW) + came.min(CONNECTION_WINDOW.into())
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// `waker` is woken when the client is to go.
    pub fn on_leave(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        match &mut *known {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Counts that it ends for what came on it.
    pub fn refused(&self, code: &'static str) {
        self.core.telemetry.metrics.connection_refused(code);
    }

    /// Whether this waker will be woken when the client is to go: it was not woken since it was left here.
    pub fn is_watched_by(&self, waker: &Waker) -> bool {
        self.waker.borrow().as_ref().is_some_and(|known| known.will_wake(waker))
    }

    pub fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub fn request_ended(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.idle_from.set(self.traffic.bytes_in.get());
    }
}
