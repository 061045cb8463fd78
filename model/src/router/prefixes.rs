//! The prefixes of one path in whole segments, with their hashes, as deep as somebody asks.
//!
//! A prefix is kept without the slash in front, and an exact path with it: so the two are told apart by
//! their text alone.

use std::hash::Hasher;

use foldhash::quality::FoldHasher;
use smallvec::SmallVec;

use crate::index;

/// The key of an exact path, and its hash.
pub(super) fn exact(path: &str) -> (&str, u64) {
    (path, index::hash_of(path))
}

/// The prefixes of a canonical path: of `/a/b/` they are the empty one, `a` and `a/b`. Each is worked out once
/// and only when it is needed, so a path of thousands of segments costs no more than the deepest prefix
/// that some route has.
pub(super) struct Prefixes<'a> {
    path: &'a str,
    hasher: FoldHasher<'static>,
    /// End and hash of each prefix so far; the place is the number of segments.
    known: SmallVec<[(usize, u64); 12]>,
}

impl<'a> Prefixes<'a> {
    pub(super) fn new(path: &'a str) -> Self {
        let hasher = index::hasher();
        let root = (0, hasher.finish());
        Self { path, hasher, known: SmallVec::from_iter([root]) }
    }

    /// The number of segments of a whole path, its key and the hash of that.
    pub(super) fn whole(path: &'a str) -> (u16, &'a str, u64) {
        let mut prefixes = Self::new(path);
        prefixes.work_out(usize::MAX);
        let (end, hash) = prefixes.known[prefixes.known.len() - 1];
        (number(prefixes.known.len() - 1), key(path, end), hash)
    }

    /// The keys of prefixes of up to so many segments, with that number and their hash.
    pub(super) fn deepest_first(&mut self, depth: Option<usize>) -> impl Iterator<Item = (u16, &'a str, u64)> {
        let count = depth.map_or(0, |depth| {
            self.work_out(depth);
            self.known.len().min(depth + 1)
        });
        let path = self.path;
        self.known[..count]
            .iter()
            .enumerate()
            .rev()
            .map(move |(depth, (end, hash))| (number(depth), key(path, *end), *hash))
    }

    fn work_out(&mut self, depth: usize) {
        while self.known.len() <= depth {
            let (from, _) = self.known[self.known.len() - 1];
            let Some(rest) = self.path.get(from + 1..).filter(|rest| !rest.is_empty()) else { return };
            let length = rest.find('/').unwrap_or(rest.len());
            self.hasher.write(&rest.as_bytes()[..length]);
            self.known.push((from + 1 + length, self.hasher.finish()));
        }
    }
}

fn key(path: &str, end: usize) -> &str {
    path.get(1..end).unwrap_or_default()
}

fn number(depth: usize) -> u16 {
    u16::try_from(depth).expect("paths in routes are bounded, and only as many segments as they have are looked at")
}
