//! Services as one core uses them: their pools at hand, so that a request costs one look at a slot.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use model::slots::Slot;
use model::snapshot::{Endpoint, Service, Snapshot};

use super::UpstreamError;
use super::admission::Queue;
use super::balance::Balancer;
use super::pool::{Core, Pool};
use super::retry::budget::Budget;
use crate::telemetry::ServiceCounts;

/// A service that fails is mentioned in the log of the process this often; metrics count every case.
const WARN_EVERY_NS: u64 = 10_000_000_000;

/// A service as one core uses it.
pub(super) struct Backend {
    pub(super) service: Arc<Service>,
    /// One for each target, in their order.
    pub(super) pools: Vec<Rc<Pool>>,
    pub(super) counts: Rc<ServiceCounts>,
    pub(super) history: Rc<History>,
    balancer: Balancer,
    warned_ns: Cell<Option<u64>>,
}

/// What a core knows of a service from its requests. It stays when the service changes.
#[derive(Default)]
pub(super) struct History {
    pub(super) budget: Budget,
    pub(super) queue: Queue,
}

impl Backend {
    /// The target for a request that could not be sent to those `tried` before.
    pub(super) fn pick(&self, tried: &[usize]) -> Option<usize> {
        self.balancer.pick(tried, |target| self.pools[target].in_flight.get())
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
        let turns = previous
            .filter(|previous| previous.service.load_balancing == service.load_balancing)
            .map(|previous| (&previous.balancer, &*places));
        Backend {
            pools: pools.collect(),
            counts: self.core.telemetry.metrics.service(slot, &service.name),
            history: previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.history)),
            balancer: Balancer::new(service.load_balancing, &service.targets, turns),
            service: Arc::clone(service),
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
