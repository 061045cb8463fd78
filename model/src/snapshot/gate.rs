//! How many are inside at a time, counted across the cores of a node. Who has no limit never touches it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

/// How many are inside. It is no part of what it hangs on: all are equal.
#[derive(Default)]
pub struct Gate(AtomicU32);

/// What a node counts of a service, whatever becomes of its written form.
#[derive(Debug, Default)]
pub struct Gates {
    /// Requests at the service.
    pub requests: Gate,
    /// Requests that wait.
    pub pending: Gate,
}

impl Gate {
    /// Goes in, if fewer than `most` are inside. [`Gate::leave`] must follow.
    #[must_use]
    pub fn enter(&self, most: u32) -> bool {
        let one_more = |inside: u32| (inside < most).then_some(inside + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn inside(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gate")
    }
}

impl PartialEq for Gate {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Gate {}

impl Hash for Gate {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_allowed_are_inside_at_a_time() {
        let gate = Gate::default();
        let most_seen = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if gate.enter(2) {
                            most_seen.fetch_max(gate.inside(), Ordering::Relaxed);
                            gate.leave();
                        }
                    }
                });
            }
        });
        assert!(most_seen.into_inner() <= 2);
        assert_eq!(gate.inside(), 0);
        assert!(!gate.enter(0));
    }
}
