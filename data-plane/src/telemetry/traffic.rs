//! What all cores together have counted since the node began to serve a revision, as the control plane is told it.
//!
//! It is summed up from what cores count anyway, on the runtime for everything else: once a second, and when a revision has
//! come into service. What came between the last sum and that moment counts for neither, so that no revision has to answer for
//! another.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Telemetry;
use super::histogram::Counted;
use crate::sync::Status;

const EVERY: Duration = Duration::from_secs(1);

/// Requests that have ended, on one core or on all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    pub requests: u64,
    /// With a status of 500 and above.
    pub failed: u64,
    pub durations: Counted,
}

impl Totals {
    pub fn absorb(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.durations.absorb(&other.durations);
    }

    /// What came since it was `earlier`; nothing if it never was, since a core that broke down begins anew.
    fn since(&self, earlier: &Self) -> Option<proto::Counts> {
        let buckets = self.durations.buckets.iter().zip(earlier.durations.buckets);
        Some(proto::Counts {
            requests: self.requests.checked_sub(earlier.requests)?,
            failed: self.failed.checked_sub(earlier.failed)?,
            durations: buckets.map(|(now, then)| now.checked_sub(then)).collect::<Option<_>>()?,
        })
    }
}

/// Cuts what is counted into the times of revisions.
#[derive(Default)]
struct Cut {
    revision: u64,
    /// What had been counted when that began to be served.
    base: Totals,
    last: Totals,
    before: Option<proto::Counts>,
}

impl Cut {
    fn note(&mut self, revision: u64, now: Totals) -> proto::Traffic {
        if self.revision != revision {
            self.before = self.last.since(&self.base).filter(|_| self.revision != 0);
            (self.revision, self.base) = (revision, now.clone());
        }
        let counts = now.since(&self.base).unwrap_or_else(|| {
            self.base = now.clone();
            proto::Counts::default()
        });
        self.last = now;
        proto::Traffic { revision, counts: Some(counts), before: self.before.clone() }
    }
}

/// Sums up until `stop`.
pub async fn watch(telemetry: Telemetry, mut status: watch::Receiver<Status>, stop: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cut = Cut::default();
    let serving = |status: &watch::Receiver<Status>| status.borrow().serving.map(|served| served.revision);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
            changed = status.wait_for(|status| status.serving.is_some_and(|served| served.revision != cut.revision)) => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let Some(revision) = serving(&status) else { continue };
        let Some(totals) = telemetry.totals().await else {
            // A core is busy: not at once again.
            every.tick().await;
            continue;
        };
        // While they were summed up another one came into service: nobody knows whose requests these are.
        if serving(&status) == Some(revision) {
            telemetry.node.has_counted(cut.note(revision, totals));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(requests: u64, failed: u64) -> Totals {
        let mut totals = Totals { requests, failed, ..Totals::default() };
        totals.durations.buckets[0] = requests;
        totals
    }

    fn told(traffic: &proto::Traffic) -> (u64, u64, Option<u64>) {
        let counts = traffic.counts.as_ref().expect("counts");
        (counts.requests, counts.failed, traffic.before.as_ref().map(|before| before.requests))
    }

    #[test]
    fn each_revision_has_what_came_while_it_was_served() {
        let mut cut = Cut::default();
        assert_eq!(told(&cut.note(1, totals(10, 0))), (0, 0, None));
        assert_eq!(told(&cut.note(1, totals(30, 1))), (20, 1, None));
        assert_eq!(told(&cut.note(2, totals(35, 4))), (0, 0, Some(20)), "what came in between is of neither");
        assert_eq!(told(&cut.note(2, totals(45, 5))), (10, 1, Some(20)));
        assert_eq!(told(&cut.note(3, totals(45, 5))), (0, 0, Some(10)));
    }

    #[test]
    fn a_core_that_begins_anew_makes_nothing_of_it() {
        let mut cut = Cut::default();
        cut.note(1, totals(0, 0));
        assert_eq!(told(&cut.note(1, totals(100, 5))), (100, 5, None));
        assert_eq!(told(&cut.note(1, totals(40, 0))), (40, 0, None));
        cut.note(2, totals(40, 0));
        assert_eq!(told(&cut.note(2, totals(10, 0))), (0, 0, Some(40)));
        assert_eq!(told(&cut.note(2, totals(20, 1))), (10, 1, Some(40)));
    }
}
