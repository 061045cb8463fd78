//! When to renew a certificate: when about two thirds of its life are over, by the clock of the wall.
//!
//! The clock is looked at again and again rather than slept until: it may jump.

use std::time::{Duration, SystemTime};

use super::certificate::NodeCertificate;

/// How often the clock is looked at, at least.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Certificates of seconds are for tests; nothing is tried more often than this.
const SHORTEST: Duration = Duration::from_millis(200);
/// From when on it is said that renewing fails: for the share of the life that is left.
const URGENT: f64 = 0.25;

/// See the head of this file.
pub struct Renewal {
    expires: SystemTime,
    lifetime: Duration,
    due: SystemTime,
    failures: u32,
}

impl Renewal {
    /// `draw`, from 0 to 1, keeps nodes that joined together from renewing together: a tenth of the life apart at most.
    pub fn of(certificate: &NodeCertificate, draw: f64) -> Self {
        Self::between(certificate.issued, certificate.expires, draw)
    }

    fn between(issued: SystemTime, expires: SystemTime, draw: f64) -> Self {
        let lifetime = expires.duration_since(issued).unwrap_or_default();
        let after = lifetime.mul_f64(2.0 / 3.0 - 0.05 + draw.clamp(0.0, 1.0) * 0.1);
        Self { expires, lifetime, due: issued + after, failures: 0 }
    }

    pub fn is_of(&self, certificate: &NodeCertificate) -> bool {
        self.expires == certificate.expires
    }

    pub fn is_due(&self, now: SystemTime) -> bool {
        now >= self.due
    }

    /// It failed: tries again after a thirtieth of the life, which leaves ten attempts.
    pub fn postpone(&mut self, now: SystemTime) {
        self.failures += 1;
        self.due = now + (self.lifetime / 30).clamp(SHORTEST, 20 * LOOK_AGAIN);
    }

    /// Whether a failure is more than a moment's trouble: the first one, and each when time runs out.
    pub fn is_worth_a_word(&self, now: SystemTime) -> bool {
        let left = self.expires.duration_since(now).unwrap_or_default();
        self.failures == 1 || left < self.lifetime.mul_f64(URGENT)
    }

    /// How long to wait before the clock is looked at again.
    pub fn pause(&self, now: SystemTime) -> Duration {
        self.due.duration_since(now).unwrap_or_default().clamp(SHORTEST, LOOK_AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR.mul_f64(1_000_000.0 + hours)
    }

    fn a_day(draw: f64) -> Renewal {
        Renewal::between(at(0.0), at(24.0), draw)
    }

    #[test]
    fn it_is_due_around_two_thirds_of_the_life_and_not_for_all_at_once() {
        for draw in [0.0, 0.5, 1.0] {
            assert!(!a_day(draw).is_due(at(14.7)));
            assert!(a_day(draw).is_due(at(17.3)));
        }
        assert!(a_day(0.0).is_due(at(15.0)) && !a_day(1.0).is_due(at(15.0)));
    }

    #[test]
    fn a_clock_that_jumps_is_noticed_within_a_look() {
        let renewal = a_day(0.5);
        assert_eq!(renewal.pause(at(0.0)), LOOK_AGAIN);
        // Ahead, beyond the end even: it is tried at once, and the control plane decides by its own clock.
        assert!(renewal.is_due(at(1_000.0)));
        // Back, before the beginning: nothing happens, and nothing breaks.
        assert!(!renewal.is_due(at(-1_000.0)));
        assert_eq!(renewal.pause(at(-1_000.0)), LOOK_AGAIN);
    }

    #[test]
    fn a_failure_leaves_many_attempts_and_is_said_once_and_when_time_runs_out() {
        let mut renewal = a_day(0.5);
        let (mut now, mut attempts, mut said) = (at(16.0), 0, Vec::new());
        while now < at(24.0) {
            if renewal.is_due(now) {
                attempts += 1;
                renewal.postpone(now);
                if renewal.is_worth_a_word(now) {
                    said.push(attempts);
                }
            }
            now += renewal.pause(now);
        }
        assert!(attempts > 10, "{attempts}");
        assert_eq!(said[0], 1);
        assert!(said[1] > attempts / 8 && said.ends_with(&[attempts]), "{said:?} of {attempts}");
    }

    #[test]
    fn even_a_life_of_seconds_is_renewed_in_time() {
        let renewal = Renewal::between(at(0.0), at(0.0) + Duration::from_secs(6), 1.0);
        assert!(renewal.due < at(0.0) + Duration::from_secs(5));
        assert!(renewal.pause(at(0.0)) < Duration::from_secs(5));
    }
}
