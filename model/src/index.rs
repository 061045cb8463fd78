//! From a hash to what is kept under it, shared between versions.
//!
//! Everything that is found by name, host or path is found through one of these. The index holds 32 bits of the
//! hash beside each value, and whoever asks says whether a value is the one. Cloning costs nothing; a change copies
//! one bucket and the few branches above it.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::quality::{FixedState, FoldHasher};

/// Bits of the hash that choose among the children of a branch.
const BITS: u32 = 2;
const CHILDREN: usize = 1 << BITS;
/// A fuller bucket becomes a branch. Buckets hold exactly their entries, so this trades the copying of a
/// change and the scan of a lookup against the memory of many small buckets.
const FULL: usize = 32;
/// Beyond this depth the kept bits of the hash are used up, and buckets grow.
const DEEPEST: u32 = u32::BITS / BITS;

/// Values by hash; several may lie under one.
#[derive(Clone)]
pub(crate) struct Index<T> {
    root: Node<T>,
}

#[derive(Clone)]
enum Node<T> {
    Bucket(Arc<Bucket<T>>),
    Branch(Arc<[Self; CHILDREN]>),
}

/// Tags and values at the same places. They lie apart, so that a lookup scans nothing but tags.
#[derive(Clone)]
struct Bucket<T> {
    tags: Vec<u32>,
    values: Vec<T>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { root: Node::Bucket(Arc::default()) }
    }
}

impl<T> Default for Bucket<T> {
    fn default() -> Self {
        Self { tags: Vec::new(), values: Vec::new() }
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

impl<T> Index<T> {
    /// The value under `hash` that is the one that is meant.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
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
        Some(&bucket.values[bucket.place(tag, is_it)?])
    }

    /// Whether `holds` is true of every value; they come in no order that means anything, until it is not.
    pub(crate) fn all<'a>(&'a self, holds: &mut impl FnMut(&'a T) -> bool) -> bool {
        self.root.all(holds)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.root, Node::Bucket(bucket) if bucket.tags.is_empty())
    }
}

impl<T: Clone> Index<T> {
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        // Looked for first, because what is not there shall not be copied.
        self.find(hash, &is_it)?;
        let tag = tag(hash);
        let Node::Bucket(bucket) = self.bucket_mut(tag).0 else { return None };
        let bucket = Arc::make_mut(bucket);
        let place = bucket.place(tag, is_it)?;
        Some(&mut bucket.values[place])
    }

    pub(crate) fn insert(&mut self, hash: u64, value: T) {
        let (node, depth) = self.bucket_mut(tag(hash));
        let Node::Bucket(bucket) = node else { return };
        let bucket = Arc::make_mut(bucket);
        bucket.push(tag(hash), value);
        if bucket.tags.len() > FULL && depth < DEEPEST {
            *node = std::mem::take(bucket).split(depth);
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) {
        self.root.remove(tag(hash), 0, &is_it);
    }

    /// The node with the bucket for a tag, and its depth.
    fn bucket_mut(&mut self, tag: u32) -> (&mut Node<T>, u32) {
        let mut node = &mut self.root;
        let mut depth = 0;
        while let Node::Branch(children) = node {
            node = &mut Arc::make_mut(children)[child(tag, depth)];
            depth += 1;
        }
        (node, depth)
    }
}

impl<T> Bucket<T> {
    fn place(&self, tag: u32, is_it: impl Fn(&T) -> bool) -> Option<usize> {
        let alike = self.tags.iter().enumerate().filter(|(_, other)| **other == tag);
        alike.map(|(place, _)| place).find(|place| is_it(&self.values[*place]))
    }

    fn push(&mut self, tag: u32, value: T) {
        self.tags.reserve_exact(1);
        self.tags.push(tag);
        self.values.reserve_exact(1);
        self.values.push(value);
    }

    fn split(self, depth: u32) -> Node<T> {
        let mut parts: [Self; CHILDREN] = std::array::from_fn(|_| Self::default());
        for (tag, value) in self.tags.into_iter().zip(self.values) {
            parts[child(tag, depth)].push(tag, value);
        }
        let node = |part: Self| {
            let must_split = part.tags.len() > FULL && depth + 1 < DEEPEST;
            if must_split { part.split(depth + 1) } else { Node::Bucket(Arc::new(part)) }
        };
        Node::Branch(Arc::new(parts.map(node)))
    }
}

impl<T> Node<T> {
    fn all<'a>(&'a self, holds: &mut impl FnMut(&'a T) -> bool) -> bool {
        match self {
            Self::Bucket(bucket) => bucket.values.iter().all(holds),
            Self::Branch(children) => children.iter().all(|child| child.all(holds)),
        }
    }
}

impl<T: Clone> Node<T> {
    fn remove(&mut self, tag: u32, depth: u32, is_it: &dyn Fn(&T) -> bool) {
        match self {
            Self::Bucket(bucket) => {
                let bucket = Arc::make_mut(bucket);
                if let Some(place) = bucket.place(tag, is_it) {
                    bucket.tags.remove(place);
                    bucket.values.remove(place);
                    bucket.tags.shrink_to_fit();
                    bucket.values.shrink_to_fit();
                }
            }
            Self::Branch(children) => {
                let children = Arc::make_mut(children);
                children[child(tag, depth)].remove(tag, depth + 1, is_it);
                if let Some(joined) = joined(children) {
                    *self = Self::Bucket(Arc::new(joined));
                }
            }
        }
    }
}

/// The buckets of a branch that has become so empty that it should be one bucket again, with some room before it
/// would be split once more.
fn joined<T: Clone>(children: &[Node<T>]) -> Option<Bucket<T>> {
    let mut joined = Bucket::default();
    for node in children {
        let Node::Bucket(bucket) = node else { return None };
        if joined.tags.len() + bucket.tags.len() > FULL / 2 {
            return None;
        }
        joined.tags.extend_from_slice(&bucket.tags);
        joined.values.extend_from_slice(&bucket.values);
    }
    joined.tags.shrink_to_fit();
    joined.values.shrink_to_fit();
    Some(joined)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_value_is_found_and_older_copies_keep_theirs() {
        let hash = |value: u32| hash_of(&value.to_string());
        let mut index = Index::default();
        for value in 0..5_000 {
            index.insert(hash(value), (value, 0));
        }
        let older = index.clone();
        for value in 0..5_000 {
            if value % 10 == 0 {
                index.find_mut(hash(value), |found| found.0 == value).expect("it is there").1 = 1;
            } else {
                index.remove(hash(value), |found| found.0 == value);
            }
        }
        for value in 0..5_000 {
            assert_eq!(older.find(hash(value), |found| found.0 == value), Some(&(value, 0)));
            let expected = Some(&(value, 1)).filter(|_| value % 10 == 0).copied();
            assert_eq!(index.find(hash(value), |found| found.0 == value).copied(), expected);
        }
    }

    proptest! {
        /// Hashes from a few values, so that many values share one and buckets outgrow every split.
        #[test]
        fn it_holds_what_a_set_of_pairs_holds(steps in prop::collection::vec((any::<bool>(), 0_u64..3, 0_u32..60), 0..300)) {
            let mut index = Index::default();
            let mut set = BTreeSet::new();
            for (is_insert, low, value) in steps {
                let hash = low << 32;
                if !is_insert {
                    set.remove(&(hash, value));
                    index.remove(hash, |found| *found == value);
                } else if set.insert((hash, value)) {
                    index.insert(hash, value);
                }
            }
            for hash in [0, 1 << 32, 2 << 32] {
                for value in 0..60 {
                    let is_there = index.find(hash, |found| *found == value).is_some();
                    prop_assert_eq!(is_there, set.contains(&(hash, value)));
                }
            }
            prop_assert_eq!(index.is_empty(), set.is_empty());
        }
    }
}
