//! Services as one core uses them: their pools at hand, so that a request costs one look at a slot.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::StatusCode;
use model::resource::route::{Importance, RouteRetries};
use model::resource::service::{BalancingPolicy, Retries};
use model::slots::Slot;
use model::snapshot::{Endpoint, Service, Snapshot, Subset};
use model::value::Span;

use super::adaptive::Adaptive;
use super::admission::Queue;
use super::affinity::Tags;
use super::balance::latency::Latency;
use super::balance::{Balancer, Condition};
use super::call::speaks_against_target;
use super::pool::{Core, Pool};
use super::retry::budget::Budget;
use super::retry::hedging::Recent;
use super::{RouteTerms, UpstreamError, UpstreamRequest};
use crate::health::{ServiceHealth, Tally, TargetHealth};
use crate::telemetry::ServiceCounts;

/// A service that fails is mentioned in the log of the process this often; metrics count every case.
const WARN_EVERY_NS: u64 = 10_000_000_000;

/// Subsets of one service, and retries of routes to it, that a core keeps in mind. Beyond that it begins anew.
const MAX_SUBSETS: usize = 256;

/// The choice among the targets of a subset, by where the subset lies; it is held, so that nothing else comes to lie there.
type Subsets = HashMap<*const Subset, (Arc<Subset>, Rc<Balancer>), foldhash::fast::RandomState>;

/// The retries of routes joined with those of the service, in the same way.
type Joined = HashMap<*const RouteRetries, (Arc<RouteRetries>, Rc<Retries>), foldhash::fast::RandomState>;

/// A service as one core uses it.
pub(super) struct Backend {
    pub(super) service: Arc<Service>,
    /// One for each target, in their order.
    pub(super) pools: Vec<Rc<Pool>>,
    pub(super) counts: Rc<ServiceCounts>,
    pub(super) history: Rc<History>,
    core: Rc<Core>,
    health: Arc<ServiceHealth>,
    /// What is known of each target, in their order.
    members: Vec<Rc<Member>>,
    balancer: Balancer,
    /// For routes that send to targets with certain labels.
    subsets: RefCell<Subsets>,
    /// For routes with retries of their own.
    joined: RefCell<Joined>,
    /// For services with a sticky cookie, once there was a request.
    tags: RefCell<Option<Rc<Tags>>>,
    warned_ns: Cell<Option<u64>>,
}

/// What a core knows of a service from its requests. It stays when the service changes.
#[derive(Default)]
pub(super) struct History {
    pub(super) budget: Budget,
    pub(super) queue: Queue,
    pub(super) recent: Recent,
    pub(super) adaptive: Adaptive,
}

/// What a core knows of a target from the requests to it for one service.
struct Member {
    health: Arc<TargetHealth>,
    /// Where the service compares what its targets answer.
    tally: Option<Arc<Tally>>,
    latency: Latency,
    /// Its number in sticky cookies, with the serial of the key that it was made with.
    tag: Cell<Option<(u64, u64)>>,
}

/// What the target of one request is chosen by, and what its route has to say besides.
#[derive(Default)]
pub(super) struct Choice {
    subset: Option<Rc<Balancer>>,
    hash: Option<u64>,
    /// The target that the client had before.
    pub(super) own: Option<usize>,
    /// In place of those of the service.
    pub(super) retries: Option<Rc<Retries>>,
    pub(super) importance: Importance,
}

impl Backend {
    pub(super) fn choice(&self, route: RouteTerms<'_>, request: &UpstreamRequest) -> Choice {
        let RouteTerms { subset, retries, importance } = route;
        let own = request.tag.and_then(|tag| self.tags().target(tag));
        let (subset, retries) = (subset.map(|subset| self.subset(subset)), retries.map(|retries| self.joined(retries)));
        Choice { subset, hash: request.hash, own, retries, importance }
    }

    fn joined(&self, retries: &Arc<RouteRetries>) -> Rc<Retries> {
        let mut known = self.joined.borrow_mut();
        if known.len() >= MAX_SUBSETS && !known.contains_key(&Arc::as_ptr(retries)) {
            known.clear();
        }
        let join = || (Arc::clone(retries), Rc::new(retries.joined(&self.service.retries)));
        Rc::clone(&known.entry(Arc::as_ptr(retries)).or_insert_with(join).1)
    }

    /// The numbers of the targets in sticky cookies.
    pub(super) fn tags(&self) -> Rc<Tags> {
        let key = self.core.cookie_key.load();
        let mut known = self.tags.borrow_mut();
        if let Some(tags) = known.as_ref().filter(|tags| tags.serial == key.serial) {
            return Rc::clone(tags);
        }
        let of_targets = self.members.iter().zip(&*self.service.targets).map(|(member, target)| {
            let known = member.tag.get().filter(|(serial, _)| *serial == key.serial);
            let tag = known.map_or_else(|| key.tag(&self.service.name, &target.endpoint.url), |(_, tag)| tag);
            member.tag.set(Some((key.serial, tag)));
            tag
        });
        Rc::clone(known.insert(Rc::new(Tags::new(key.serial, of_targets.collect()))))
    }

    /// Whether a client may come back to the target that it had.
    fn takes_back(&self, own: usize, balancer: &Balancer, tried: &[usize]) -> bool {
        !tried.contains(&own) && self.members[own].health.is_healthy() && balancer.holds(own)
    }

    fn subset(&self, subset: &Arc<Subset>) -> Rc<Balancer> {
        let mut subsets = self.subsets.borrow_mut();
        if let Some((_, balancer)) = subsets.get(&Arc::as_ptr(subset)) {
            return Rc::clone(balancer);
        }
        if subsets.len() >= MAX_SUBSETS {
            subsets.clear();
        }
        let zone = self.core.zone.as_ref();
        let balancer = Rc::new(Balancer::new(&self.service, Some(subset), &self.health, zone, None));
        subsets.insert(Arc::as_ptr(subset), (Arc::clone(subset), Rc::clone(&balancer)));
        balancer
    }

    /// The target for a request that could not be sent to those `tried` before.
    pub(super) fn pick(&self, choice: &Choice, tried: &[usize]) -> Option<usize> {
        let balancer = choice.subset.as_deref().unwrap_or(&self.balancer);
        if choice.own.is_some_and(|own| self.takes_back(own, balancer, tried)) {
            return choice.own;
        }
        if balancer.is_behind() {
            self.refresh(balancer);
        }
        if self.service.load_balancing.policy == BalancingPolicy::PeakEwma {
            let now_ns = self.core.clock.now().monotonic_ns;
            let load = |target: usize| self.members[target].latency.load(self.pools[target].in_flight.get(), now_ns);
            return balancer.pick(tried, choice.hash, load);
        }
        balancer.pick(tried, choice.hash, |target| u64::from(self.pools[target].in_flight.get()))
    }

    #[cold]
    fn refresh(&self, balancer: &Balancer) {
        let now_ms = self.core.clock.now().monotonic_ns / 1_000_000;
        let window_ms = self.service.load_balancing.slow_start.map(Span::as_millis);
        balancer.refresh(|target| {
            let health = &self.members[target].health;
            let warmth = window_ms.map_or(1.0, |window_ms| health.warmth(window_ms, now_ms));
            Condition { is_healthy: health.is_healthy(), warmth }
        });
    }

    /// A target gave the head of a response.
    pub(super) fn answered(&self, target: usize, status: StatusCode, head_ns: u64) {
        // What the request asked for, and not the target, is at fault with these.
        let is_of_request = matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        if status.is_server_error() && !is_of_request {
            return self.fell_short(target);
        }
        if self.service.limits.adaptive.is_some() {
            self.took(head_ns);
        }
        let member = &self.members[target];
        member.health.succeeded();
        if let Some(tally) = &member.tally {
            tally.answered(head_ns);
        }
        if self.service.load_balancing.policy == BalancingPolicy::PeakEwma {
            member.latency.answered(head_ns, self.core.clock.now().monotonic_ns);
        }
    }

    /// A call of gRPC to a target came to this code.
    pub(super) fn called(&self, target: usize, code: u8, head_ns: u64, is_deadline_of_client: bool) {
        match speaks_against_target(code, is_deadline_of_client) {
            true => self.fell_short(target),
            false => self.answered(target, StatusCode::OK, head_ns),
        }
    }

    /// An answer took this long, or has not come in it, which the adaptive limit goes by.
    pub(super) fn took(&self, took_ns: u64) {
        let Some(terms) = self.service.limits.adaptive else { return };
        let adaptive = &self.history.adaptive;
        adaptive.took(took_ns, self.core.clock.now().monotonic_ns, terms);
        self.counts.adaptive_limit.set(adaptive.limit(terms) as u64);
    }

    /// An attempt at a target was given up after this time, because another had an answer sooner.
    #[cold]
    pub(super) fn gave_up(&self, target: usize, after_ns: u64) {
        let member = &self.members[target];
        if let Some(tally) = &member.tally {
            tally.answered(after_ns);
        }
        if self.service.load_balancing.policy == BalancingPolicy::PeakEwma {
            member.latency.answered(after_ns, self.core.clock.now().monotonic_ns);
        }
    }

    /// A request to a target failed, or was answered with a failure.
    #[cold]
    pub(super) fn fell_short(&self, target: usize) {
        let member = &self.members[target];
        if let Some(tally) = &member.tally {
            tally.failed();
        }
        if self.service.load_balancing.policy == BalancingPolicy::PeakEwma {
            member.latency.failed(self.core.clock.now().monotonic_ns);
        }
        let threshold = self.service.outlier_detection.consecutive_failures;
        if threshold > 0 {
            self.health.failed(&self.pools[target].endpoint.url, &member.health, threshold);
        }
    }

    /// Counts a request without an answer, and says so in the log of the process now and then.
    pub(super) fn failed(&self, error: &UpstreamError, target: Option<&str>, now_ns: u64) {
        if !error.is_of_service() {
            return;
        }
        self.counts.failed(error.code());
        if self.warned_ns.get().is_none_or(|warned_ns| now_ns >= warned_ns + WARN_EVERY_NS) {
            self.warned_ns.set(Some(now_ns));
            let service = self.service.name.as_str();
            tracing::warn!(service.name = service, target.address = target, %error, "a service gave no answer");
        }
    }
}

/// The services that a core has used, and the pools of their endpoints.
pub(super) struct Backends {
    core: Rc<Core>,
    by_slot: RefCell<Vec<Option<Rc<Backend>>>>,
    /// Services with equal endpoints share connections. A pool lives as long as a service or a request uses it.
    pools: RefCell<HashMap<Arc<Endpoint>, Weak<Pool>>>,
    /// What the core serves.
    current: RefCell<Rc<Snapshot>>,
    /// Services of the current snapshot may have another form than is known here.
    is_behind: Cell<bool>,
}

impl Backends {
    pub(super) fn new(core: Rc<Core>) -> Self {
        let (by_slot, pools, current) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { core, by_slot, pools, current, is_behind: Cell::new(false) }
    }

    pub(super) fn of(&self, snapshot: &Rc<Snapshot>, slot: Slot) -> Option<Rc<Backend>> {
        let service = snapshot.services.get(slot)?;
        let known = self.by_slot.borrow().get(slot as usize).cloned().flatten();
        if let Some(backend) = known.filter(|known| Arc::ptr_eq(&known.service, service)) {
            return Some(backend);
        }
        if Rc::ptr_eq(snapshot, &self.current.borrow()) {
            return Some(self.learn(slot, service));
        }
        // It began under a snapshot that is served no longer, whose targets nobody else wants back.
        Some(Rc::new(self.backend(slot, service, None)))
    }

    /// Follows the core to what it serves now. With `slots` given, the other services are what they were; without,
    /// their new forms are looked up when a request or a sweep comes by.
    pub(super) fn follow(&self, snapshot: &Rc<Snapshot>, slots: Option<&[Slot]>) {
        *self.current.borrow_mut() = Rc::clone(snapshot);
        match slots {
            Some(slots) => slots.iter().for_each(|slot| self.compare(*slot)),
            None => self.is_behind.set(true),
        }
    }

    fn learn(&self, slot: Slot, service: &Arc<Service>) -> Rc<Backend> {
        let place = slot as usize;
        if self.by_slot.borrow().len() <= place {
            self.by_slot.borrow_mut().resize(place + 1, None);
        }
        let previous = self.by_slot.borrow_mut()[place].take();
        let backend = Rc::new(self.backend(slot, service, previous.as_deref()));
        backend.pools.iter().for_each(|pool| pool.enter());
        if let Some(previous) = previous {
            previous.pools.iter().for_each(|pool| pool.leave());
        }
        self.by_slot.borrow_mut()[place] = Some(Rc::clone(&backend));
        backend
    }

    fn forget(&self, slot: Slot) {
        if let Some(known) = self.by_slot.borrow_mut()[slot as usize].take() {
            known.pools.iter().for_each(|pool| pool.leave());
        }
    }

    /// A service as this core uses it. What `previous` knows of targets that stay is kept.
    fn backend(&self, slot: Slot, service: &Arc<Service>, previous: Option<&Backend>) -> Backend {
        let previous = previous.filter(|previous| previous.service.name == service.name);
        let mut places: HashMap<*const Endpoint, usize, foldhash::fast::RandomState> = HashMap::default();
        for (place, target) in previous.iter().flat_map(|previous| previous.service.targets.iter().enumerate()) {
            places.insert(Arc::as_ptr(&target.endpoint), place);
        }
        // The same endpoint stays the same thing as long as its service is not written anew.
        let places: Vec<Option<usize>> =
            service.targets.iter().map(|target| places.get(&Arc::as_ptr(&target.endpoint)).copied()).collect();
        let pools = service.targets.iter().zip(&places).map(|(target, place)| match (previous, place) {
            (Some(previous), Some(place)) => Rc::clone(&previous.pools[*place]),
            _ => self.pool(&target.endpoint),
        });
        let pools = pools.collect();
        let health = self.core.telemetry.health.service(&service.name);
        let members = members(&health, service, previous.map(|previous| (previous, &*places)));
        let counts = self.core.telemetry.metrics.service(slot, &service.name);
        if service.limits.adaptive.is_none() {
            counts.adaptive_limit.set(0);
        }
        let turns = previous
            .filter(|previous| previous.service.load_balancing == service.load_balancing)
            .map(|previous| (&previous.balancer, &*places));
        Backend {
            pools,
            counts,
            history: previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.history)),
            balancer: Balancer::new(service, None, &health, self.core.zone.as_ref(), turns),
            members,
            health,
            core: Rc::clone(&self.core),
            subsets: RefCell::default(),
            joined: RefCell::default(),
            service: Arc::clone(service),
            tags: RefCell::default(),
            warned_ns: Cell::new(previous.and_then(|previous| previous.warned_ns.get())),
        }
    }

    fn pool(&self, endpoint: &Arc<Endpoint>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(endpoint).and_then(Weak::upgrade) {
            return pool;
        }
        let pool = Rc::new(Pool::new(Arc::clone(endpoint), Rc::clone(&self.core)));
        pools.insert(Arc::clone(endpoint), Rc::downgrade(&pool));
        pool
    }

    /// Follows the snapshot where no request has yet, and closes what idled or lived too long.
    pub(super) fn sweep(&self, now_ns: u64) {
        if self.is_behind.replace(false) {
            let slots = self.by_slot.borrow().len();
            (0..slots).for_each(|place| self.compare(Slot::try_from(place).expect("it was a slot before")));
        }
        self.pools.borrow_mut().retain(|_, pool| match pool.upgrade() {
            Some(pool) => {
                pool.sweep(now_ns);
                true
            }
            None => false,
        });
    }

    /// Brings what is known of a service to the form that it has in the current snapshot.
    fn compare(&self, slot: Slot) {
        let Some(known) = self.by_slot.borrow().get(slot as usize).cloned().flatten() else { return };
        let current = Rc::clone(&self.current.borrow());
        match current.services.get(slot) {
            Some(service) if Arc::ptr_eq(service, &known.service) => {}
            // `known` holds the pools until the new form has them.
            Some(service) => drop(self.learn(slot, service)),
            None => self.forget(slot),
        }
    }
}

/// What is known of the targets of a service. What a core knew of those that stay is kept.
fn members(
    health: &Arc<ServiceHealth>,
    service: &Service,
    previous: Option<(&Backend, &[Option<usize>])>,
) -> Vec<Rc<Member>> {
    let counts = service.outlier_detection.counts();
    if counts {
        health.is_counted();
    }
    let targets = health.of_targets(service).into_iter().enumerate();
    let members = targets.map(|(number, health)| {
        let before = previous.and_then(|(previous, places)| Some(&previous.members[places[number]?]));
        match before.filter(|before| before.tally.is_some() == counts && Arc::ptr_eq(&before.health, &health)) {
            Some(before) => Rc::clone(before),
            None => {
                let tally = counts.then(|| health.tally());
                Rc::new(Member { tally, health, latency: Latency::default(), tag: Cell::new(None) })
            }
        }
    });
    members.collect()
}
