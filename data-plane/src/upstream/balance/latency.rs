//! How long a target takes to answer: the peak of late, and what is forgotten of it.

use std::cell::Cell;

/// In this time all but a third of a peak is forgotten.
const DECAY_NS: f64 = 10_000_000_000.0;

/// A failure is as bad as an answer that took this long: whoever fails fast must not look fast.
const FAILURE_US: f64 = 1_000_000.0;

/// A target that has not answered yet, and has been asked already, is not asked by everybody at once.
const UNKNOWN_US: f64 = 1_000_000.0;

/// The moving peak of a target's latency, as one core sees it.
#[derive(Default)]
pub(in crate::upstream) struct Latency {
    peak_us: Cell<f64>,
    at_ns: Cell<u64>,
}

impl Latency {
    /// An answer took this long. A slower one counts at once, a faster one little by little.
    pub(in crate::upstream) fn answered(&self, took_ns: u64, now_ns: u64) {
        self.observe(took_ns as f64 / 1000.0, now_ns);
    }

    pub(in crate::upstream) fn failed(&self, now_ns: u64) {
        self.observe(FAILURE_US, now_ns);
    }

    fn observe(&self, took_us: f64, now_ns: u64) {
        let rest = self.rest(now_ns);
        let peak_us = self.peak_us.get();
        self.peak_us.set(if took_us > peak_us * rest { took_us } else { peak_us * rest + took_us * (1.0 - rest) });
        self.at_ns.set(now_ns);
    }

    /// When a request would be answered that is sent now, behind those in flight; in microseconds, give or take.
    pub(in crate::upstream) fn load(&self, in_flight: u32, now_ns: u64) -> u64 {
        let peak_us = self.peak_us.get() * self.rest(now_ns);
        let each_us = if self.at_ns.get() == 0 && in_flight > 0 { UNKNOWN_US } else { peak_us };
        // Idle targets that are much the same get requests in proportion and not one of them all.
        (each_us * f64::from(in_flight + 1)) as u64
    }

    /// What is left of the peak.
    fn rest(&self, now_ns: u64) -> f64 {
        (-(now_ns.saturating_sub(self.at_ns.get()) as f64) / DECAY_NS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten() {
        let latency = Latency::default();
        assert_eq!(latency.load(0, 5 * SECOND), 0);
        assert_eq!(latency.load(1, 5 * SECOND), 2_000_000);
        latency.answered(2_000_000, SECOND);
        assert_eq!((latency.load(0, SECOND), latency.load(3, SECOND)), (2_000, 8_000));
        latency.answered(40_000_000, SECOND);
        assert_eq!(latency.load(0, SECOND), 40_000);
        latency.answered(2_000_000, 2 * SECOND);
        let soon = latency.load(0, 2 * SECOND);
        assert!((30_000..40_000).contains(&soon), "{soon}");
        let later = latency.load(0, 62 * SECOND);
        assert!(later < 200, "{later}");
        latency.failed(63 * SECOND);
        assert_eq!(latency.load(0, 63 * SECOND), 1_000_000);
    }
}
