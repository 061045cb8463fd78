//! Which targets are fit for requests: what cores notice while they serve, what active checks find, and for how long a
//! target stays out because of it.
//!
//! All that cores read for a request is one number of its service, which changes when anything about its targets does.
//! It is written, as are the states of targets, only when something goes wrong or is well again. Decisions fall in one
//! task for the process ([`Health::watch`]); what it decides by reads no clock ([`outliers`], [`verdict`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use model::resource::Name;
use model::resource::service::TargetUrl;
use model::snapshot::{Service, Snapshot};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::clock::{monotonic_ns, unix_ms};

mod checks;
mod outliers;
mod target;
#[cfg(test)]
mod tests;
mod verdict;
mod watch;

pub(crate) use target::Tally;
pub use target::{Cause, TargetHealth, Trouble};

/// What waits for the task that decides. More than that says the same again.
const MAX_EVENTS: usize = 1024;

/// What the control plane is told of at a time.
const MAX_TOLD: usize = 500;

/// The health of all services of the process. Clones are the same.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    services: Mutex<HashMap<Name, Arc<ServiceHealth>>>,
    events: mpsc::Sender<Event>,
    received: Mutex<Option<mpsc::Receiver<Event>>>,
    /// What is served.
    current: Mutex<Arc<Snapshot>>,
    changed: Notify,
}

/// What the task that decides is told.
enum Event {
    /// So many requests in a row have failed that something should be done.
    Failing { service: Name, target: TargetUrl },
    /// A target begins to get requests, little by little.
    Began { service: Name },
    /// A core counts what the targets of a service answer.
    Counts { service: Name },
}

/// The health of the targets of one service.
pub struct ServiceHealth {
    name: Name,
    /// Changes with every change of the state of a target.
    generation: AtomicU32,
    targets: Mutex<HashMap<TargetUrl, Arc<TargetHealth>>>,
    events: mpsc::Sender<Event>,
}

impl Default for Health {
    fn default() -> Self {
        let (events, received) = mpsc::channel(MAX_EVENTS);
        let (services, current, changed) = (Mutex::default(), Mutex::default(), Notify::new());
        Self(Arc::new(Shared { services, events, received: Mutex::new(Some(received)), current, changed }))
    }
}

impl Health {
    /// The health of a service. Cores ask when they meet a new form of it, and not for requests.
    pub(crate) fn service(&self, name: &Name) -> Arc<ServiceHealth> {
        let mut services = self.0.services.lock();
        let health = services.entry(name.clone()).or_insert_with(|| {
            let (generation, targets, events) = (AtomicU32::new(0), Mutex::default(), self.0.events.clone());
            Arc::new(ServiceHealth { name: name.clone(), generation, targets, events })
        });
        Arc::clone(health)
    }

    /// The node serves this from now on.
    pub(crate) fn follow(&self, snapshot: &Arc<Snapshot>) {
        *self.0.current.lock() = Arc::clone(snapshot);
        self.0.changed.notify_one();
    }

    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.current.lock())
    }

    fn known(&self, name: &Name) -> Option<Arc<ServiceHealth>> {
        self.0.services.lock().get(name).cloned()
    }

    /// The targets that are out, with the reasons: by service, at most so many.
    #[must_use]
    pub fn troubles(&self, at_most: usize) -> Vec<(Name, TargetUrl, Vec<Trouble>)> {
        let services: Vec<_> = self.0.services.lock().values().cloned().collect();
        let troubles = services.iter().flat_map(|service| {
            let targets = service.targets.lock();
            let out = targets.iter().map(|(url, target)| (service.name.clone(), url.clone(), target.troubles()));
            out.filter(|(.., troubles)| !troubles.is_empty()).collect::<Vec<_>>()
        });
        let mut troubles: Vec<_> = troubles.take(at_most).collect();
        troubles.sort_by(|(one, target, _), (other, second, _)| (one, target).cmp(&(other, second)));
        troubles
    }
}

impl Health {
    /// What is to be told to the control plane, and how many targets are left out.
    pub(crate) fn to_wire(&self) -> (Vec<proto::UnhealthyTarget>, u64) {
        let mut troubles = self.troubles(usize::MAX);
        let untold = troubles.len().saturating_sub(MAX_TOLD);
        troubles.truncate(MAX_TOLD);
        let told = troubles.into_iter().flat_map(|(service, target, troubles)| {
            troubles.into_iter().map(move |trouble| proto::UnhealthyTarget {
                service: service.to_string(),
                target: target.to_string(),
                cause: trouble.cause.name().to_owned(),
                reason: trouble.reason,
                since_unix_ms: trouble.since_unix_ms,
                until_unix_ms: trouble.until_unix_ms.unwrap_or(0),
            })
        });
        (told.collect(), untold as u64)
    }
}

impl ServiceHealth {
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    fn has_changed(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The health of the targets of the service, in their order. One that was not there before starts slowly, where the
    /// service says so and others were.
    pub(crate) fn of_targets(&self, service: &Service) -> Vec<Arc<TargetHealth>> {
        let mut known = self.targets.lock();
        let is_first = known.is_empty();
        let mut has_begun = false;
        let healths = service.targets.iter().map(|target| {
            let health = known.entry(target.endpoint.url.clone()).or_insert_with(|| {
                let health = TargetHealth::default();
                if !is_first && service.load_balancing.slow_start.is_some() {
                    health.begin(now_ms());
                    has_begun = true;
                }
                Arc::new(health)
            });
            Arc::clone(health)
        });
        let healths = healths.collect();
        // Of those that left nobody asks again, or not soon.
        if known.len() > 2 * service.targets.len() {
            let listed: HashSet<_> = service.targets.iter().map(|target| &target.endpoint.url).collect();
            known.retain(|url, _| listed.contains(url));
        }
        if has_begun {
            self.tell(Event::Began { service: self.name.clone() });
        }
        healths
    }

    /// A core counts what targets answer from now on.
    pub(crate) fn is_counted(&self) {
        self.tell(Event::Counts { service: self.name.clone() });
    }

    fn target(&self, url: &TargetUrl) -> Option<Arc<TargetHealth>> {
        self.targets.lock().get(url).cloned()
    }

    /// A request to a target failed; after `threshold` in a row it is looked at.
    pub(crate) fn failed(&self, url: &TargetUrl, target: &TargetHealth, threshold: u32) {
        if target.failed().is_multiple_of(threshold) {
            self.tell(Event::Failing { service: self.name.clone(), target: url.clone() });
        }
    }

    /// When nobody listens, or so many speak, that says the same.
    fn tell(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// Takes a target out, or back in.
    fn set(&self, url: &TargetUrl, cause: Cause, trouble: Option<Trouble>) {
        let Some(target) = self.target(url) else { return };
        let (service, address) = (self.name.as_str(), url.authority());
        let reason = trouble.as_ref().map(|trouble| trouble.reason.clone());
        if !target.set(cause, trouble) {
            return;
        }
        match reason {
            Some(reason) => tracing::warn!(
                service.name = service,
                target.address = address,
                "a target gets no requests for now: {reason}"
            ),
            None => tracing::info!(service.name = service, target.address = address, "a target gets requests again"),
        }
        if target.is_healthy() {
            // Where the service says so, it gets its share little by little.
            target.begin(now_ms());
            self.tell(Event::Began { service: self.name.clone() });
        }
        self.has_changed();
    }
}

fn now_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

fn trouble(cause: Cause, reason: String, until_ms: Option<u64>) -> Trouble {
    let since_unix_ms = unix_ms();
    let until_unix_ms = until_ms.map(|until_ms| since_unix_ms + until_ms.saturating_sub(now_ms()));
    Trouble { cause, reason, since_unix_ms, until_unix_ms }
}
