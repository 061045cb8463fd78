//! Targets one after the other, by weight.

/// How far each target is ahead of its share.
pub(super) struct Turns(Box<[i64]>);

impl Turns {
    /// Cores begin at different targets, or else the first target would get the first request of all.
    pub(super) fn new(weights: impl ExactSizeIterator<Item = u32>) -> Self {
        let weights: Box<[u32]> = weights.collect();
        let mut turns = Self(vec![0; weights.len()].into());
        for _ in 0..fastrand::usize(..=weights.len()) {
            turns.next(&weights, &[]);
        }
        turns
    }

    /// The turns of other targets, of which some stood at these places before.
    pub(super) fn moved(&self, places: &[Option<usize>]) -> Self {
        Self(places.iter().map(|place| place.map_or(0, |place| self.0[place])).collect())
    }

    /// Every target moves ahead by its weight; the foremost is taken and falls back by the sum of the weights.
    /// So targets alternate as evenly as their weights allow.
    pub(super) fn next(&mut self, weights: &[u32], tried: &[usize]) -> Option<usize> {
        let turns = &mut self.0;
        let mut foremost = None;
        let mut total = 0;
        for (target, weight) in weights.iter().map(|weight| i64::from(*weight)).enumerate() {
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
