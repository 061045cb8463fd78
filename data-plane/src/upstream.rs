//! Where requests go: the connections of one core to the services, and the choice among their targets.
//!
//! Each core has its own [`Upstreams`], made on it and never shared: nothing here takes a lock or is seen by
//! another core. What is bounded here: connections and their age for each endpoint, the size of response heads,
//! the wait for a connection and for the head of a response. Bodies are bounded by whoever reads them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;
use model::exchange::ResponseHead;
use model::fields::Fields;
use model::resource::route::{Importance, RouteRetries};
use model::slots::Slot;
use model::snapshot::{Snapshot, Subset};

use crate::body::{Body, Room};
use crate::clock::Clock;
use crate::dns::Names;
use crate::interim::SharedInterim;
use crate::proxy_protocol::Addresses;
use crate::telemetry::CoreTelemetry;
use backend::Backends;
use forward::Task;
use pool::Core;
use resolve::Resolver;

pub use affinity::CookieKey;
pub use error::UpstreamError;
pub use http1::Upgraded;
pub use time::{End, TimeLimits};

mod adaptive;
mod admission;
mod affinity;
mod attempt;
mod backend;
mod balance;
mod call;
mod connect;
mod connection;
mod error;
mod forward;
mod hedged;
mod http1;
mod lease;
mod outgoing;
mod pool;
mod pulse;
mod resolve;
mod retry;
mod stream;
#[cfg(test)]
mod tests;
mod time;
pub(crate) mod tls;

/// How often a core has its connections looked through: [`Upstreams::sweep`].
pub const SWEEP: Duration = Duration::from_secs(1);

/// What is kept on a core of the bodies of requests that may be sent again.
const MAX_REPLAY_BYTES: usize = 16 * 1024 * 1024;

/// A request as a service gets it: fields that belong to the client's connection are gone.
pub struct UpstreamRequest {
    pub method: Method,
    pub target: PathAndQuery,
    /// Without `Host`, the address of the target stands in its place. `Upgrade` with `Connection` stay in a
    /// request that may switch protocols.
    pub headers: Fields,
    pub body: Body,
    /// Where interim responses go (RFC 9110 section 15.2); without it nobody wants them. A client that waits for leave
    /// to send the body gets it from the service, or finds that it need not send it.
    pub interim: Option<SharedInterim>,
    /// Whose request it is, for services that are told so ahead of it.
    pub ends: Option<Box<Addresses>>,
    pub time: TimeLimits,
    /// The hash of its key, for services that go by one.
    pub hash: Option<u64>,
    /// The number in its sticky cookie, for services that have one.
    pub tag: Option<u64>,
}

/// What the route of a request has to say.
#[derive(Clone, Copy, Default)]
pub struct RouteTerms<'r> {
    /// The targets that it goes to; all without one.
    pub subset: Option<&'r Arc<Subset>>,
    /// What holds in place of the retries of the service.
    pub retries: Option<&'r Arc<RouteRetries>>,
    pub importance: Importance,
}

/// What a service answered.
pub struct UpstreamResponse {
    pub head: ResponseHead,
    /// Its connection goes back to the pool when this was read to the end, and is closed when it was not.
    pub body: Body,
    /// Set if the service switched protocols, which it can only when it was asked to: the status is 101.
    pub upgrade: Option<Upgraded>,
    /// `host:port` of the target that answered.
    pub target: Rc<str>,
    /// From sending the request until the head of the response.
    pub head_ns: u64,
    /// How often it was tried: 1, or more if something failed.
    pub attempts: u8,
    /// The number that the client shall have in its sticky cookie from now on, if the service has one, and it has not.
    pub tag: Option<u64>,
}

/// Why there is no answer, and which target should have given it.
#[derive(Debug)]
pub struct Unanswered {
    pub error: UpstreamError,
    /// `host:port` of the target that was tried last.
    pub target: Option<Rc<str>>,
    pub attempts: u8,
}

impl From<UpstreamError> for Unanswered {
    fn from(error: UpstreamError) -> Self {
        Self { error, target: None, attempts: 0 }
    }
}

/// A request that is to go to a service. The future that sends it is made where it is awaited: moving one costs more
/// than moving this.
pub struct Forwarding(Option<Task>);

impl Forwarding {
    /// The head of the response. Dropping the future gives the request up and closes its connection.
    pub async fn answer(&mut self) -> Result<UpstreamResponse, Unanswered> {
        self.0.as_mut().ok_or(UpstreamError::NoTarget)?.run().await
    }
}

/// The connections of one core to all services.
pub struct Upstreams {
    core: Rc<Core>,
    backends: Backends,
}

impl Upstreams {
    #[must_use]
    pub fn new(
        clock: &Clock,
        telemetry: &Rc<CoreTelemetry>,
        names: Names,
        cookie_key: CookieKey,
        zone: Option<&str>,
    ) -> Self {
        let core = Rc::new(Core {
            clock: clock.clone(),
            telemetry: Rc::clone(telemetry),
            cookie_key,
            resolver: Resolver::new(clock, names),
            swept_ns: std::cell::Cell::new(clock.now().monotonic_ns),
            replay_room: Room::new(MAX_REPLAY_BYTES),
            zone: zone.map(Arc::from),
        });
        Self { backends: Backends::new(Rc::clone(&core)), core }
    }

    /// A request for a target of the service, as its route says.
    ///
    /// If an attempt fails, or the service says that it may come to something better, it is tried again as the retries
    /// of the service say.
    pub fn forward(
        &self,
        snapshot: &Rc<Snapshot>,
        service: Slot,
        route: RouteTerms<'_>,
        request: UpstreamRequest,
    ) -> Forwarding {
        let Some(backend) = self.backends.of(snapshot, service) else { return Forwarding(None) };
        let choice = backend.choice(route, &request);
        Forwarding(Some(Task::new(&self.core, backend, choice, request)))
    }

    /// Serves this snapshot from now on. With `slots` given, it differs from the one before in these services alone.
    pub fn follow(&self, snapshot: &Rc<Snapshot>, slots: Option<&[Slot]>) {
        self.backends.follow(snapshot, slots);
    }

    /// Closes what idled or lived too long, and lets go of endpoints that are not in the snapshot. The core's
    /// ticker calls it every [`SWEEP`], which spares every connection a timer of its own.
    pub fn sweep(&self) {
        let now_ns = self.core.clock.now().monotonic_ns;
        self.core.swept_ns.set(now_ns);
        self.core.resolver.sweep(now_ns);
        self.backends.sweep(now_ns);
    }
}
