//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Doubles from the first wait to the longest. Half of each wait is drawn, so that nodes which lost the same
/// control plane do not come back in step.
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, next: first }
    }

    pub fn pause(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        jittered(wait)
    }

    /// For what will not get better by itself.
    pub fn longest(&self) -> Duration {
        jittered(self.longest)
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(5));
        let mut backoff = Backoff::new((first, longest));
        let mut bound = first;
        for _ in 0..20 {
            let wait = backoff.pause();
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} of {bound:?}");
            bound = (bound * 2).min(longest);
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
