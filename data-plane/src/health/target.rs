//! The health of one target: what cores read and count, and what people are told of it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::Serialize;

/// The health of one target of a service, as all cores share it. They write to it only when requests fail.
#[derive(Default)]
pub struct TargetHealth {
    state: AtomicU32,
    /// Failures since the last success, on all cores together.
    failures: AtomicU32,
    /// When its slow start began, in milliseconds of the monotonic clock; 0 if it needs none.
    began_ms: AtomicU64,
    story: Mutex<Story>,
    tallies: Mutex<Vec<Weak<Tally>>>,
}

/// Why a target is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Active checks fail.
    Check,
    /// Its answers are not like those of the others.
    Outlier,
}

/// What is known of a target that is out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trouble {
    pub cause: Cause,
    pub reason: String,
    pub since_unix_ms: u64,
    /// When it is tried again; absent if that depends on checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<u64>,
}

/// What people are told.
#[derive(Default)]
struct Story {
    check: Option<Trouble>,
    outlier: Option<Trouble>,
}

impl Cause {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Outlier => "outlier",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Self::Check => 1,
            Self::Outlier => 2,
        }
    }
}

impl TargetHealth {
    pub(crate) fn is_healthy(&self) -> bool {
        self.state.load(Ordering::Relaxed) == 0
    }

    /// A request went well. Nothing is written if the one before did too.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed: how many have in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// One more failure makes `threshold`, unless there is a success before.
    pub(super) fn put_on_probation(&self, threshold: u32) {
        self.failures.store(threshold.saturating_sub(1), Ordering::Relaxed);
    }

    /// How far the slow start has come that takes `window_ms`: 1 at its end.
    pub(crate) fn warmth(&self, window_ms: u64, now_ms: u64) -> f64 {
        match self.began_ms.load(Ordering::Relaxed) {
            0 => 1.0,
            began_ms => (now_ms.saturating_sub(began_ms) as f64 / window_ms.max(1) as f64).min(1.0),
        }
    }

    pub(super) fn begin(&self, now_ms: u64) {
        self.began_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// It is out, or not any more; false if it was so already.
    pub(super) fn set(&self, cause: Cause, trouble: Option<Trouble>) -> bool {
        let is_out = trouble.is_some();
        let mut story = self.story.lock();
        match cause {
            Cause::Check => story.check = trouble,
            Cause::Outlier => story.outlier = trouble,
        }
        let before = match is_out {
            true => self.state.fetch_or(cause.bit(), Ordering::Relaxed),
            false => self.state.fetch_and(!cause.bit(), Ordering::Relaxed),
        };
        (before & cause.bit() != 0) != is_out
    }

    /// Why it is out, if it is.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        let story = self.story.lock();
        story.check.iter().chain(&story.outlier).cloned().collect()
    }

    /// A count for one core to keep.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        let mut tallies = self.tallies.lock();
        tallies.retain(|tally| tally.strong_count() > 0);
        tallies.push(Arc::downgrade(&tally));
        tally
    }

    /// What all cores have counted.
    pub(super) fn counts(&self) -> Counts {
        self.tallies.lock().iter().filter_map(Weak::upgrade).fold(Counts::default(), |sum, tally| Counts {
            requests: sum.requests + tally.requests.load(Ordering::Relaxed),
            failures: sum.failures + tally.failures.load(Ordering::Relaxed),
            answers_us: sum.answers_us + tally.answers_us.load(Ordering::Relaxed),
        })
    }
}

/// What one core counts of a target. Only that core writes, in lines of memory of its own; others read now and then.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    requests: AtomicU64,
    failures: AtomicU64,
    /// How long the good answers took together.
    answers_us: AtomicU64,
}

impl Tally {
    pub(crate) fn answered(&self, answer_ns: u64) {
        add(&self.requests, 1);
        add(&self.answers_us, answer_ns / 1000);
    }

    pub(crate) fn failed(&self) {
        add(&self.requests, 1);
        add(&self.failures, 1);
    }
}

/// Where nobody else writes.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// What was counted of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) answers_us: u64,
}

impl Counts {
    /// What came since an earlier count.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            answers_us: self.answers_us.saturating_sub(before.answers_us),
        }
    }
}
