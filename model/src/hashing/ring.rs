//! A ring of points: each target has many, and gets what lies before them.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::mix;

/// Points of a target of the largest weight, or of up to half as many again: shares differ by a tenth or so.
const POINTS: u64 = 128;

/// Points in ascending order with the target that each belongs to.
#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[Point]>,
    /// The largest weight, rounded up to a power of two, so that hardly any change of a weight changes the others' points.
    scale: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    place: u32,
    target: u32,
}

/// Identities and weights of a list of targets.
type Targets<'t> = (&'t [u64], &'t [u32]);

impl Ring {
    pub(super) fn new(identities: &[u64], weights: &[u32]) -> Self {
        Self { points: Box::default(), scale: 0 }.changed((&[], &[]), (identities, weights))
    }

    /// The ring for other targets. Points of those that are in both are taken over in their order, and only new ones
    /// are sorted in.
    pub(super) fn changed(&self, (before, weights_before): Targets<'_>, (after, weights): Targets<'_>) -> Self {
        let scale = weights.iter().copied().max().map_or(1, |max| u64::from(max).next_power_of_two());
        let mut fresh: HashMap<u64, u32, FixedState> = after.iter().copied().zip(0..).collect();
        // What becomes of each target; nothing of those that are gone or have other points.
        let mut kept = vec![None; before.len()];
        for (number, (identity, weight)) in before.iter().zip(weights_before).enumerate() {
            let Some(now) = fresh.get(identity).copied() else { continue };
            if count(*weight, self.scale) == count(weights[now as usize], scale) {
                kept[number] = Some(now);
                fresh.remove(identity);
            }
        }
        let mut added: Vec<Point> = Vec::new();
        for target in fresh.into_values() {
            let number = target as usize;
            let points = (0..count(weights[number], scale)).map(|point| mix(after[number] ^ mix(point)));
            added.extend(points.map(|hash| Point { place: high(hash), target }));
        }
        // Two points in one place go by what their targets are, and not by where these stand in a list.
        let order = |point: &Point| (point.place, after[point.target as usize]);
        added.sort_unstable_by_key(order);
        let old = self.points.iter().filter_map(|point| Some(Point { target: kept[point.target as usize]?, ..*point }));
        let mut points = Vec::with_capacity(self.points.len() + added.len());
        let mut added = added.into_iter().peekable();
        for point in old {
            while let Some(next) = added.next_if(|next| order(next) < order(&point)) {
                points.push(next);
            }
            points.push(point);
        }
        points.extend(added);
        Self { points: points.into(), scale }
    }

    /// The targets of the points from a hash on, once around.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let begin = self.points.partition_point(|point| point.place < high(hash));
        let (before, behind) = self.points.split_at(begin);
        behind.iter().chain(before).map(|point| point.target as usize)
    }
}

/// How many points a target of this weight has.
fn count(weight: u32, scale: u64) -> u64 {
    if weight == 0 || scale == 0 { 0 } else { (POINTS * u64::from(weight) / scale).max(1) }
}

fn high(hash: u64) -> u32 {
    (hash >> 32) as u32
}
