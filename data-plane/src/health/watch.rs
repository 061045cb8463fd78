//! The task that decides for the process: it hears what cores notice, lets targets out and in again, and has targets
//! checked whose services ask for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::resource::Name;
use model::resource::service::{OutlierDetection, TargetUrl};
use model::snapshot::{Endpoint, Service, Snapshot};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::checks::{Checker, probe};
use super::outliers::{Outliers, failing, slow};
use super::target::Counts;
use super::verdict::{Verdict, pause};
use super::{Cause, Event, Health, ServiceHealth, now_ms, trouble};
use crate::dns::Names;

/// How exact times are. Nothing ticks while nothing is pending.
const TICK: Duration = Duration::from_millis(100);

/// Checks of one process that are under way at a time.
const MAX_CHECKS: usize = 256;

struct Watch {
    health: Health,
    names: Names,
    /// What is served may be something else than `current`.
    is_stale: bool,
    current: Arc<Snapshot>,
    outliers: HashMap<Name, Outliers>,
    /// Targets that are asked whether they are there again.
    probes: JoinSet<(Name, TargetUrl, bool)>,
    probed: HashSet<(Name, TargetUrl)>,
    /// Services with targets in their slow start, until when.
    warming: HashMap<Name, u64>,
    /// Services whose answers are counted.
    counted: HashMap<Name, Counted>,
    checked: HashMap<Name, Checked>,
    places: Arc<Semaphore>,
}

/// What was counted when a service was judged last.
struct Counted {
    at_ms: u64,
    before: HashMap<TargetUrl, Counts>,
}

/// A service whose targets are checked.
struct Checked {
    service: Arc<Service>,
    targets: HashMap<TargetUrl, (Arc<Endpoint>, AbortOnDropHandle<()>)>,
}

impl Health {
    /// Decides until `stop`.
    pub async fn watch(self, names: Names, stop: CancellationToken) {
        let Some(mut events) = self.0.received.lock().take() else { return };
        let mut watch = Watch::new(self.clone(), names);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => match event {
                    Some(event) => watch.hear(event, now_ms()),
                    None => return,
                },
                () = self.0.changed.notified() => watch.is_stale = true,
                Some(probed) = watch.probes.join_next() => match probed {
                    Ok((service, target, is_there)) => watch.was_probed(&service, &target, is_there, now_ms()),
                    Err(failed) => std::panic::resume_unwind(failed.into_panic()),
                },
                _ = tick.tick(), if watch.is_busy() => watch.look(now_ms()),
            }
        }
    }
}

impl Watch {
    fn new(health: Health, names: Names) -> Self {
        Self {
            health,
            names,
            is_stale: true,
            current: Arc::default(),
            outliers: HashMap::new(),
            probes: JoinSet::new(),
            probed: HashSet::new(),
            warming: HashMap::new(),
            counted: HashMap::new(),
            checked: HashMap::new(),
            places: Arc::new(Semaphore::new(MAX_CHECKS)),
        }
    }

    fn is_busy(&self) -> bool {
        self.is_stale || !self.outliers.is_empty() || !self.warming.is_empty() || !self.counted.is_empty()
    }

    fn hear(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Failing { service, target } => {
                let service = self.health.current().services.find(&service).cloned();
                let Some(service) = service else { return };
                let failures = service.outlier_detection.consecutive_failures;
                self.eject(&service, &target, format!("{failures} requests in a row have failed"), now_ms);
            }
            Event::Began { service } => {
                let current = self.health.current();
                let slow_start = current.services.find(&service).and_then(|service| service.load_balancing.slow_start);
                if let Some(slow_start) = slow_start {
                    self.warming.insert(service, now_ms + slow_start.as_millis());
                }
            }
            Event::Counts { service } => {
                self.counted.entry(service).or_insert_with(|| Counted { at_ms: now_ms, before: HashMap::new() });
            }
        }
    }

    /// What the passing of time brings.
    fn look(&mut self, now_ms: u64) {
        if std::mem::take(&mut self.is_stale) {
            self.follow();
        }
        self.return_ejected(now_ms);
        for name in self.warming.keys() {
            if let Some(health) = self.health.known(name) {
                health.has_changed();
            }
        }
        self.warming.retain(|_, until_ms| now_ms <= *until_ms);
        self.judge_counts(now_ms);
    }

    fn eject(&mut self, service: &Service, target: &TargetUrl, reason: String, now_ms: u64) {
        let terms = &service.outlier_detection;
        let Some(health) = self.health.known(&service.name) else { return };
        let with_weight = || service.targets.iter().filter(|target| target.weight > 0);
        if !with_weight().any(|listed| listed.endpoint.url == *target) {
            return;
        }
        let outliers = self.outliers.entry(service.name.clone()).or_default();
        if let Some(until_ms) = outliers.eject(target, with_weight().count(), terms, now_ms) {
            health.set(target, Cause::Outlier, Some(trouble(Cause::Outlier, reason, Some(until_ms))));
        }
    }

    /// Asks targets whose time is over whether they are there.
    fn return_ejected(&mut self, now_ms: u64) {
        let current = self.health.current();
        let (probes, probed, names) = (&mut self.probes, &mut self.probed, &self.names);
        self.outliers.retain(|name, outliers| {
            let Some(service) = current.services.find(name) else { return false };
            let listed: HashMap<_, _> =
                service.targets.iter().map(|target| (&target.endpoint.url, &target.endpoint)).collect();
            for target in outliers.due(now_ms) {
                let Some(endpoint) = listed.get(&target) else { continue };
                if probed.insert((name.clone(), target.clone())) {
                    let (name, endpoint, names) = (name.clone(), Arc::clone(endpoint), names.clone());
                    probes.spawn(async move { (name, target, probe(&names, &endpoint).await) });
                }
            }
            outliers.keep(|target| listed.contains_key(target), &service.outlier_detection, now_ms);
            !outliers.is_empty()
        });
    }

    fn was_probed(&mut self, name: &Name, target: &TargetUrl, is_there: bool, now_ms: u64) {
        self.probed.remove(&(name.clone(), target.clone()));
        let current = self.health.current();
        let (Some(service), Some(health)) = (current.services.find(name), self.health.known(name)) else { return };
        let Some(outliers) = self.outliers.get_mut(name) else { return };
        let terms = &service.outlier_detection;
        if is_there {
            outliers.let_in(target, now_ms);
            if let Some(target) = health.target(target) {
                target.put_on_probation(terms.consecutive_failures);
            }
            health.set(target, Cause::Outlier, None);
        } else {
            let until_ms = outliers.eject_again(target, terms, now_ms);
            let reason = "its time was over, but it takes no connection".to_owned();
            health.set(target, Cause::Outlier, Some(trouble(Cause::Outlier, reason, Some(until_ms))));
        }
    }

    /// Compares what targets have answered, where it is time.
    fn judge_counts(&mut self, now_ms: u64) {
        let current = self.health.current();
        let mut out = Vec::new();
        let health = &self.health;
        self.counted.retain(|name, counted| {
            let service = current.services.find(name).filter(|service| service.outlier_detection.counts());
            let (Some(service), Some(known)) = (service, health.known(name)) else { return false };
            if now_ms < counted.at_ms + service.outlier_detection.interval.as_millis() {
                return true;
            }
            counted.at_ms = now_ms;
            let of = |url: &TargetUrl| known.target(url).map_or_else(Counts::default, |target| target.counts());
            let urls = || service.targets.iter().map(|target| &target.endpoint.url);
            let after: HashMap<_, _> = urls().map(|url| (url.clone(), of(url))).collect();
            let before = std::mem::replace(&mut counted.before, after);
            let since = |url| counted.before[url].since(before.get(url).copied().unwrap_or_default());
            let found = outlying(&urls().map(since).collect::<Vec<_>>(), &service.outlier_detection);
            out.extend(found.into_iter().map(|(place, why)| (Arc::clone(service), place, why)));
            true
        });
        for (service, place, why) in out {
            self.eject(&service, &service.targets[place].endpoint.url, why, now_ms);
        }
    }

    /// Forgets services that are gone, and checks exactly the targets that are to be checked.
    fn follow(&mut self) {
        self.current = self.health.current();
        let current = Arc::clone(&self.current);
        let mut wanted: HashMap<&Name, &Arc<Service>> = HashMap::new();
        for service in current.checked.iter().filter_map(|slot| current.services.get(*slot)) {
            wanted.insert(&service.name, service);
        }
        self.checked.retain(|name, checked| {
            let is_wanted = wanted.contains_key(name);
            if let Some(health) = self.health.known(name).filter(|_| !is_wanted) {
                checked.targets.keys().for_each(|target| health.set(target, Cause::Check, None));
            }
            is_wanted
        });
        for (name, service) in wanted {
            if self.checked.get(name).is_none_or(|checked| !Arc::ptr_eq(&checked.service, service)) {
                self.check(service);
            }
        }
        self.health.0.services.lock().retain(|name, _| current.services.find(name).is_some());
    }

    /// Checks the targets of a service from now on: those that were checked before in the same way go on.
    fn check(&mut self, service: &Arc<Service>) {
        let Some(terms) = &service.health_check else { return };
        let health = self.health.service(&service.name);
        health.of_targets(service);
        let before = self.checked.remove(&service.name);
        let is_same = before.as_ref().is_some_and(|before| before.service.health_check.as_ref() == Some(terms));
        let mut before = before.map_or_else(HashMap::new, |before| before.targets);
        let mut targets = HashMap::new();
        for endpoint in service.targets.iter().map(|target| &target.endpoint) {
            let kept = before.remove(&endpoint.url).filter(|(known, _)| is_same && known == endpoint);
            let checking = kept.unwrap_or_else(|| {
                let checker = Checker::new(self.names.clone(), Arc::clone(endpoint), Arc::clone(terms));
                let task = keep_checking(Arc::clone(&health), checker, Arc::clone(&self.places));
                (Arc::clone(endpoint), AbortOnDropHandle::new(tokio::spawn(task)))
            });
            targets.insert(endpoint.url.clone(), checking);
        }
        before.into_keys().for_each(|gone| health.set(&gone, Cause::Check, None));
        self.checked.insert(service.name.clone(), Checked { service: Arc::clone(service), targets });
    }
}

/// Checks one target until the task is dropped.
async fn keep_checking(health: Arc<ServiceHealth>, checker: Checker, places: Arc<Semaphore>) {
    let (endpoint, terms) = (Arc::clone(&checker.endpoint), Arc::clone(&checker.terms));
    let mut verdict = Verdict::default();
    // Not all at once, but soon.
    tokio::time::sleep(terms.interval.get().min(Duration::from_secs(1)).mul_f64(fastrand::f64())).await;
    loop {
        let place = places.acquire().await.expect("the semaphore is never closed");
        let result = checker.check().await;
        drop(place);
        match (verdict.hear(result.is_ok(), &terms), result) {
            (Some(false), Err(reason)) => {
                health.set(&endpoint.url, Cause::Check, Some(trouble(Cause::Check, reason, None)));
            }
            (Some(_), _) => health.set(&endpoint.url, Cause::Check, None),
            (None, _) => {}
        }
        tokio::time::sleep(pause(&terms, fastrand::f64())).await;
    }
}

/// The targets that are to go for what they answered, and why.
fn outlying(counts: &[Counts], terms: &OutlierDetection) -> Vec<(usize, String)> {
    let failing = terms.success_rate.iter().flat_map(|terms| failing(counts, terms));
    failing.chain(terms.latency.iter().flat_map(|terms| slow(counts, terms))).collect()
}
