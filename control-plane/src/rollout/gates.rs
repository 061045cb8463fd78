//! Whether the nodes that have a revision do as well as they should: what they counted, beside what the others counted
//! meanwhile and what they themselves counted before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::strategy::Gates;
use crate::nodes::Counts;

/// Durations up to so many milliseconds are always good enough: below, the grain of the histogram says more than the
/// revision.
const GOOD_ENOUGH_MS: f64 = 10.0;

/// What the nodes had to show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutEvidence")]
pub struct Evidence {
    /// Connected nodes that the steps have reached, and how many of them serve the revision.
    pub reached: usize,
    pub serving: usize,
    /// How much longer the nodes are watched before it goes on, in seconds; absent while not all of them serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake_left_seconds: Option<u64>,
    /// Requests on these nodes since they serve it.
    pub new: Measure,
    /// Requests on the nodes that serve what was before, meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Measure>,
    /// Requests on the same nodes while they served what was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Measure>,
    /// Nodes that served it, and restarted or vanished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crashed: Vec<String>,
    /// Nodes that refused it, and the first of their reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Connected nodes that do not serve it though they should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// A number of requests and how they went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutMeasure")]
pub struct Measure {
    pub requests: u64,
    /// How many in a hundred were answered with a status of 500 or above.
    pub errors_percent: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

impl Measure {
    #[must_use]
    pub fn of(counts: &Counts) -> Self {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            requests: counts.requests,
            errors_percent: rounded(counts.failed_percent()),
            p99_ms: counts.p99_ms().map(rounded),
        }
    }
}

impl Gates {
    /// Why the revision must not stay, if that is so.
    #[must_use]
    pub fn judge(&self, evidence: &Evidence) -> Option<String> {
        if let Some(refused) = evidence.refused.first() {
            return Some(format!("refused by {refused}"));
        }
        if evidence.crashed.len() > self.crashes {
            return Some(format!("restarted or vanished while serving it: {}", evidence.crashed.join(", ")));
        }
        let Evidence { new, others, before, .. } = evidence;
        if new.requests < self.min_requests.max(1) {
            return None;
        }
        let comparisons = [("the other nodes", others), ("before", before)];
        let compared: Vec<_> = comparisons
            .iter()
            .filter_map(|(name, measure)| Some((*name, measure.as_ref()?)))
            .filter(|(_, measure)| measure.requests >= self.min_requests.max(1))
            .collect();
        let told = |of: fn(&Measure) -> String| match &*compared {
            [] => "without anything to compare with".to_owned(),
            compared => {
                let each = compared.iter().map(|(name, measure)| format!("{name} {}", of(measure)));
                each.collect::<Vec<_>>().join(", ")
            }
        };
        let worst = compared.iter().map(|(_, measure)| measure.errors_percent).fold(0.0, f64::max);
        if new.errors_percent > worst + self.errors_percent {
            let told = told(|measure| format!("{}%", measure.errors_percent));
            return Some(format!("{}% of {} requests failed: {told}", new.errors_percent, new.requests));
        }
        let slowest = compared.iter().filter_map(|(_, measure)| measure.p99_ms).reduce(f64::max);
        if let (Some(p99), Some(slowest)) = (new.p99_ms, slowest)
            && p99 > (slowest * self.p99_factor).max(GOOD_ENOUGH_MS)
        {
            let told = told(|measure| measure.p99_ms.map_or_else(|| "nothing".to_owned(), |p99| format!("{p99} ms")));
            return Some(format!("the slowest hundredth of {} requests took {p99} ms: {told}", new.requests));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(requests: u64, errors_percent: f64, p99_ms: f64) -> Measure {
        Measure { requests, errors_percent, p99_ms: Some(p99_ms) }
    }

    fn judged(new: Measure, others: Option<Measure>, before: Option<Measure>) -> Option<String> {
        Gates::default().judge(&Evidence { new, others, before, ..Evidence::default() })
    }

    #[test]
    fn what_fails_elsewhere_too_is_not_the_revisions_fault() {
        let bad = || measure(200, 30.0, 5.0);
        assert_eq!(judged(measure(99, 100.0, 5.0), None, None), None, "too few to say");
        assert!(judged(bad(), None, None).is_some(), "without a comparison no errors are expected");
        let reason = judged(bad(), Some(measure(500, 0.5, 5.0)), Some(measure(5000, 0.0, 5.0)));
        assert_eq!(reason.as_deref(), Some("30% of 200 requests failed: the other nodes 0.5%, before 0%"));
        assert_eq!(judged(bad(), Some(measure(500, 29.5, 5.0)), None), None, "a backend that is down");
        assert_eq!(judged(bad(), None, Some(measure(500, 29.5, 5.0))), None, "it was so before");
        assert!(judged(bad(), Some(measure(5, 100.0, 5.0)), None).is_some(), "five requests are no comparison");
        assert_eq!(judged(measure(200, 1.0, 5.0), Some(measure(500, 0.0, 5.0)), None), None, "within what is allowed");
    }

    #[test]
    fn slowness_is_a_matter_of_comparison() {
        let fast = || Some(measure(500, 0.0, 20.0));
        assert_eq!(judged(measure(200, 0.0, 900.0), None, None), None, "nobody knows what is normal");
        assert_eq!(judged(measure(200, 0.0, 39.0), fast(), None), None);
        assert!(judged(measure(200, 0.0, 41.0), fast(), None).is_some());
        assert_eq!(
            judged(measure(200, 0.0, 41.0), fast(), Some(measure(500, 0.0, 30.0))),
            None,
            "the worse one counts"
        );
        assert_eq!(judged(measure(200, 0.0, 9.0), Some(measure(500, 0.0, 1.0)), None), None, "fast enough anyway");
    }

    #[test]
    fn refusals_and_crashes_need_no_requests() {
        let evidence = Evidence { refused: vec!["a: no".to_owned()], ..Evidence::default() };
        assert_eq!(Gates::default().judge(&evidence).as_deref(), Some("refused by a: no"));
        let evidence = Evidence { crashed: vec!["a".to_owned()], ..Evidence::default() };
        assert!(Gates::default().judge(&evidence).is_some());
        assert!(Gates { crashes: 1, ..Gates::default() }.judge(&evidence).is_none());
    }
}
