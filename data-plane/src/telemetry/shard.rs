//! What one core has counted, as plain numbers that can leave it, and the sum over cores.

use std::collections::BTreeMap;

use super::histogram::Counted;

/// Classes of status codes, and requests whose client left before there was a head.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
/// The class of statuses of 500 and above.
pub const SERVER_ERROR: usize = 4;

/// What one core, or all of them together, have counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shard {
    pub connections_opened: u64,
    pub connections_closed: u64,
    pub requests_started: u64,
    pub requests_ended: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// By name of the route; the empty name for requests without one.
    pub routes: BTreeMap<String, RouteShard>,
    pub services: BTreeMap<String, ServiceShard>,
    pub targets: BTreeMap<String, TargetShard>,
    /// Answers of the gateway itself, by code.
    pub rejections: BTreeMap<&'static str, u64>,
    /// Connections given up without a request that could be answered, by code.
    pub refusals: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteShard {
    pub by_class: [u64; CLASSES.len()],
    pub duration: Counted,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceShard {
    pub requests: u64,
    /// By the code of the error.
    pub failures: BTreeMap<&'static str, u64>,
    pub connect_failures: u64,
    pub in_flight: u64,
    /// Requests that were sent again, by the reason.
    pub retries: BTreeMap<&'static str, u64>,
    /// Those that would have been, but for the budget.
    pub retries_denied: u64,
    /// Second attempts beside slow ones that had their answers sooner.
    pub hedges_won: u64,
    /// The adaptive limit of requests at a time, if it has one.
    pub adaptive_limit: u64,
    /// Copies of requests that it got beside the service that answers.
    pub mirrored: u64,
    /// Of copies that came to nothing, by code.
    pub mirror_drops: BTreeMap<&'static str, u64>,
    /// Until the head of the response.
    pub duration: Counted,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetShard {
    pub requests: u64,
    pub open: u64,
    pub idle: u64,
}

impl Shard {
    /// Adds what another core has counted.
    pub fn absorb(&mut self, other: Self) {
        let Self {
            connections_opened,
            connections_closed,
            requests_started,
            requests_ended,
            bytes_in,
            bytes_out,
            routes,
            services,
            targets,
            rejections,
            refusals,
        } = other;
        self.connections_opened += connections_opened;
        self.connections_closed += connections_closed;
        self.requests_started += requests_started;
        self.requests_ended += requests_ended;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        for (name, theirs) in routes {
            self.routes.entry(name).or_default().absorb(&theirs);
        }
        for (name, theirs) in services {
            self.services.entry(name).or_default().absorb(theirs);
        }
        for (name, theirs) in targets {
            self.targets.entry(name).or_default().absorb(&theirs);
        }
        for (code, count) in rejections {
            *self.rejections.entry(code).or_default() += count;
        }
        for (code, count) in refusals {
            *self.refusals.entry(code).or_default() += count;
        }
    }
}

impl RouteShard {
    pub fn absorb(&mut self, other: &Self) {
        let Self { by_class, duration } = other;
        for (mine, theirs) in self.by_class.iter_mut().zip(by_class) {
            *mine += theirs;
        }
        self.duration.absorb(duration);
    }
}

impl ServiceShard {
    pub fn absorb(&mut self, other: Self) {
        let Self {
            requests,
            failures,
            connect_failures,
            in_flight,
            retries,
            retries_denied,
            hedges_won,
            adaptive_limit,
            mirrored,
            mirror_drops,
            duration,
        } = other;
        self.requests += requests;
        for (code, count) in failures {
            *self.failures.entry(code).or_default() += count;
        }
        self.connect_failures += connect_failures;
        self.in_flight += in_flight;
        for (code, count) in retries {
            *self.retries.entry(code).or_default() += count;
        }
        self.retries_denied += retries_denied;
        self.hedges_won += hedges_won;
        self.adaptive_limit += adaptive_limit;
        self.mirrored += mirrored;
        for (code, count) in mirror_drops {
            *self.mirror_drops.entry(code).or_default() += count;
        }
        self.duration.absorb(&duration);
    }
}

impl TargetShard {
    pub fn absorb(&mut self, other: &Self) {
        let Self { requests, open, idle } = other;
        self.requests += requests;
        self.open += open;
        self.idle += idle;
    }
}
