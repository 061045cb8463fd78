//! How a revision goes out: the written form, and which nodes a step adds.

use model::problem::Fault;
use model::resource::Labels;
use model::value::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nodes::Selector;

const MAX_STEPS: usize = 20;
const MAX_BAKE: Span = Span::from_secs(7 * 24 * 3600);

/// How a revision goes out. After the last step all nodes get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RolloutStrategy")]
pub struct Strategy {
    /// One after the other, at most 20. With a single node, one step of `count: 1` watches it and then keeps the revision or
    /// takes it back.
    pub steps: Vec<Step>,
    /// What must hold.
    #[serde(default)]
    pub gates: Gates,
    /// What becomes of a change that comes while a rollout is under way. Default: `refuse`.
    #[serde(default)]
    pub on_change: OnChange,
    /// How long a connected node of a step may take until it serves the revision. Default: 2m.
    #[serde(default = "two_minutes")]
    pub within: Span,
}

/// A step: some more nodes, and how long they are watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RolloutStep")]
pub struct Step {
    pub nodes: Choice,
    /// How long the gates must hold once all nodes of the steps so far serve the revision. Default: 5m. At most 7 days.
    #[serde(default = "five_minutes")]
    pub bake: Span,
}

/// Which nodes: all that are connected and have the labels, or so many of these, and at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RolloutNodes")]
pub struct Choice {
    /// `key=value` or `key`; all must hold. Default: none, which means every node.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub labels: Selector,
    /// So many of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// So many in a hundred of them, rounded up: 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

/// What the nodes that have the revision must not exceed. They are compared with the nodes that serve the revision before at
/// the same time, and with themselves before; the worse of the two counts, as far as it is known. Refusing the revision
/// always ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RolloutGates")]
pub struct Gates {
    /// Requests on the nodes that have it before their answers and times decide anything. With fewer until the end of the
    /// bake time, it goes on. Default: 100.
    pub min_requests: u64,
    /// By how many percentage points the share of answers with a status of 500 and above may be higher. Default: 1.
    pub errors_percent: f64,
    /// How many times the 99th percentile of the duration of requests may be that of the comparison; 10 ms are always good
    /// enough. Without a comparison it decides nothing. Default: 2.
    pub p99_factor: f64,
    /// How many nodes that served it may restart or vanish. Default: 0.
    pub crashes: usize,
    /// For how long a node may be away before it counts as vanished. One that drains and says so does not. Default: 30s.
    pub gone_after: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// It is refused.
    #[default]
    Refuse,
    /// It waits for the end of the rollout, as long as its `timeout` says, and is then made on what is there. It is acknowledged
    /// only when it is stored.
    Queue,
}

/// The nodes that a step adds: those with the labels up to a place in the order of all. Whether a node is among them depends
/// on nothing but itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutCohort")]
pub struct Cohort {
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub labels: Selector,
    pub up_to: u32,
}

fn two_minutes() -> Span {
    Span::from_secs(120)
}

fn five_minutes() -> Span {
    Span::from_secs(300)
}

impl Default for Gates {
    fn default() -> Self {
        Self { min_requests: 100, errors_percent: 1.0, p99_factor: 2.0, crashes: 0, gone_after: Span::from_secs(30) }
    }
}

impl Strategy {
    /// The faults beyond those of types.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, pointer: String, message: &str| {
            if !holds {
                faults.push(Fault::new(pointer, "invalid-value", message));
            }
        };
        check((1..=MAX_STEPS).contains(&self.steps.len()), "/steps".to_owned(), "there are 1 to 20 steps");
        for (index, Step { nodes, bake }) in self.steps.iter().enumerate() {
            let at = |field: &str| format!("/steps/{index}/{field}");
            check(*bake <= MAX_BAKE, at("bake"), "at most 7 days");
            check(nodes.count != Some(0), at("nodes/count"), "at least 1");
            check(nodes.percent.is_none_or(|percent| (1..=100).contains(&percent)), at("nodes/percent"), "1 to 100");
            check(nodes.count.is_none() || nodes.percent.is_none(), at("nodes"), "either `count` or `percent`");
        }
        let Gates { errors_percent, p99_factor, .. } = &self.gates;
        check((0.0..=100.0).contains(errors_percent), "/gates/errors_percent".to_owned(), "0 to 100");
        check(*p99_factor >= 1.0 && p99_factor.is_finite(), "/gates/p99_factor".to_owned(), "at least 1");
        check(self.within.as_millis() > 0, "/within".to_owned(), "more than nothing");
        faults
    }
}

impl Choice {
    /// The nodes of a step, given where those stand that are connected; nothing while there is none.
    #[must_use]
    pub fn among<'n>(&self, connected: impl Iterator<Item = (u32, &'n Labels)>) -> Option<Cohort> {
        let meant = connected.filter(|(_, labels)| self.labels.matches(labels));
        let mut positions: Vec<u32> = meant.map(|(position, _)| position).collect();
        positions.sort_unstable();
        let last = positions.len().checked_sub(1)?;
        let wanted = match (self.count, self.percent) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (_, Some(percent)) if percent < 100 => (positions.len() * usize::from(percent)).div_ceil(100),
            _ => return Some(Cohort { labels: self.labels.clone(), up_to: u32::MAX }),
        };
        let up_to = positions[wanted.saturating_sub(1).min(last)];
        Some(Cohort { labels: self.labels.clone(), up_to })
    }
}

impl Cohort {
    #[must_use]
    pub fn holds(&self, position: u32, labels: &Labels) -> bool {
        position <= self.up_to && self.labels.matches(labels)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(zone: &str) -> Labels {
        [("zone".to_owned(), zone.to_owned())].into()
    }

    proptest! {
        #[test]
        fn a_step_has_as_many_nodes_as_it_says_and_nobody_changes_sides(
            here in prop::collection::btree_map(any::<u32>(), "[ab]", 1..50),
            others in prop::collection::btree_map(any::<u32>(), "[ab]", 0..50),
            percent in 1u8..=100,
            count in 1u32..60,
            by_count in any::<bool>(),
            of_zone in any::<bool>(),
        ) {
            let here: Vec<_> = here.into_iter().map(|(at, zone)| (at, labels(&zone))).collect();
            let choice = Choice {
                labels: if of_zone { ["zone=a"].into_iter().collect() } else { Selector::default() },
                count: by_count.then_some(count),
                percent: (!by_count).then_some(percent),
            };
            let meant = here.iter().filter(|(_, labels)| choice.labels.matches(labels)).count();
            let Some(cohort) = choice.among(here.iter().map(|(at, labels)| (*at, labels))) else {
                prop_assert_eq!(meant, 0);
                return Ok(());
            };
            let chosen = here.iter().filter(|(at, labels)| cohort.holds(*at, labels)).count();
            let wanted = if by_count { count as usize } else { (meant * usize::from(percent)).div_ceil(100) };
            prop_assert_eq!(chosen, wanted.clamp(1, meant));
            // Whether a node has it does not depend on who else is there, and a larger step keeps all of a smaller one.
            let larger = Choice { percent: Some(100), count: None, ..choice };
            let all = here.iter().chain(&[]).map(|(at, labels)| (*at, labels));
            let larger = larger.among(all).expect("there are some");
            for (zone, at) in others.iter().map(|(at, zone)| (labels(zone), *at)) {
                prop_assert!(!cohort.holds(at, &zone) || larger.holds(at, &zone));
            }
        }
    }

    #[test]
    fn every_fault_is_named_with_its_place() {
        let written = serde_json::json!({
            "steps": [{"nodes": {"count": 0}, "bake": "8d"}, {"nodes": {"percent": 101}}, {"nodes": {"count": 1, "percent": 1}}],
            "gates": {"errors_percent": 101, "p99_factor": 0.5},
            "within": "0s",
        });
        let strategy: super::Strategy = serde_json::from_value(written).expect("it can be read");
        let places: Vec<_> = strategy.faults().into_iter().map(|fault| fault.pointer).collect();
        let expected = [
            "/steps/0/bake",
            "/steps/0/nodes/count",
            "/steps/1/nodes/percent",
            "/steps/2/nodes",
            "/gates/errors_percent",
            "/gates/p99_factor",
            "/within",
        ];
        assert_eq!(places, expected);
        let none: super::Strategy = serde_json::from_value(serde_json::json!({ "steps": [] })).expect("it can be read");
        assert_eq!(none.faults().len(), 1);
    }
}
