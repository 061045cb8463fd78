//! Decides what becomes of a rollout, from what the nodes report and the time: no I/O, no clock of its own.
//!
//! What it remembers is for one control plane. Who takes over watches the present step from its beginning, so a step is never
//! watched for less than it says. Time is a monotonic one: a clock that jumps promotes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::gates::{Evidence, Measure};
use super::strategy::{Cohort, Gates};
use super::{Rollout, State, position};
use crate::nodes::{Counts, NodeStatus};

#[cfg(test)]
mod tests;

/// A node that says it started so much later than it said before has restarted. Clocks and roundings are finer.
const RESTARTED: time::Duration = time::Duration::seconds(2);
/// How many nodes evidence names.
const MAX_NAMED: usize = 10;

/// What is remembered of a rollout while it goes on.
pub struct Watch {
    step: usize,
    /// Since when all nodes of the steps so far serve it.
    all_serve_since: Option<Instant>,
    /// Since when some do not.
    waiting_since: Option<Instant>,
    /// The nodes that were seen serving it.
    served: BTreeMap<String, Served>,
    crashed: Vec<String>,
    /// What the nodes that it has not reached had counted when they were first seen.
    others: BTreeMap<String, (u64, Counts)>,
}

struct Served {
    started_at: Option<OffsetDateTime>,
    gone_since: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Wait,
    /// The next step begins, with these nodes.
    Begin(Cohort),
    /// All steps are done.
    Promote,
    RollBack(String),
}

impl Watch {
    #[must_use]
    pub fn new(rollout: &Rollout) -> Self {
        Self {
            step: rollout.step,
            all_serve_since: None,
            waiting_since: None,
            served: BTreeMap::new(),
            crashed: Vec::new(),
            others: BTreeMap::new(),
        }
    }

    /// Looks at the nodes of the gateway, connected or not.
    pub fn look(&mut self, rollout: &Rollout, nodes: &[NodeStatus], now: Instant) -> (Verdict, Evidence) {
        if self.step != rollout.step {
            self.step = rollout.step;
            (self.all_serve_since, self.waiting_since) = (None, None);
        }
        let (reached, others): (Vec<_>, Vec<_>) =
            nodes.iter().partition(|node| rollout.has_reached(position(&node.node_id), &node.labels));
        let mut evidence = self.gather(rollout, &reached, &others);
        self.notice_crashes(&rollout.strategy.gates, rollout.revision, &reached, now);
        evidence.crashed.clone_from(&self.crashed);
        if let Some(reason) = rollout.strategy.gates.judge(&evidence) {
            return (Verdict::RollBack(reason), evidence);
        }
        if !rollout.cohorts.is_empty()
            && let Some(verdict) = self.bake(rollout, &mut evidence, now)
        {
            return (verdict, evidence);
        }
        (if rollout.state == State::Paused { Verdict::Wait } else { next(rollout, nodes) }, evidence)
    }

    /// What the present step comes to; nothing once it is done.
    fn bake(&mut self, rollout: &Rollout, evidence: &mut Evidence, now: Instant) -> Option<Verdict> {
        if evidence.reached == 0 {
            // Nobody to wait for.
            (self.all_serve_since, self.waiting_since) = (None, None);
            return Some(Verdict::Wait);
        }
        if evidence.serving < evidence.reached {
            self.all_serve_since = None;
            let since = *self.waiting_since.get_or_insert(now);
            if now.duration_since(since) <= rollout.strategy.within.get() {
                return Some(Verdict::Wait);
            }
            let late = evidence.waiting_for.join(", ");
            return Some(Verdict::RollBack(format!(
                "after {} it is still not served by {late}",
                rollout.strategy.within
            )));
        }
        self.waiting_since = None;
        let since = *self.all_serve_since.get_or_insert(now);
        let bake = rollout.strategy.steps.get(rollout.step).map_or(Duration::ZERO, |step| step.bake.get());
        let left = bake.saturating_sub(now.duration_since(since));
        evidence.bake_left_seconds = Some(left.as_secs() + u64::from(left.subsec_nanos() > 0));
        (!left.is_zero()).then_some(Verdict::Wait)
    }

    fn gather(&mut self, rollout: &Rollout, reached: &[&NodeStatus], others: &[&NodeStatus]) -> Evidence {
        let revision = rollout.revision;
        let mut evidence = Evidence::default();
        let (mut new, mut before) = (Counts::default(), Counts::default());
        for node in reached {
            if let Some(traffic) = node.traffic.as_ref().filter(|traffic| traffic.revision == revision) {
                new.add(&traffic.counts);
                traffic.before.iter().for_each(|counts| before.add(counts));
            }
            if let Some(refusal) = node.refusal.as_ref().filter(|refusal| refusal.revision == revision) {
                let reason = refusal.problems.first().map_or_else(|| "no reason given".to_owned(), ToString::to_string);
                name(&mut evidence.refused, format!("{}: {reason}", node.node_id));
            }
            if !node.connected {
                continue;
            }
            evidence.reached += 1;
            if serves(node, revision) {
                evidence.serving += 1;
            } else {
                name(&mut evidence.waiting_for, node.node_id.clone());
            }
        }
        evidence.new = Measure::of(&new);
        evidence.before = (before.requests > 0).then(|| Measure::of(&before));
        let meanwhile = self.meanwhile(others);
        evidence.others = (meanwhile.requests > 0).then(|| Measure::of(&meanwhile));
        evidence
    }

    /// What the others counted since they were first seen.
    fn meanwhile(&mut self, others: &[&NodeStatus]) -> Counts {
        let mut sum = Counts::default();
        for node in others.iter().filter(|node| node.connected) {
            let Some(traffic) = &node.traffic else { continue };
            let first = || (traffic.revision, traffic.counts.clone());
            let known = self.others.entry(node.node_id.clone()).or_insert_with(first);
            match traffic.counts.since(&known.1).filter(|_| known.0 == traffic.revision) {
                Some(counts) => sum.add(&counts),
                None => *known = first(),
            }
        }
        sum
    }

    fn notice_crashes(&mut self, gates: &Gates, revision: u64, reached: &[&NodeStatus], now: Instant) {
        for node in reached {
            let id = &node.node_id;
            if let Some(known) = self.served.get_mut(id) {
                let has_restarted = known
                    .started_at
                    .zip(node.started_at)
                    .is_some_and(|(then, started_at)| started_at - then > RESTARTED);
                let is_away = !node.connected && !node.has_left;
                let gone_since = if is_away { Some(*known.gone_since.get_or_insert(now)) } else { None };
                let has_vanished = gone_since.is_some_and(|since| now.duration_since(since) > gates.gone_after.get());
                known.gone_since = gone_since;
                // Between two looks it may have left and come back.
                let is_crash = has_vanished || (has_restarted && !node.has_returned);
                if is_crash && !self.crashed.contains(id) {
                    name(&mut self.crashed, id.clone());
                }
                if node.has_left || has_restarted {
                    self.served.remove(id);
                }
            }
            // Also one that came and vanished between two looks.
            if serves(node, revision) && !node.has_left {
                let gone_since = (!node.connected).then_some(now);
                self.served.entry(id.clone()).or_insert(Served { started_at: node.started_at, gone_since });
            }
        }
    }
}

/// What follows when a step is done, or none has begun.
fn next(rollout: &Rollout, nodes: &[NodeStatus]) -> Verdict {
    let Some(step) = rollout.strategy.steps.get(rollout.cohorts.len()) else { return Verdict::Promote };
    let connected = nodes.iter().filter(|node| node.connected);
    let among = step.nodes.among(connected.map(|node| (position(&node.node_id), &node.labels)));
    among.map_or(Verdict::Wait, Verdict::Begin)
}

fn serves(node: &NodeStatus, revision: u64) -> bool {
    node.serving.as_ref().is_some_and(|serving| serving.revision == revision)
}

fn name(list: &mut Vec<String>, text: String) {
    if list.len() < MAX_NAMED {
        list.push(text);
    }
}
