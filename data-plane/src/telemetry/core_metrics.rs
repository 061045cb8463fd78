//! What one core counts: plain cells, created when a route, service or target is first used.
//!
//! Series of routes are found by the slot of the route, with a check of its name because a slot may pass to
//! another resource; what the one before it counted is then gone, as its resource is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use http::StatusCode;
use model::resource::Name;
use model::slots::Slot;
use smallvec::SmallVec;

use super::RequestRecord;
use super::histogram::Histogram;
use super::shard::{CLASSES, RouteShard, SERVER_ERROR, ServiceShard, Shard, TargetShard};
use super::traffic::Totals;

/// No more series of a kind than this on a core; further names are counted together as `other`.
const MAX_SERIES: usize = 2000;

/// The name under which those are counted. No resource can have it: names have no underscore.
const OTHER: &str = "_other";

/// The counts of one core.
#[derive(Default)]
pub struct CoreMetrics {
    connections_opened: Cell<u64>,
    connections_closed: Cell<u64>,
    requests_started: Cell<u64>,
    requests_ended: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    routes: RefCell<Series<RouteCounts>>,
    services: RefCell<Series<ServiceCounts>>,
    endpoints: RefCell<Vec<Weak<EndpointCounts>>>,
    unrouted: RouteCounts,
    rejections: Codes,
    refusals: Codes,
}

#[derive(Default)]
struct RouteCounts {
    by_class: [Cell<u64>; CLASSES.len()],
    duration: Histogram,
}

/// What a core counts for a service.
#[derive(Default)]
pub struct ServiceCounts {
    requests: Cell<u64>,
    connect_failures: Cell<u64>,
    in_flight: Cell<u64>,
    mirrored: Cell<u64>,
    mirror_drops: Codes,
    retries: Codes,
    retries_denied: Cell<u64>,
    hedges_won: Cell<u64>,
    /// Of services that have one.
    pub adaptive_limit: Cell<u64>,
    failures: Codes,
    duration: Histogram,
}

/// What a core counts for a target; its connections are shared by all services that name it.
pub struct EndpointCounts {
    target: String,
    pub requests: Cell<u64>,
    pub open: Cell<u64>,
    pub idle: Cell<u64>,
}

/// Counts by code. There are few codes, and they are constants.
#[derive(Default)]
struct Codes(RefCell<SmallVec<[(&'static str, u64); 4]>>);

/// What becomes of the counts of a series whose slot has passed to another resource.
trait Retire {
    /// Keeps what is wanted of them.
    fn retire(&self, into: &Self);
}

/// Series by slot.
struct Series<T> {
    by_slot: HashMap<Slot, (Name, Rc<T>), foldhash::fast::FixedState>,
    other: Rc<T>,
    /// What is kept of those that are gone.
    retired: T,
}

impl<T: Default> Default for Series<T> {
    fn default() -> Self {
        Self { by_slot: HashMap::default(), other: Rc::default(), retired: T::default() }
    }
}

impl<T: Default + Retire> Series<T> {
    fn of(&mut self, slot: Slot, name: &Name) -> Rc<T> {
        let is_full = self.by_slot.len() >= MAX_SERIES;
        match self.by_slot.get_mut(&slot) {
            Some((known, series)) if known == name => Rc::clone(series),
            Some(entry) => {
                entry.1.retire(&self.retired);
                *entry = (name.clone(), Rc::default());
                Rc::clone(&entry.1)
            }
            None if is_full => Rc::clone(&self.other),
            None => {
                let series = Rc::default();
                self.by_slot.insert(slot, (name.clone(), Rc::clone(&series)));
                series
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let other = (Rc::strong_count(&self.other) > 1 || self.by_slot.len() >= MAX_SERIES).then_some(&*self.other);
        let named = self.by_slot.values().map(|(name, series)| (name.as_str(), &**series));
        named.chain(other.map(|other| (OTHER, other)))
    }
}

impl CoreMetrics {
    /// A client has connected.
    pub fn connection_opened(&self) {
        add(&self.connections_opened, 1);
    }

    pub fn connection_closed(&self) {
        add(&self.connections_closed, 1);
    }

    /// A connection was given up without a request that could be answered, for the reason of this code.
    pub fn connection_refused(&self, code: &'static str) {
        self.refusals.count(code);
    }

    /// A request has come in; [`super::CoreTelemetry::ended`] must follow.
    pub fn request_started(&self) {
        add(&self.requests_started, 1);
    }

    pub(super) fn ended(&self, record: &RequestRecord<'_>) {
        add(&self.requests_ended, 1);
        add(&self.bytes_in, record.bytes_in);
        add(&self.bytes_out, record.bytes_out);
        if let Some(code) = record.code {
            self.rejections.count(code);
        }
        match record.route {
            Some((slot, name)) => self.routes.borrow_mut().of(slot, name).count(record),
            None => self.unrouted.count(record),
        }
    }

    /// The counts of a service. They stay valid when its slot passes to another.
    pub fn service(&self, slot: Slot, name: &Name) -> Rc<ServiceCounts> {
        self.services.borrow_mut().of(slot, name)
    }

    /// Counts for a target, reported for as long as somebody holds them.
    pub fn endpoint(&self, target: String) -> Rc<EndpointCounts> {
        let counts =
            Rc::new(EndpointCounts { target, requests: Cell::default(), open: Cell::default(), idle: Cell::default() });
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        endpoints.push(Rc::downgrade(&counts));
        counts
    }

    /// All requests that have ended until now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let routes = self.routes.borrow();
        let mut totals = Totals::default();
        for (_, counts) in routes.iter().chain([("", &self.unrouted), ("", &routes.retired)]) {
            let RouteShard { by_class, duration } = counts.read();
            totals.absorb(&Totals {
                requests: by_class.iter().sum(),
                failed: by_class[SERVER_ERROR],
                durations: duration,
            });
        }
        totals
    }

    /// What has been counted until now.
    #[must_use]
    pub fn shard(&self) -> Shard {
        let mut shard = Shard {
            connections_opened: self.connections_opened.get(),
            connections_closed: self.connections_closed.get(),
            requests_started: self.requests_started.get(),
            requests_ended: self.requests_ended.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            ..Shard::default()
        };
        for (code, count) in self.rejections.0.borrow().iter() {
            shard.rejections.insert(code, *count);
        }
        for (code, count) in self.refusals.0.borrow().iter() {
            shard.refusals.insert(code, *count);
        }
        for (name, counts) in self.routes.borrow().iter().chain([("", &self.unrouted)]) {
            shard.routes.entry(name.to_owned()).or_default().absorb(&counts.read());
        }
        for (name, counts) in self.services.borrow().iter() {
            shard.services.entry(name.to_owned()).or_default().absorb(counts.read());
        }
        for counts in self.endpoints.borrow().iter().filter_map(Weak::upgrade).take(MAX_SERIES) {
            let read =
                TargetShard { requests: counts.requests.get(), open: counts.open.get(), idle: counts.idle.get() };
            shard.targets.entry(counts.target.clone()).or_default().absorb(&read);
        }
        shard
    }
}

impl RouteCounts {
    fn count(&self, record: &RequestRecord<'_>) {
        add(&self.by_class[class_of(record.status)], 1);
        self.duration.observe(record.duration_ns);
    }

    fn read(&self) -> RouteShard {
        RouteShard { by_class: self.by_class.each_ref().map(Cell::get), duration: self.duration.read() }
    }
}

impl Retire for RouteCounts {
    fn retire(&self, into: &Self) {
        for (mine, theirs) in into.by_class.iter().zip(&self.by_class) {
            add(mine, theirs.get());
        }
        into.duration.absorb(&self.duration.read());
    }
}

/// Nobody asks for the sum over all services.
impl Retire for ServiceCounts {
    fn retire(&self, _: &Self) {}
}

impl ServiceCounts {
    /// A request is about to be sent to a target.
    pub fn started(&self) {
        add(&self.requests, 1);
        add(&self.in_flight, 1);
    }

    /// The request, with the body of its response, is over.
    pub fn ended(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    pub fn connect_failed(&self) {
        add(&self.connect_failures, 1);
    }

    /// A copy of a request is about to be sent.
    pub fn mirrored(&self) {
        add(&self.mirrored, 1);
    }

    /// A copy of a request came to nothing, for the reason of this code.
    pub fn mirror_dropped(&self, code: &'static str) {
        self.mirror_drops.count(code);
    }

    /// A request is about to be sent again, for the reason of this code.
    pub fn retried(&self, code: &'static str) {
        self.retries.count(code);
    }

    /// A request would have been sent again, but for the budget of the service.
    pub fn retry_denied(&self) {
        add(&self.retries_denied, 1);
    }

    /// A second attempt beside a slow one had its answer sooner.
    pub fn hedge_won(&self) {
        add(&self.hedges_won, 1);
    }

    /// There was no answer, for the reason of this code.
    pub fn failed(&self, code: &'static str) {
        self.failures.count(code);
    }

    /// The head of the response took this long.
    pub fn answered(&self, duration_ns: u64) {
        self.duration.observe(duration_ns);
    }

    fn read(&self) -> ServiceShard {
        ServiceShard {
            requests: self.requests.get(),
            failures: self.failures.0.borrow().iter().copied().collect(),
            connect_failures: self.connect_failures.get(),
            in_flight: self.in_flight.get(),
            mirrored: self.mirrored.get(),
            retries: self.retries.0.borrow().iter().copied().collect(),
            retries_denied: self.retries_denied.get(),
            hedges_won: self.hedges_won.get(),
            adaptive_limit: self.adaptive_limit.get(),
            mirror_drops: self.mirror_drops.0.borrow().iter().copied().collect(),
            duration: self.duration.read(),
        }
    }
}

impl Codes {
    fn count(&self, code: &'static str) {
        let mut codes = self.0.borrow_mut();
        match codes.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => codes.push((code, 1)),
        }
    }
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get().wrapping_add(more));
}

fn class_of(status: Option<StatusCode>) -> usize {
    status.map_or(CLASSES.len() - 1, |status| usize::from(status.as_u16() / 100).clamp(1, 5) - 1)
}
