//! A sorted map in compact leaves, shared between versions.
//!
//! A configuration keeps its documents for as long as it lives, most of them untouched, so what counts is
//! memory: the entries lie in leaves that are exactly as long as they are full, under a small tree of what
//! each leaf begins with. Cloning costs nothing; a change copies one leaf.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use imbl::OrdMap;

/// A longer leaf is split.
const FULL: usize = 64;
/// A shorter leaf is joined with the next if both together are at most half full.
const SHORT: usize = FULL / 4;

#[derive(Clone)]
pub(crate) struct Sorted<K, V> {
    /// Each under a key that is not above its first one and above the last one of the leaf before.
    leaves: OrdMap<K, Leaf<K, V>>,
    len: usize,
}

type Leaf<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { leaves: OrdMap::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (_, leaf) = self.leaves.get_prev(key)?;
        let at = leaf.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        Some(&leaf[at].1)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.leaves.values().flat_map(|leaf| leaf.iter().map(|(key, value)| (key, value)))
    }

    /// Everything from a key on, which need not be there.
    pub(crate) fn from<'a>(&'a self, start: &K) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let (lowest, mut skipped) = match self.leaves.get_prev(start) {
            Some((lowest, leaf)) => (Included(lowest.clone()), leaf.partition_point(|(key, _)| key < start)),
            None => (Unbounded, 0),
        };
        let leaves = self.leaves.range::<_, K>((lowest, Unbounded));
        leaves.flat_map(move |(_, leaf)| leaf[std::mem::take(&mut skipped)..].iter().map(|(key, value)| (key, value)))
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let Some(lowest) = self.lowest_for(&key) else {
            self.leaves.insert(key.clone(), Arc::new(vec![(key, value)]));
            self.len += 1;
            return;
        };
        let leaf = Arc::make_mut(self.leaves.get_mut(&lowest).expect("it was found"));
        let at = match leaf.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(at) => {
                leaf[at].1 = value;
                return;
            }
            Err(at) => at,
        };
        leaf.reserve_exact(1);
        leaf.insert(at, (key, value));
        self.len += 1;
        if leaf.len() > FULL {
            // Where keys come in order, leaves stay full.
            let right = leaf.split_off(if at == FULL { FULL } else { FULL / 2 });
            leaf.shrink_to_fit();
            self.leaves.insert(right[0].0.clone(), Arc::new(right));
        }
    }

    pub(crate) fn remove(&mut self, key: &K) {
        let Some(lowest) = self.leaves.get_prev(key).map(|(lowest, _)| lowest.clone()) else { return };
        let leaf = self.leaves.get_mut(&lowest).expect("it was found");
        let Ok(at) = leaf.binary_search_by(|(other, _)| other.cmp(key)) else { return };
        let leaf = Arc::make_mut(leaf);
        leaf.remove(at);
        leaf.shrink_to_fit();
        self.len -= 1;
        let left = leaf.len();
        if left == 0 {
            self.leaves.remove(&lowest);
        } else if left < SHORT {
            self.join_with_next(&lowest, left);
        }
    }

    fn join_with_next(&mut self, lowest: &K, len: usize) {
        let next = self.leaves.range::<_, K>((Excluded(lowest), Unbounded)).next();
        let Some(next) = next.filter(|(_, leaf)| leaf.len() + len <= FULL / 2).map(|(next, _)| next.clone()) else {
            return;
        };
        let right = self.leaves.remove(&next).expect("it was found");
        let leaf = Arc::make_mut(self.leaves.get_mut(lowest).expect("it was found"));
        leaf.reserve_exact(right.len());
        leaf.extend(Arc::unwrap_or_clone(right));
    }

    /// Under which key the leaf lies that a key belongs to. Below the first leaf the first one is moved there.
    fn lowest_for(&mut self, key: &K) -> Option<K> {
        if let Some((lowest, _)) = self.leaves.get_prev(key) {
            return Some(lowest.clone());
        }
        let first = self.leaves.get_min()?.0.clone();
        let leaf = self.leaves.remove(&first)?;
        self.leaves.insert(key.clone(), leaf);
        Some(key.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((prop::bool::weighted(0.6), 0_u16..400), 0..1500)) {
            let (mut sorted, mut map) = (Sorted::default(), BTreeMap::new());
            let mut older = Vec::new();
            for (number, (is_insert, key)) in steps.into_iter().enumerate() {
                if is_insert {
                    sorted.insert(key, number);
                    map.insert(key, number);
                } else {
                    sorted.remove(&key);
                    map.remove(&key);
                }
                if number % 300 == 0 {
                    older.push((sorted.clone(), map.clone()));
                }
            }
            older.push((sorted, map));
            for (sorted, map) in &older {
                prop_assert_eq!(sorted.len(), map.len());
                prop_assert!(sorted.iter().eq(map.iter()));
                for key in (0..401).step_by(7) {
                    prop_assert_eq!(sorted.get(&key), map.get(&key));
                    prop_assert!(sorted.from(&key).eq(map.range(key..)));
                }
            }
        }
    }

    #[test]
    fn what_comes_in_order_fills_the_leaves() {
        for keys in [(0..1000).collect::<Vec<u32>>(), (0..1000).rev().collect()] {
            let mut sorted = Sorted::default();
            keys.iter().for_each(|key| sorted.insert(*key, ()));
            assert!(sorted.iter().map(|(key, ())| *key).eq(0..1000));
            let is_rising = keys[0] == 0;
            assert!(sorted.leaves.len() <= if is_rising { 1000 / FULL + 1 } else { 1000 / (FULL / 2) + 1 });
            keys.iter().for_each(|key| sorted.remove(key));
            assert!(sorted.len() == 0 && sorted.leaves.is_empty());
        }
    }
}
