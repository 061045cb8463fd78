//! Which target gets a request.

use std::cell::RefCell;

use model::resource::service::LoadBalancing;
use model::snapshot::Target;

/// The choice among the targets of one service, as one core makes it.
pub(super) struct Balancer {
    strategy: LoadBalancing,
    weights: Box<[u32]>,
    /// Sum of the weights up to and with each target: a random point lies in the share of one of them.
    sums: Box<[u32]>,
    /// For round robin: how far each target is ahead of its share.
    turns: RefCell<Box<[i64]>>,
}

impl Balancer {
    /// The choice among `targets`. `previous` is the choice before, with the place that each of them had there: turns
    /// go on where they were.
    pub(super) fn new(
        strategy: LoadBalancing,
        targets: &[Target],
        previous: Option<(&Self, &[Option<usize>])>,
    ) -> Self {
        let weights: Box<[u32]> = targets.iter().map(|target| target.weight).collect();
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += weight;
            sum
        });
        let sums = sums.collect();
        let turns = RefCell::new(vec![0; weights.len()].into());
        let balancer = Self { strategy, weights, sums, turns };
        if let Some((previous, places)) = previous {
            let before = previous.turns.borrow();
            for (turn, place) in balancer.turns.borrow_mut().iter_mut().zip(places) {
                *turn = place.map_or(0, |place| before[place]);
            }
        } else if strategy == LoadBalancing::RoundRobin {
            // Cores begin at different targets, or else the first target would get the first request of all.
            for _ in 0..fastrand::usize(..=targets.len()) {
                balancer.next_in_turn(&[]);
            }
        }
        balancer
    }

    /// The target for a request that `tried` already could not be sent to; `load` tells the requests in flight.
    pub(super) fn pick(&self, tried: &[usize], load: impl Fn(usize) -> u32) -> Option<usize> {
        match self.strategy {
            _ if self.weights.len() == 1 => (tried.is_empty() && self.weights[0] > 0).then_some(0),
            LoadBalancing::RoundRobin => self.next_in_turn(tried),
            LoadBalancing::LeastRequest if tried.is_empty() => self.less_loaded_of_two(load),
            LoadBalancing::LeastRequest => self.any_but(tried),
        }
    }

    /// Two different targets are drawn by weight, and the one with fewer requests for its weight is taken.
    /// Weights hold at every load: they decide who is drawn, and how much load is much.
    fn less_loaded_of_two(&self, load: impl Fn(usize) -> u32) -> Option<usize> {
        let total = *self.sums.last()?;
        if total == 0 {
            return None;
        }
        let first = self.at(fastrand::u32(..total));
        let weight = self.weights[first];
        if weight == total {
            return Some(first);
        }
        // The share of the first is cut out of the line from which the second is drawn.
        let point = fastrand::u32(..total - weight);
        let before_first = self.sums[first] - weight;
        let second = self.at(if point < before_first { point } else { point + weight });
        let relative = |of: usize, to: usize| u64::from(load(of)) * u64::from(self.weights[to]);
        Some(if relative(second, first) < relative(first, second) { second } else { first })
    }

    /// The target in whose share a point lies.
    fn at(&self, point: u32) -> usize {
        self.sums.partition_point(|sum| *sum <= point)
    }

    fn any_but(&self, tried: &[usize]) -> Option<usize> {
        let rest = || (0..self.weights.len()).filter(|target| !tried.contains(target));
        let total: u32 = rest().map(|target| self.weights[target]).sum();
        if total == 0 {
            return None;
        }
        let mut point = fastrand::u32(..total);
        rest().find(|target| match point.checked_sub(self.weights[*target]) {
            Some(left) => {
                point = left;
                false
            }
            None => true,
        })
    }

    /// Every target moves ahead by its weight; the foremost is taken and falls back by the sum of the weights.
    /// So targets alternate as evenly as their weights allow.
    fn next_in_turn(&self, tried: &[usize]) -> Option<usize> {
        let mut turns = self.turns.borrow_mut();
        let mut foremost = None;
        let mut total = 0;
        for (target, weight) in self.weights.iter().map(|weight| i64::from(*weight)).enumerate() {
            if weight == 0 || tried.contains(&target) {
                continue;
            }
            total += weight;
            turns[target] += weight;
            if foremost.is_none_or(|foremost: usize| turns[target] > turns[foremost]) {
                foremost = Some(target);
            }
        }
        turns[foremost?] -= total;
        foremost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::resource::service::Protocol;
    use model::snapshot::{Endpoint, Gate};
    use proptest::prelude::*;

    use super::*;

    fn targets(weights: &[u32]) -> Vec<Target> {
        let target = |(index, weight): (usize, &u32)| Target {
            endpoint: Arc::new(Endpoint {
                url: format!("http://10.0.0.{index}:80").parse().expect("a target"),
                protocol: Protocol::Auto,
                proxy_protocol: None,
                tls: None,
                gate: Gate::default(),
            }),
            weight: *weight,
        };
        weights.iter().enumerate().map(target).collect()
    }

    fn balancer(strategy: LoadBalancing, weights: &[u32]) -> Balancer {
        Balancer::new(strategy, &targets(weights), None)
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(prop_oneof![Just(0u32), 1u32..10, Just(1000)], 1..8)
    }

    proptest! {
        /// Oracle: whatever the weights, over a full period each target gets exactly its weight, and at no moment
        /// is it further than one request from its share.
        #[test]
        fn round_robin_gives_each_its_weight(weights in weights()) {
            let balancer = balancer(LoadBalancing::RoundRobin, &weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..total {
                counts[balancer.pick(&[], |_| 0).expect("there is a weight")] += 1;
            }
            prop_assert_eq!(&counts, &weights);
            if total == 0 {
                prop_assert_eq!(balancer.pick(&[], |_| 0), None);
            }
        }

        #[test]
        fn weight_zero_and_what_was_tried_get_nothing(weights in weights(), seed in any::<u64>(), robin in any::<bool>()) {
            fastrand::seed(seed);
            let strategy = if robin { LoadBalancing::RoundRobin } else { LoadBalancing::LeastRequest };
            let balancer = balancer(strategy, &weights);
            let mut tried = Vec::new();
            while let Some(target) = balancer.pick(&tried, |target| u32::try_from(target).expect("small")) {
                prop_assert!(weights[target] > 0 && !tried.contains(&target));
                tried.push(target);
            }
            prop_assert_eq!(tried.len(), weights.iter().filter(|weight| **weight > 0).count());
        }

        /// With nothing in flight the first draw decides, which is by weight.
        #[test]
        fn idle_targets_are_drawn_by_weight(seed in any::<u64>()) {
            fastrand::seed(seed);
            let weights = [1, 0, 3, 6];
            let balancer = balancer(LoadBalancing::LeastRequest, &weights);
            let mut counts = [0u32; 4];
            for _ in 0..10_000 {
                counts[balancer.pick(&[], |_| 0).expect("there is a weight")] += 1;
            }
            for (count, weight) in counts.into_iter().zip(weights) {
                let expected = weight * 1000;
                // Six standard deviations of the widest, which is less than 50.
                prop_assert!(count.abs_diff(expected) < 300, "{counts:?}");
            }
        }

        /// When requests never end, loads grow in proportion to the weights.
        #[test]
        fn loads_follow_the_weights(seed in any::<u64>()) {
            fastrand::seed(seed);
            let weights = [1, 2, 7];
            let balancer = balancer(LoadBalancing::LeastRequest, &weights);
            let loads = RefCell::new([0u32; 3]);
            for _ in 0..10_000 {
                let target = balancer.pick(&[], |target| loads.borrow()[target]).expect("there is a weight");
                loads.borrow_mut()[target] += 1;
            }
            for (load, weight) in loads.into_inner().into_iter().zip(weights) {
                prop_assert!(load.abs_diff(weight * 1000) < 150, "{load} of {weight}000");
            }
        }
    }

    /// However often targets come and go, those that stay get their share.
    #[test]
    fn turns_go_on_when_other_targets_change() {
        let targets = targets(&[1, 1, 1, 1]);
        let mut turning = Balancer::new(LoadBalancing::RoundRobin, &targets, None);
        let mut counts = [0; 3];
        for round in 0..300 {
            counts[turning.pick(&[3], |_| 0).expect("there is a weight")] += 1;
            let now = 3 + round % 2;
            let places = [Some(0), Some(1), Some(2), None];
            turning = Balancer::new(LoadBalancing::RoundRobin, &targets[..now], Some((&turning, &places[..now])));
        }
        assert!(counts.iter().all(|count| (98..=102).contains(count)), "{counts:?}");
    }

    #[test]
    fn of_two_targets_the_idle_one_is_taken() {
        let balancer = balancer(LoadBalancing::LeastRequest, &[1, 1]);
        for _ in 0..100 {
            assert_eq!(balancer.pick(&[], |target| if target == 0 { 5 } else { 4 }), Some(1));
        }
    }
}
