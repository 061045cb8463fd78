//! From a hash to the numbers kept under it, shared between versions.
//!
//! Everything that is found by name, host or path is found through one of these: the index holds only 32 bits of the
//! hash and the number of a [`crate::slots`] place, eight bytes for each, and whoever asks compares what lies in that
//! place. Cloning costs nothing; a change copies one bucket and the few branches above it.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::quality::{FixedState, FoldHasher};

use crate::slots::Slot;

/// Bits of the hash that choose among the children of a branch.
const BITS: u32 = 2;
const CHILDREN: usize = 1 << BITS;
/// A fuller bucket becomes a branch. Buckets hold exactly their entries, so this trades the copying of a
/// change and the scan of a lookup against the memory of many small buckets.
const FULL: usize = 32;
/// Beyond this depth the kept bits of the hash are used up, and buckets grow.
const DEEPEST: u32 = u32::BITS / BITS;

/// Numbers by hash; several may lie under one.
#[derive(Clone, Default)]
pub(crate) struct Index {
    root: Node,
}

#[derive(Clone)]
enum Node {
    Bucket(Arc<[Entry]>),
    Branch(Arc<[Node; CHILDREN]>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u32,
    slot: Slot,
}

impl Default for Node {
    fn default() -> Self {
        Self::Bucket(Arc::default())
    }
}

/// A hasher for keys of an [`Index`]. Its seed is fixed: what is in an index was chosen by operators, and
/// what clients ask for is compared, never kept.
pub(crate) fn hasher() -> FoldHasher<'static> {
    FixedState::with_seed(0).build_hasher()
}

pub(crate) fn hash_of(text: &str) -> u64 {
    let mut hasher = hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn child(tag: u32, depth: u32) -> usize {
    (tag >> (u32::BITS - BITS * (depth + 1))) as usize & (CHILDREN - 1)
}

impl Index {
    /// What may be meant by `hash`; almost always it is.
    pub(crate) fn find(&self, hash: u64) -> impl Iterator<Item = Slot> {
        let tag = tag(hash);
        let mut node = &self.root;
        let mut depth = 0;
        let bucket = loop {
            match node {
                Node::Bucket(bucket) => break bucket,
                Node::Branch(children) => node = &children[child(tag, depth)],
            }
            depth += 1;
        };
        bucket.iter().filter(move |entry| entry.tag == tag).map(|entry| entry.slot)
    }

    pub(crate) fn insert(&mut self, hash: u64, slot: Slot) {
        let entry = Entry { tag: tag(hash), slot };
        let mut node = &mut self.root;
        let mut depth = 0;
        while let Node::Branch(children) = node {
            node = &mut Arc::make_mut(children)[child(entry.tag, depth)];
            depth += 1;
        }
        if let Node::Bucket(bucket) = node {
            *node = Node::of(bucket.iter().copied().chain([entry]).collect(), depth);
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, slot: Slot) {
        self.root.remove(Entry { tag: tag(hash), slot }, 0);
    }
}

impl Node {
    fn of(entries: Arc<[Entry]>, depth: u32) -> Self {
        if entries.len() <= FULL || depth == DEEPEST {
            return Self::Bucket(entries);
        }
        let part = |at| entries.iter().filter(|entry| child(entry.tag, depth) == at).copied().collect();
        Self::Branch(Arc::new(std::array::from_fn(|at| Self::of(part(at), depth + 1))))
    }

    fn remove(&mut self, entry: Entry, depth: u32) {
        match self {
            Self::Bucket(bucket) => *bucket = bucket.iter().filter(|other| **other != entry).copied().collect(),
            Self::Branch(children) => {
                Arc::make_mut(children)[child(entry.tag, depth)].remove(entry, depth + 1);
                if let Some(entries) = few_entries(&**children) {
                    *self = Self::Bucket(entries);
                }
            }
        }
    }
}

/// The entries of a branch that has become so empty that it should be a bucket again, with some room before it would
/// be split once more.
fn few_entries(children: &[Node]) -> Option<Arc<[Entry]>> {
    let mut entries = Vec::new();
    for node in children {
        let Node::Bucket(bucket) = node else { return None };
        entries.extend_from_slice(bucket);
        if entries.len() > FULL / 2 {
            return None;
        }
    }
    Some(entries.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn found(index: &Index, hash: u64) -> BTreeSet<Slot> {
        index.find(hash).collect()
    }

    #[test]
    fn every_number_is_found_and_older_copies_keep_theirs() {
        let hash = |slot: Slot| hash_of(&slot.to_string());
        let mut index = Index::default();
        for slot in 0..5_000 {
            index.insert(hash(slot), slot);
        }
        let older = index.clone();
        for slot in (0..5_000).filter(|slot| slot % 10 != 0) {
            index.remove(hash(slot), slot);
        }
        for slot in 0..5_000 {
            assert!(older.find(hash(slot)).any(|found| found == slot));
            assert_eq!(index.find(hash(slot)).any(|found| found == slot), slot % 10 == 0);
        }
    }

    proptest! {
        /// Hashes from a few values, so that many numbers share one and buckets outgrow every split.
        #[test]
        fn it_holds_what_a_set_of_pairs_holds(steps in prop::collection::vec((any::<bool>(), 0_u64..3, 0_u32..60), 0..300)) {
            let mut index = Index::default();
            let mut set = BTreeSet::new();
            for (is_insert, low, slot) in steps {
                let hash = low << 32;
                if is_insert {
                    if set.insert((hash, slot)) {
                        index.insert(hash, slot);
                    }
                } else {
                    set.remove(&(hash, slot));
                    index.remove(hash, slot);
                }
            }
            for hash in [0, 1 << 32, 2 << 32] {
                let expected = set.iter().filter(|(of, _)| *of == hash).map(|(_, slot)| *slot).collect();
                prop_assert_eq!(found(&index, hash), expected);
            }
        }
    }
}
