//! Services as one core uses them: their pools at hand, so that a request costs one look at a slot.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use model::slots::Slot;
use model::snapshot::{Endpoint, Service, Snapshot};

use super::UpstreamError;
use super::balance::Balancer;
use super::pool::{Core, Pool};
use crate::telemetry::ServiceCounts;

/// A service that fails is mentioned in the log of the process this often; metrics count every case.
const WARN_EVERY_NS: u64 = 10_000_000_000;

/// A service as one core uses it.
pub(super) struct Backend {
    pub(super) service: Arc<Service>,
    /// One for each target, in their order.
    pub(super) pools: Vec<Rc<Pool>>,
    pub(super) counts: Rc<ServiceCounts>,
    balancer: Balancer,
    warned_ns: Cell<Option<u64>>,
}

impl Backend {
    /// The target for a request that could not be sent to those `tried` before.
    pub(super) fn pick(&self, tried: &[usize]) -> Option<usize> {
        self.balancer.pick(tried, |target| self.pools[target].in_flight.get())
    }

    /// Counts a request without an answer, and says so in the log of the process now and then.
    pub(super) fn failed(&self, error: &UpstreamError, target: Option<&Pool>, now_ns: u64) {
        if !error.is_of_service() {
            return;
        }
        self.counts.failed(error.code());
        if self.warned_ns.get().is_none_or(|warned_ns| now_ns >= warned_ns + WARN_EVERY_NS) {
            self.warned_ns.set(Some(now_ns));
            let (service, target) = (self.service.name.as_str(), target.map(|pool| &*pool.target));
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
    /// The revision that the services were last compared with.
    compared: Cell<u64>,
}

impl Backends {
    pub(super) fn new(core: Rc<Core>) -> Self {
        Self { core, by_slot: RefCell::default(), pools: RefCell::default(), compared: Cell::new(0) }
    }

    pub(super) fn of(&self, snapshot: &Snapshot, slot: Slot) -> Option<Rc<Backend>> {
        let service = snapshot.services.get(slot)?;
        if let Some(Some(backend)) = self.by_slot.borrow().get(slot as usize)
            && Arc::ptr_eq(&backend.service, service)
        {
            return Some(Rc::clone(backend));
        }
        Some(self.learn(slot, service))
    }

    fn learn(&self, slot: Slot, service: &Arc<Service>) -> Rc<Backend> {
        let backend = Rc::new(Backend {
            pools: service.targets.iter().map(|target| self.pool(&target.endpoint)).collect(),
            counts: self.core.telemetry.metrics.service(slot, &service.name),
            balancer: Balancer::new(service.load_balancing, &service.targets),
            service: Arc::clone(service),
            warned_ns: Cell::new(None),
        });
        let mut by_slot = self.by_slot.borrow_mut();
        let place = slot as usize;
        if by_slot.len() <= place {
            by_slot.resize(place + 1, None);
        }
        by_slot[place] = Some(Rc::clone(&backend));
        backend
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
    pub(super) fn sweep(&self, snapshot: &Snapshot, now_ns: u64) {
        if self.compared.replace(snapshot.revision) != snapshot.revision {
            self.compare(snapshot);
        }
        self.pools.borrow_mut().retain(|_, pool| match pool.upgrade() {
            Some(pool) => {
                pool.sweep(now_ns);
                true
            }
            None => false,
        });
    }

    fn compare(&self, snapshot: &Snapshot) {
        let slots = self.by_slot.borrow().len();
        for place in 0..slots {
            let Some(known) = self.by_slot.borrow()[place].clone() else { continue };
            let slot = Slot::try_from(place).expect("it was a slot before");
            match snapshot.services.get(slot) {
                Some(service) if Arc::ptr_eq(service, &known.service) => {}
                // `known` holds the pools until the new form has them.
                Some(service) => drop(self.learn(slot, service)),
                None => self.by_slot.borrow_mut()[place] = None,
            }
        }
    }
}
