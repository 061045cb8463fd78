//! A histogram of durations with fixed buckets.

use std::cell::Cell;

/// The control plane is told of them too.
pub use proto::traffic::BOUNDS_SECONDS;

/// The same in nanoseconds: a request is sorted in without floating point.
const BOUNDS_NS: [u64; BOUNDS_SECONDS.len()] = {
    let mut bounds = [0; BOUNDS_SECONDS.len()];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = (BOUNDS_SECONDS[index] * 1e9) as u64;
        index += 1;
    }
    bounds
};

/// One more bucket than bounds, for what is above them all.
const BUCKETS: usize = BOUNDS_SECONDS.len() + 1;

/// A histogram that one core counts in.
#[derive(Default)]
pub struct Histogram {
    buckets: [Cell<u64>; BUCKETS],
    sum_ns: Cell<u64>,
}

/// What a histogram held when it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    pub buckets: [u64; BUCKETS],
    pub sum_ns: u64,
}

impl Histogram {
    pub fn observe(&self, duration_ns: u64) {
        let bucket = &self.buckets[BOUNDS_NS.partition_point(|bound| *bound < duration_ns)];
        bucket.set(bucket.get() + 1);
        self.sum_ns.set(self.sum_ns.get().saturating_add(duration_ns));
    }

    /// Adds what another one holds.
    pub fn absorb(&self, other: &Counted) {
        for (mine, theirs) in self.buckets.iter().zip(other.buckets) {
            mine.set(mine.get() + theirs);
        }
        self.sum_ns.set(self.sum_ns.get().saturating_add(other.sum_ns));
    }

    #[must_use]
    pub fn read(&self) -> Counted {
        Counted { buckets: self.buckets.each_ref().map(Cell::get), sum_ns: self.sum_ns.get() }
    }
}

impl Counted {
    pub fn absorb(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_ns += other.sum_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_bounds_it() {
        let histogram = Histogram::default();
        for duration in [0, 500_000, 500_001, 30_000_000_000, 30_000_000_001] {
            histogram.observe(duration);
        }
        let counted = histogram.read();
        assert_eq!((counted.buckets[0], counted.buckets[1]), (2, 1));
        assert_eq!((counted.buckets[BUCKETS - 2], counted.buckets[BUCKETS - 1]), (1, 1));
        assert_eq!(counted.buckets.iter().sum::<u64>(), 5);
        assert_eq!(counted.sum_ns, 60_001_000_002);
    }
}
