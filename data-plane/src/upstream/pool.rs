//! The connections of one core to one endpoint: idle ones ready for the next request, and a bound on all of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use http::HeaderValue;
use http::uri::Authority;
use model::resource::service::Protocol;
use model::snapshot::Endpoint;
use tokio::sync::oneshot;

use super::affinity::CookieKey;
use super::connect::{Connected, Purpose, Terms};
use super::connection::Http2;
use super::http1::Http1;
use super::resolve::Resolver;
use super::stream::Stream;
use super::{SWEEP, UpstreamError};
use crate::body::Room;
use crate::clock::Clock;
use crate::proxy_protocol::Addresses;
use crate::telemetry::{CoreTelemetry, EndpointCounts};

/// How often connections are looked through. Whoever takes one does not look at the time: what might be too old before the
/// next look is closed in the one before it.
pub(super) const SWEEP_NS: u64 = SWEEP.as_nanos() as u64;

/// What all pools of a core share.
pub(super) struct Core {
    pub(super) clock: Clock,
    pub(super) telemetry: Rc<CoreTelemetry>,
    pub(super) resolver: Resolver,
    pub(super) cookie_key: CookieKey,
    /// The time by which idle connections are judged: that of the last sweep, so that none reads the clock.
    pub(super) swept_ns: Cell<u64>,
    /// What may be kept of the bodies of requests that may be sent again.
    pub(super) replay_room: Room,
    /// Where this node stands.
    pub(super) zone: Option<Arc<str>>,
}

/// The connections of one core to one endpoint.
pub(super) struct Pool {
    pub(super) endpoint: Arc<Endpoint>,
    /// `host:port`, for logs and metrics.
    pub(super) target: Rc<str>,
    pub(super) authority: Authority,
    pub(super) host: HeaderValue,
    pub(super) core: Rc<Core>,
    pub(super) counts: Rc<EndpointCounts>,
    pub(super) in_flight: Cell<u32>,
    /// How many services have it among their targets. Without any, it finishes what is in flight and keeps nothing.
    services: Cell<u32>,
    /// Last in, first out: the spare ones grow old at the front.
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    /// Take no further requests, and have some that are not over.
    leaving: RefCell<Vec<Weak<Http2>>>,
    /// Wait for a connection of HTTP/1.1 that is being made; one that becomes free before that is as good.
    waiting: RefCell<VecDeque<oneshot::Sender<Http1>>>,
    speaks: Cell<Speaks>,
    connecting: RefCell<Option<WeakShared<Connecting>>>,
}

/// What the endpoint speaks, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// ALPN will tell.
    Unknown,
    Http1,
    Http2,
}

/// A connection that is being made for whoever can share it.
type Connecting = LocalBoxFuture<'static, Result<(), UpstreamError>>;

/// A place for one request.
pub(super) enum Channel {
    Http1(Http1),
    Http2(Stream),
}

impl Pool {
    pub(super) fn new(endpoint: Arc<Endpoint>, core: Rc<Core>) -> Self {
        let address = endpoint.url.authority();
        let is_default_port = endpoint.url.port == if endpoint.url.https { 443 } else { 80 };
        let host =
            if is_default_port { address.rsplit_once(':').map_or(&*address, |(host, _)| host) } else { &address };
        let speaks = match (endpoint.protocol, endpoint.url.https) {
            (Protocol::Http2, _) => Speaks::Http2,
            (Protocol::Auto, true) => Speaks::Unknown,
            _ => Speaks::Http1,
        };
        Self {
            authority: host.parse().expect("a target was parsed from a URL"),
            host: host.parse().expect("an authority is a header value"),
            target: address.as_str().into(),
            counts: core.telemetry.metrics.endpoint(address),
            endpoint,
            core,
            in_flight: Cell::new(0),
            services: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            leaving: RefCell::default(),
            waiting: RefCell::default(),
            speaks: Cell::new(speaks),
            connecting: RefCell::default(),
        }
    }

    pub(super) fn speaks(&self) -> Speaks {
        self.speaks.get()
    }

    /// A service has it among its targets from now on.
    pub(super) fn enter(&self) {
        self.services.set(self.services.get() + 1);
    }

    /// A service has it no longer: if that was the last, connections without a request close.
    pub(super) fn leave(&self) {
        self.services.set(self.services.get() - 1);
        if self.services.get() == 0 {
            self.idle.borrow_mut().clear();
            self.counts.idle.set(0);
            self.shared.borrow_mut().retain(|connection| connection.streams() > 0);
        }
    }

    /// A connection that is there already, without waiting.
    pub(super) fn take(&self, purpose: Purpose) -> Option<Channel> {
        // There is none: each is for one client.
        if self.endpoint.proxy_protocol.is_some() {
            return None;
        }
        if let Some(connection) = self.take_idle() {
            return Some(Channel::Http1(connection));
        }
        if purpose == Purpose::Upgrade || self.speaks.get() == Speaks::Http1 {
            return None;
        }
        self.take_stream().map(Channel::Http2)
    }

    /// The connection that was used last, if the target has not closed it.
    fn take_idle(&self) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let mut connection = idle.pop();
        while connection.as_ref().is_some_and(|connection| !connection.is_ready()) {
            connection = idle.pop();
        }
        self.counts.idle.set(idle.len() as u64);
        connection
    }

    /// A place on the connection with the fewest requests.
    fn take_stream(&self) -> Option<Stream> {
        let now_ns = self.core.swept_ns.get();
        self.keep(|connection| connection.is_good(now_ns));
        let shared = self.shared.borrow();
        // The newest of equals: an older one may be about to end.
        let free = shared.iter().rev().filter(|connection| connection.has_room());
        free.min_by_key(|connection| connection.streams()).map(Stream::begin)
    }

    /// Lets go of the others; they finish what they have.
    fn keep(&self, is_kept: impl Fn(&Http2) -> bool) {
        self.shared.borrow_mut().retain(|connection| {
            let is_kept = is_kept(connection);
            if !is_kept && connection.streams() > 0 {
                self.leaving.borrow_mut().push(Rc::downgrade(connection));
            }
            is_kept
        });
    }

    /// A place on a connection that is made for it, alone or with others who wait as well. Unless it has to be a fresh
    /// one, that is one of HTTP/1.1 which was freed meanwhile, if there is any.
    pub(super) async fn open(
        self: &Rc<Self>,
        timeout: Duration,
        terms: Terms,
        purpose: Purpose,
        ends: Option<&Addresses>,
        is_fresh: bool,
    ) -> Result<Channel, UpstreamError> {
        loop {
            if purpose == Purpose::Upgrade || self.speaks.get() == Speaks::Http1 {
                self.check_room(terms)?;
                let connected = match is_fresh || self.endpoint.proxy_protocol.is_some() {
                    true => self.connect(timeout, terms, purpose, ends).await,
                    false => self.connect_unless_freed(timeout, terms, purpose).await,
                };
                match connected? {
                    Connected::Http1(connection) => return Ok(Channel::Http1(connection)),
                    Connected::Http2(connection) => self.share(connection),
                }
            } else {
                self.connect_together(timeout, terms).await?;
            }
            if let Some(channel) = self.take(purpose) {
                return Ok(channel);
            }
        }
    }

    async fn connect_unless_freed(
        self: &Rc<Self>,
        timeout: Duration,
        terms: Terms,
        purpose: Purpose,
    ) -> Result<Connected, UpstreamError> {
        let (waiter, freed) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push_back(waiter);
        }
        let pool = Rc::clone(self);
        let mut connecting = Box::pin(async move { pool.connect(timeout, terms, purpose, None).await });
        let freed = tokio::select! {
            biased;
            Ok(freed) = freed => freed,
            connected = &mut connecting => return connected,
        };
        if freed.is_left() {
            return connecting.await;
        }
        // What was begun is for whoever comes next; it ends within the timeout.
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Ok(Connected::Http1(connection)) = connecting.await {
                pool.give_back(connection);
            }
        });
        Ok(Connected::Http1(freed))
    }

    fn check_room(&self, terms: Terms) -> Result<(), UpstreamError> {
        if self.counts.open.get() >= terms.most { Err(UpstreamError::Overloaded) } else { Ok(()) }
    }

    /// Waits for the connection that is being made, or makes one that others may wait for. It goes on as long as
    /// anybody waits, whoever began it.
    async fn connect_together(self: &Rc<Self>, timeout: Duration, terms: Terms) -> Result<(), UpstreamError> {
        let under_way = self.connecting.borrow().as_ref().and_then(WeakShared::upgrade);
        let connecting = match under_way.filter(|connecting| connecting.peek().is_none()) {
            Some(connecting) => connecting,
            None => {
                self.check_room(terms)?;
                let pool = Rc::clone(self);
                let connecting: Shared<Connecting> =
                    async move { pool.add_connection(timeout, terms).await }.boxed_local().shared();
                *self.connecting.borrow_mut() = connecting.downgrade();
                connecting
            }
        };
        connecting.await
    }

    async fn add_connection(&self, timeout: Duration, terms: Terms) -> Result<(), UpstreamError> {
        match self.connect(timeout, terms, Purpose::Any, None).await? {
            Connected::Http1(connection) => {
                self.speaks.set(Speaks::Http1);
                self.put_idle(connection);
            }
            Connected::Http2(connection) => self.share(connection),
        }
        Ok(())
    }

    fn share(&self, connection: Http2) {
        self.speaks.set(Speaks::Http2);
        self.shared.borrow_mut().push(Rc::new(connection));
    }

    /// Takes back a connection whose request is over, unless it is too old or not in a perfect state.
    pub(super) fn give_back(&self, connection: Http1) {
        let is_wanted = self.endpoint.proxy_protocol.is_none() && self.services.get() > 0;
        if is_wanted && connection.is_reusable() && self.core.swept_ns.get() < connection.expires_ns {
            self.put_idle(connection);
        }
    }

    fn put_idle(&self, connection: Http1) {
        let Some(mut connection) = self.hand_over(connection) else { return };
        connection.idle_since_ns = self.core.swept_ns.get();
        let mut idle = self.idle.borrow_mut();
        idle.push(connection);
        self.counts.idle.set(idle.len() as u64);
    }

    /// Gives it to whoever has waited longest, if anybody waits.
    fn hand_over(&self, mut connection: Http1) -> Option<Http1> {
        loop {
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else { return Some(connection) };
            connection = waiter.send(connection).err()?;
        }
    }

    /// Closes what idled or lived too long, and what nobody answers on.
    pub(super) fn sweep(&self, now_ns: u64) {
        let is_fresh = |idle_since_ns: u64, idle_ns: u64, expires_ns: u64| {
            now_ns + SWEEP_NS <= idle_since_ns.saturating_add(idle_ns) && now_ns < expires_ns
        };
        let mut idle = self.idle.borrow_mut();
        idle.retain(|connection| {
            is_fresh(connection.idle_since_ns, connection.idle_ns, connection.expires_ns) && connection.is_ready()
        });
        self.counts.idle.set(idle.len() as u64);
        self.keep(|connection| {
            let is_wanted = self.services.get() > 0
                && is_fresh(connection.idle_since_ns.get(), connection.idle_ns, connection.expires_ns);
            connection.is_good(now_ns) && (connection.streams() > 0 || is_wanted)
        });
        self.shared.borrow().iter().for_each(|connection| connection.look(now_ns));
        self.leaving
            .borrow_mut()
            .retain(|connection| connection.upgrade().inspect(|connection| connection.look(now_ns)).is_some());
    }
}
