//! Targets one after the other, by weight.
//!
//! Each target has its turn at even steps of a time that is nobody's clock: the larger its weight, the smaller the steps. The
//! next turn is that of the target whose time comes first, which a heap finds in a few comparisons however many there are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The step of a target of weight 1. With it, steps are exact enough for more turns than there will be.
const STEP: u128 = 1 << 64;

/// By the golden ratio: so far from one target to the next in their first steps, which keeps any number of them apart.
const APART: u64 = 0x9e37_79b9_7f4a_7c15;

/// The turns to come.
pub(super) struct Turns {
    /// When each target with a weight has its next turn.
    queue: BinaryHeap<Reverse<(u128, u32)>>,
    weights: Box<[u32]>,
    /// The time of the last turn.
    now: u128,
}

impl Turns {
    /// Cores begin at different targets, or else the first target would get the first request of all.
    pub(super) fn new(weights: &[u32]) -> Self {
        let nothing = Self { queue: BinaryHeap::new(), weights: Box::default(), now: 0 };
        let mut turns = nothing.moved(&vec![None; weights.len()], weights);
        for _ in 0..fastrand::usize(..=weights.len()) {
            turns.next();
        }
        turns
    }

    /// The turns of other targets, of which some stood at these places before, or of the same with other weights: each goes on
    /// where it was, in the steps that it has now.
    pub(super) fn moved(&self, places: &[Option<usize>], weights: &[u32]) -> Self {
        let mut before = vec![None; self.weights.len()];
        for Reverse((due, target)) in &self.queue {
            before[*target as usize] = Some((due.saturating_sub(self.now), self.weights[*target as usize]));
        }
        let rest = |target: u32, place: &Option<usize>, weight: u32| match place.and_then(|place| before[place]) {
            Some((rest, weight_before)) => rest * u128::from(weight_before) / u128::from(weight),
            // Somewhere in its first step: targets of equal weight do not all come at once.
            None => (step(weight) * u128::from(u64::from(target).wrapping_mul(APART))) >> 64,
        };
        let with_weight = (0..).zip(places.iter().zip(weights)).filter(|(_, (_, weight))| **weight > 0);
        let queue =
            with_weight.map(|(target, (place, weight))| Reverse((self.now + rest(target, place, *weight), target)));
        Self { queue: queue.collect(), weights: weights.into(), now: self.now }
    }

    /// The same targets with other weights.
    pub(super) fn follow(&mut self, weights: &[u32]) {
        if *self.weights != *weights {
            let places: Vec<_> = (0..weights.len()).map(Some).collect();
            *self = self.moved(&places, weights);
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<usize> {
        let mut first = self.queue.peek_mut()?;
        let Reverse((due, target)) = &mut *first;
        self.now = *due;
        *due += step(self.weights[*target as usize]);
        Some(*target as usize)
    }
}

fn step(weight: u32) -> u128 {
    STEP / u128::from(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Smooth weighted round robin as it is written down: every target moves ahead by its weight; the foremost is taken and
    /// falls back by the sum of the weights.
    fn naive(weights: &[u32], places: &mut [i64]) -> usize {
        for (place, weight) in places.iter_mut().zip(weights) {
            *place += i64::from(*weight);
        }
        let with_weight = (0..weights.len()).filter(|target| weights[*target] > 0);
        let foremost = with_weight.rev().max_by_key(|target| places[*target]).expect("there is a weight");
        places[foremost] -= weights.iter().map(|weight| i64::from(*weight)).sum::<i64>();
        foremost
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        let weight = prop_oneof![Just(0u32), Just(1), 1u32..10, 100u32..300];
        prop::collection::vec(weight, 1..20)
            .prop_filter("there is a weight", |weights| weights.iter().any(|one| *one > 0))
    }

    proptest! {
        /// Oracle: after a whole period each target has had as many turns as in the naive way, which is its weight. On the way
        /// there no two of them are further apart than a turn of each.
        #[test]
        fn turns_are_shared_out_as_in_the_naive_way(weights in weights(), seed in any::<u64>()) {
            fastrand::seed(seed);
            let mut turns = Turns::new(&weights);
            let total = weights.iter().sum::<u32>() as usize;
            let (mut places, mut plain, mut ours) = (vec![0; weights.len()], vec![0; weights.len()], vec![0; weights.len()]);
            for turn in 1..=2 * total {
                plain[naive(&weights, &mut places)] += 1;
                ours[turns.next().expect("there is a weight")] += 1;
                for (one, other) in (0..weights.len()).zip(1..weights.len()) {
                    let ahead = (ours[one] * weights[other]).abs_diff(ours[other] * weights[one]);
                    prop_assert!(ahead <= weights[one] + weights[other], "{one} or {other} after {turn}: {ours:?}");
                }
                if turn % total == 0 {
                    prop_assert_eq!(&ours, &plain);
                }
            }
        }

        /// Weights may change at any time: nobody waits for longer than its own steps, and those of what it was before.
        #[test]
        fn other_weights_count_from_the_next_turn_on(first in weights(), second in weights(), seed in any::<u64>()) {
            fastrand::seed(seed);
            let length = first.len().min(second.len());
            let (first, second) = (&first[..length], &second[..length]);
            let mut turns = Turns::new(first);
            turns.follow(second);
            let total: u32 = second.iter().sum();
            let mut counts = vec![0u32; length];
            for _ in 0..total {
                counts[turns.next().expect("there is a weight")] += 1;
            }
            for (count, weight) in counts.into_iter().zip(second) {
                prop_assert!(count.abs_diff(*weight) <= 1, "{count} of {weight}");
            }
        }
    }

    #[test]
    fn equal_targets_alternate() {
        let mut turns = Turns::new(&[3; 5]);
        let first: Vec<_> = (0..5).map(|_| turns.next()).collect();
        for round in 0..20 {
            assert_eq!((0..5).map(|_| turns.next()).collect::<Vec<_>>(), first, "{round}");
        }
    }
}
