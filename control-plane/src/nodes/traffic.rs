//! What a node has counted of requests, as it tells it and as replicas tell it one another.

use proto::traffic::BOUNDS_SECONDS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node has counted since it began to serve a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// What it served meanwhile.
    pub revision: u64,
    #[serde(flatten)]
    pub counts: Counts,
    /// What it counted while it served the revision before that; absent after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Counts>,
}

/// Requests that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    pub requests: u64,
    /// Of these, how many were answered with a status of 500 or above.
    pub failed: u64,
    /// How long they took: of each bucket of a histogram, how many fell into it.
    pub durations: Vec<u64>,
}

impl From<proto::Traffic> for Traffic {
    fn from(told: proto::Traffic) -> Self {
        Self {
            revision: told.revision,
            counts: told.counts.unwrap_or_default().into(),
            before: told.before.map(Counts::from),
        }
    }
}

impl From<proto::Counts> for Counts {
    fn from(mut told: proto::Counts) -> Self {
        told.durations.truncate(BOUNDS_SECONDS.len() + 1);
        Self { requests: told.requests, failed: told.failed, durations: told.durations }
    }
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failed = self.failed.saturating_add(other.failed);
        if self.durations.len() < other.durations.len() {
            self.durations.resize(other.durations.len(), 0);
        }
        for (mine, theirs) in self.durations.iter_mut().zip(&other.durations) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// What came since it was `earlier`; nothing if that was never.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let durations = self.durations.iter().zip(earlier.durations.iter().chain(std::iter::repeat(&0)));
        Some(Self {
            requests: self.requests.checked_sub(earlier.requests)?,
            failed: self.failed.checked_sub(earlier.failed)?,
            durations: durations.map(|(now, then)| now.checked_sub(*then)).collect::<Option<_>>()?,
        })
    }

    /// The share of requests that failed, in percent.
    #[must_use]
    pub fn failed_percent(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { ratio(self.failed, self.requests) * 100.0 }
    }

    /// Below how many milliseconds 99 of 100 requests took; nothing without any. Within a bucket they are taken to be spread
    /// evenly.
    #[must_use]
    pub fn p99_ms(&self) -> Option<f64> {
        let total: u64 = self.durations.iter().sum();
        let mut left = total - total / 100;
        let mut from = 0.0;
        for (count, to) in self.durations.iter().zip(BOUNDS_SECONDS.iter().chain(BOUNDS_SECONDS.last())) {
            if *count > 0 && *count >= left {
                return Some((from + (to - from) * ratio(left, *count)) * 1000.0);
            }
            left -= count;
            from = *to;
        }
        None
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits than that")]
    let ratio = part as f64 / whole as f64;
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_lies_in_its_bucket() {
        let of = |durations: &[u64]| Counts { durations: durations.to_vec(), ..Counts::default() }.p99_ms();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0, 0]), None);
        assert_eq!(of(&[100]), Some(0.495));
        assert_eq!(of(&[99, 0, 1]), Some(0.5));
        let two_slow = of(&[98, 0, 2]).expect("there are some");
        assert!((1.0..2.0).contains(&two_slow), "{two_slow}");
        let mut beyond = vec![0; 16];
        beyond[15] = 5;
        assert_eq!(of(&beyond), Some(30_000.0));
    }

    #[test]
    fn counts_that_went_back_are_of_another_process() {
        let counts = |requests, failed| Counts { requests, failed, durations: vec![requests] };
        assert_eq!(counts(5, 1).since(&counts(3, 1)), Some(counts(2, 0)));
        assert_eq!(counts(5, 1).since(&Counts::default()), Some(counts(5, 1)));
        assert_eq!(counts(2, 1).since(&counts(3, 1)), None);
    }
}
