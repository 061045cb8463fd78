//! One number per caller: the time at which its quota is whole again (the generic cell rate algorithm).
//!
//! A caller whose time has passed is the same as one never seen, so forgetting it loses nothing. The number of
//! callers is bounded. When it is reached, those not yet known share one count per shard: a flood of addresses
//! cannot fill the memory, nor does it open the gate.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Enough that cores seldom meet at one lock.
const SHARDS: usize = 64;
/// 64 times this is over 260,000 callers, in about 12 MiB.
const MAX_CALLERS_PER_SHARD: usize = 4096;
/// A full shard is looked through for callers to forget at most this often, whatever comes in.
const SWEEP_INTERVAL_NS: u64 = 100_000_000;

/// Whose requests are counted together. Names stand as their hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    V4(u32),
    /// The first half of an address: the network.
    V6(u64),
    Consumer(u64),
    Route(u64),
    Anyone,
}

/// How much a caller may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    /// The time in which one request comes back.
    interval_ns: u64,
    /// The time in which all of them come back.
    whole_ns: u64,
}

/// What is decided about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Admitted { remaining: u64, full_after_ns: u64 },
    Refused { retry_after_ns: u64 },
}

impl Quota {
    pub(super) fn new(interval_ns: u64, burst: u64) -> Self {
        Self { interval_ns, whole_ns: interval_ns.saturating_mul(burst) }
    }

    /// Decides about a request at `now`; `whole_at` is when the caller's quota is whole again, and moves on if the
    /// request is admitted.
    fn decide(self, whole_at: &mut u64, now: u64) -> Verdict {
        // Under a quota that was just made smaller nobody waits for what the larger one allowed.
        let used_until = (*whole_at).clamp(now, now + self.whole_ns);
        let after = used_until + self.interval_ns;
        match (now + self.whole_ns).checked_sub(after) {
            Some(left_ns) => {
                *whole_at = after;
                Verdict::Admitted { remaining: left_ns / self.interval_ns, full_after_ns: after - now }
            }
            None => Verdict::Refused { retry_after_ns: after - now - self.whole_ns },
        }
    }
}

/// The callers of one policy on this node, counted by all of its cores.
pub(super) struct Counters {
    hasher: RandomState,
    shards: Box<[Shard]>,
}

/// A cache line of its own, so that cores at two locks do not slow each other down.
#[derive(Default)]
#[repr(align(64))]
struct Shard(Mutex<Callers>);

#[derive(Default)]
struct Callers {
    whole_at: HashMap<Caller, u64, RandomState>,
    /// The common count of those that have no place.
    others_whole_at: u64,
    /// No sweep of a full shard before.
    next_sweep: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { hasher: RandomState::default(), shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Counters {
    /// Counts and decides about one request at `now`, in nanoseconds on the clock of the process.
    pub(super) fn admit(&self, caller: Caller, quota: Quota, now: u64) -> Verdict {
        let hash = self.hasher.hash_one(caller);
        let shard = &self.shards[usize::try_from(hash % SHARDS as u64).expect("fewer than 65 shards")];
        let mut callers = shard.0.lock();
        quota.decide(callers.entry(caller, now), now)
    }
}

impl Callers {
    fn entry(&mut self, caller: Caller, now: u64) -> &mut u64 {
        if !self.whole_at.contains_key(&caller) && !self.make_room(now) {
            return &mut self.others_whole_at;
        }
        self.whole_at.entry(caller).or_default()
    }

    /// Forgets those whose time has passed before it takes more memory; false if there is no place left.
    fn make_room(&mut self, now: u64) -> bool {
        let len = self.whole_at.len();
        if len < self.whole_at.capacity().min(MAX_CALLERS_PER_SHARD) {
            return true;
        }
        if len >= MAX_CALLERS_PER_SHARD {
            if now < self.next_sweep {
                return false;
            }
            self.next_sweep = now + SWEEP_INTERVAL_NS;
        }
        self.whole_at.retain(|_, whole_at| *whole_at > now);
        let kept = self.whole_at.len();
        // Doubling keeps sweeps rare while callers come faster than they go.
        if kept > len / 2 && len < MAX_CALLERS_PER_SHARD {
            self.whole_at.reserve((len * 2).clamp(16, MAX_CALLERS_PER_SHARD) - kept);
        }
        kept < MAX_CALLERS_PER_SHARD
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// A bucket that leaks one nanosecond per nanosecond; a request pours in its interval.
    #[derive(Default)]
    struct Bucket {
        level: u128,
        at: u128,
    }

    impl Bucket {
        fn admits(&mut self, interval: u128, capacity: u128, now: u128) -> bool {
            self.level = self.level.saturating_sub(now - self.at);
            self.at = now;
            let fits = self.level + interval <= capacity;
            if fits {
                self.level += interval;
            }
            fits
        }
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_a_leaky_bucket(
            interval in 1_000_u64..2_000_000,
            burst in 1_u64..20,
            pauses in prop::collection::vec(prop_oneof![Just(0), 0_u64..3_000_000, 0_u64..40_000_000], 1..200),
        ) {
            let (counters, quota) = (Counters::default(), Quota::new(interval, burst));
            let (mut bucket, mut now) = (Bucket::default(), 0);
            let mut admitted: Vec<u64> = Vec::new();
            for pause in pauses {
                now += pause;
                let expected = bucket.admits(interval.into(), u128::from(interval) * u128::from(burst), now.into());
                match counters.admit(Caller::V4(1), quota, now) {
                    Verdict::Admitted { remaining, full_after_ns } => {
                        prop_assert!(expected);
                        prop_assert_eq!(u128::from(full_after_ns), bucket.level);
                        prop_assert_eq!(remaining, (interval * burst - full_after_ns) / interval);
                        admitted.push(now);
                    }
                    Verdict::Refused { retry_after_ns } => {
                        prop_assert!(!expected);
                        let over = bucket.level + u128::from(interval) - u128::from(interval * burst);
                        prop_assert_eq!(u128::from(retry_after_ns), over, "the first moment at which it would fit");
                    }
                }
            }
            // In no stretch of time more than the burst and what came back meanwhile.
            for (first, start) in admitted.iter().enumerate() {
                for (last, end) in admitted.iter().enumerate().skip(first) {
                    let count = u64::try_from(last - first + 1).expect("few");
                    prop_assert!(count <= burst + (end - start) / interval);
                }
            }
        }
    }

    #[test]
    fn threads_together_get_no_more_than_one() {
        let (counters, quota) = (Counters::default(), Quota::new(1_000_000, 500));
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let verdict = counters.admit(Caller::Anyone, quota, 7);
                        admitted.fetch_add(u64::from(matches!(verdict, Verdict::Admitted { .. })), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 500);
    }

    #[test]
    fn callers_are_bounded_share_a_count_beyond_and_are_forgotten_in_time() {
        let (counters, quota) = (Counters::default(), Quota::new(1_000_000_000, 1));
        let known = || counters.shards.iter().map(|shard| shard.0.lock().whole_at.len()).sum::<usize>();
        let most = u32::try_from(SHARDS * MAX_CALLERS_PER_SHARD).expect("it fits");
        for address in 0..most * 2 {
            counters.admit(Caller::V4(address), quota, 0);
        }
        assert_eq!(known(), most as usize);
        let strangers = (most * 2..most * 3).map(|address| counters.admit(Caller::V4(address), quota, 1));
        let admitted = strangers.filter(|verdict| matches!(verdict, Verdict::Admitted { .. })).count();
        assert_eq!(admitted, 0, "their common quota was used up");
        // A second later all is forgotten as soon as somebody new comes to each shard.
        for address in 0..most {
            counters.admit(Caller::V6(address.into()), Quota::new(1, 1), 1_000_000_000);
        }
        assert!(known() <= most as usize);
        let fresh = counters.admit(Caller::V4(most * 4), quota, 3_000_000_000);
        assert!(matches!(fresh, Verdict::Admitted { .. }));
    }

    #[test]
    fn memory_is_taken_only_for_callers_that_count() {
        let (counters, quota) = (Counters::default(), Quota::new(1_000, 1));
        for address in 0..1_000_000 {
            counters.admit(Caller::V4(address), quota, u64::from(address) * 1_000_000);
        }
        let capacity: usize = counters.shards.iter().map(|shard| shard.0.lock().whole_at.capacity()).sum();
        assert!(capacity <= SHARDS * 64, "{capacity}");
    }
}
