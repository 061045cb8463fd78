//! How much of the requests each target shall get: by weight, priority, zone, health, and how long it has been there.

use std::collections::BTreeMap;

use model::snapshot::Target;
use model::value::Percentage;

/// What a priority can take with some of its targets gone: each of the others up to so much of its share.
const OVERPROVISIONING: f64 = 1.4;

/// Weights are multiplied by so much where they are not those that were written, unless the sum would be too large.
const SCALE: f64 = 1000.0;
const MAX_TOTAL: f64 = (1_u32 << 31) as f64;

/// Of a share, the part that a target has that has just come.
const SLOW_START_FROM: f64 = 0.1;

/// What is the matter with a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::upstream) struct Condition {
    pub(in crate::upstream) is_healthy: bool,
    /// How far its slow start has come: 1 at its end.
    pub(in crate::upstream) warmth: f64,
}

/// The share of each target.
pub(super) struct Shares {
    pub(super) weights: Box<[u32]>,
    /// Sum of the weights up to and with each target: a random point lies in the share of one of them.
    sums: Box<[u32]>,
    /// The part of what was written for it that a target has, compared with the others, in parts of 2^32; empty if that is
    /// the same for all that have any.
    parts: Box<[u32]>,
}

/// Targets of one priority, in the zone of this node or outside.
#[derive(Default)]
struct Level {
    members: Vec<usize>,
    total: f64,
    healthy: f64,
}

impl Shares {
    /// The weights as they were written.
    pub(super) fn plain(weights: Box<[u32]>) -> Self {
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += weight;
            sum
        });
        let sums = sums.collect();
        Self { weights, sums, parts: Box::default() }
    }

    pub(super) fn of(
        targets: &[Target],
        is_in: impl Fn(&Target) -> bool,
        zone: Option<&str>,
        panic_threshold: Percentage,
        condition: impl Fn(usize) -> Condition,
    ) -> Self {
        let conditions: Vec<Condition> = (0..targets.len()).map(condition).collect();
        let mut levels: BTreeMap<(u8, bool), Level> = BTreeMap::new();
        for (number, target) in targets.iter().enumerate().filter(|(_, target)| target.weight > 0 && is_in(target)) {
            let placement = target.placement.as_deref();
            let is_elsewhere = zone.is_some() && placement.and_then(|placement| placement.zone.as_deref()) != zone;
            let level = levels.entry((placement.map_or(0, |placement| placement.priority), is_elsewhere)).or_default();
            level.members.push(number);
            level.total += f64::from(target.weight);
            level.healthy += if conditions[number].is_healthy { f64::from(target.weight) } else { 0.0 };
        }
        let mut parts = vec![0.0; targets.len()];
        for (level, load, is_panicking) in loads(levels.values(), panic_threshold) {
            let of = |number: &usize| {
                let Condition { is_healthy, warmth } = conditions[*number];
                let is_used = is_healthy || is_panicking;
                if is_used { SLOW_START_FROM + (1.0 - SLOW_START_FROM) * warmth } else { 0.0 }
            };
            let sum: f64 = level.members.iter().map(|number| f64::from(targets[*number].weight) * of(number)).sum();
            for number in level.members.iter().filter(|_| load > 0.0 && sum > 0.0) {
                parts[*number] = load * of(number) / sum;
            }
        }
        Self::scaled(targets, &parts)
    }

    /// The shares of targets that each get such a part of their weight.
    fn scaled(targets: &[Target], parts: &[f64]) -> Self {
        let most = parts.iter().copied().fold(0.0, f64::max);
        let is_same = |part: &f64| *part == 0.0 || (most - part) < most * 1e-9;
        if parts.iter().all(is_same) {
            let weight = |(target, part): (&Target, &f64)| if *part > 0.0 { target.weight } else { 0 };
            return Self::plain(targets.iter().zip(parts).map(weight).collect());
        }
        let total: f64 = targets.iter().zip(parts).map(|(target, part)| f64::from(target.weight) * part / most).sum();
        let scale = SCALE.min(MAX_TOTAL / total.max(1.0));
        let weight = |(target, part): (&Target, &f64)| match f64::from(target.weight) * part / most {
            0.0 => 0,
            share => ((share * scale) as u32).max(1),
        };
        let shares = Self::plain(targets.iter().zip(parts).map(weight).collect());
        let parts = parts.iter().map(|part| (part / most * f64::from(u32::MAX)) as u32).collect();
        Self { parts, ..shares }
    }

    /// Whether a target gets the request of a hash, if it is the first that is looked at: `draw` is the number of both.
    pub(super) fn has(&self, target: usize, draw: u64) -> bool {
        let part = self.parts.get(target).copied().unwrap_or(u32::MAX);
        self.weights[target] > 0 && (draw >> 32) as u32 <= part
    }

    /// Two different targets are drawn by weight, and the one with fewer requests for its weight is taken.
    /// Weights hold at every load: they decide who is drawn, and how much load is much.
    pub(super) fn less_loaded_of_two(&self, load: impl Fn(usize) -> u64) -> Option<usize> {
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
        let relative = |of: usize, to: usize| load(of).saturating_mul(u64::from(self.weights[to]));
        Some(if relative(second, first) < relative(first, second) { second } else { first })
    }

    /// The target in whose share a point lies.
    fn at(&self, point: u32) -> usize {
        self.sums.partition_point(|sum| *sum <= point)
    }

    pub(super) fn any_but(&self, tried: &[usize]) -> Option<usize> {
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
}

/// Which part of the requests each level gets, and whether all of its targets do, healthy or not: in their order, each what
/// it can take. Only when all of them together cannot take everything, a level with too few healthy targets uses all.
fn loads<'l>(
    levels: impl Iterator<Item = &'l Level> + Clone,
    panic_threshold: Percentage,
) -> impl Iterator<Item = (&'l Level, f64, bool)> {
    let can_take = |level: &Level| (OVERPROVISIONING * level.healthy / level.total).min(1.0);
    let sum: f64 = levels.clone().map(can_take).sum();
    let is_enough = sum >= 1.0;
    let mut rest = 1.0;
    levels.enumerate().map(move |(number, level)| {
        let load = match (is_enough, sum > 0.0) {
            (true, _) => can_take(level).min(rest).max(0.0),
            (false, true) => can_take(level) / sum,
            // Nobody is healthy: the first level is as good as any.
            (false, false) => f64::from(u8::from(number == 0)),
        };
        rest -= load;
        let part = (level.healthy / level.total * 1_000_000.0) as u64;
        let is_panicking = !is_enough && (part < panic_threshold.of(1_000_000) || sum == 0.0);
        (level, load, is_panicking)
    })
}
