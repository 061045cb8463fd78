//! What the results of active checks of one target come to.

use std::time::Duration;

use model::resource::service::HealthCheck;

/// What is thought of a target so far.
#[derive(Default)]
pub(super) struct Verdict {
    is_healthy: Option<bool>,
    /// Results in a row that say otherwise.
    against: u32,
}

impl Verdict {
    /// A check passed or failed: what is thought of the target from now on, if that is something else. The first result
    /// counts at once.
    pub(super) fn hear(&mut self, has_passed: bool, terms: &HealthCheck) -> Option<bool> {
        if self.is_healthy == Some(has_passed) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if has_passed { terms.healthy_threshold } else { terms.unhealthy_threshold };
        if self.is_healthy.is_some() && self.against < needed {
            return None;
        }
        (self.is_healthy, self.against) = (Some(has_passed), 0);
        Some(has_passed)
    }
}

/// How long until the next check: the interval, give or take the jitter; `draw` is a random number from 0 to 1.
pub(super) fn pause(terms: &HealthCheck, draw: f64) -> Duration {
    let interval_ms = terms.interval.as_millis();
    let jitter_ms = terms.jitter.of(interval_ms) as f64;
    Duration::from_millis(interval_ms).saturating_sub(Duration::from_secs_f64(jitter_ms * draw / 1000.0))
}
