//! The hosts that routes are for: exact names, wildcards and any host.

use smallvec::SmallVec;

use crate::index::{Index, hash_of};
use crate::slots::{Places, Slot};
use crate::text::Text;

/// How much of a path a group of routes is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Exactly the path.
    Exact,
    /// Everything below a path of so many segments.
    Prefix { depth: u16 },
}

/// All host patterns of the routes.
#[derive(Clone, Default)]
pub(super) struct Hosts {
    places: Places<Host>,
    by_pattern: Index,
    /// How many wildcards there are with 0, 1, 2, … labels behind the star: only suffixes of a host that are as
    /// long as some wildcard are looked for.
    wildcards: SmallVec<[u32; 6]>,
}

/// What is known of one host pattern: where looking for groups can lead to anything.
#[derive(Clone)]
pub(super) struct Host {
    /// As written; empty for any host.
    pattern: Text,
    exact_groups: u32,
    /// How many groups there are for prefixes of 0, 1, 2, … segments.
    prefix_groups: SmallVec<[u32; 4]>,
}

impl Host {
    pub(super) fn has(&self, reach: Reach) -> bool {
        match reach {
            Reach::Exact => self.exact_groups > 0,
            Reach::Prefix { depth } => self.prefix_groups.get(usize::from(depth)).is_some_and(|count| *count > 0),
        }
    }

    pub(super) fn deepest_prefix(&self) -> Option<usize> {
        self.prefix_groups.len().checked_sub(1)
    }
}

impl Hosts {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.wildcards.is_empty()
    }

    /// The patterns that match, the most specific first.
    pub(super) fn matching<'a>(&'a self, host: &'a str) -> impl Iterator<Item = (Slot, &'a Host)> {
        let exact = Some(host).filter(|host| !host.is_empty()).and_then(|host| self.find(host));
        let wildcards = self.matching_wildcards(host);
        let any = std::iter::once_with(|| self.find("")).flatten();
        exact.into_iter().chain(wildcards).chain(any).filter_map(|slot| Some((slot, &**self.places.get(slot)?)))
    }

    fn matching_wildcards<'a>(&'a self, host: &'a str) -> impl Iterator<Item = Slot> {
        let dots = if self.wildcards.is_empty() { 0 } else { host.bytes().filter(|b| *b == b'.').count() };
        let suffixes = host.match_indices('.').take(dots).enumerate();
        suffixes.filter_map(move |(index, (dot, _))| {
            let labels = dots - index;
            self.wildcards.get(labels).filter(|count| **count > 0)?;
            let suffix = &host[dot + 1..];
            self.find_pattern(hash_of_wildcard(suffix), |pattern| {
                pattern.strip_prefix(b"*.") == Some(suffix.as_bytes())
            })
        })
    }

    pub(super) fn find(&self, pattern: &str) -> Option<Slot> {
        self.find_pattern(hash_of_pattern(pattern), |other| other == pattern.as_bytes())
    }

    fn find_pattern(&self, hash: u64, is_it: impl Fn(&[u8]) -> bool) -> Option<Slot> {
        self.by_pattern
            .find(hash)
            .find(|slot| self.places.get(*slot).is_some_and(|host| is_it(host.pattern.as_bytes())))
    }

    /// The place of a pattern, which is made if there is none.
    pub(super) fn enter(&mut self, pattern: &str) -> Slot {
        if let Some(slot) = self.find(pattern) {
            return slot;
        }
        let host = Host { pattern: pattern.into(), exact_groups: 0, prefix_groups: SmallVec::new() };
        let slot = self.places.add(host.into());
        self.by_pattern.insert(hash_of_pattern(pattern), slot);
        self.count_wildcard(pattern, |count| count + 1);
        slot
    }

    pub(super) fn count(&mut self, slot: Slot, reach: Reach, step: fn(u32) -> u32) {
        let Some(host) = self.places.get_mut(slot) else { return };
        match reach {
            Reach::Exact => host.exact_groups = step(host.exact_groups),
            Reach::Prefix { depth } => step_at(&mut host.prefix_groups, depth.into(), step),
        }
    }

    pub(super) fn leave_if_empty(&mut self, slot: Slot) {
        let Some(host) = self.places.get(slot) else { return };
        if host.has(Reach::Exact) || !host.prefix_groups.is_empty() {
            return;
        }
        if let Some(host) = self.places.take(slot) {
            self.by_pattern.remove(hash_of_pattern(host.pattern.as_str()), slot);
            self.count_wildcard(host.pattern.as_str(), |count| count - 1);
        }
    }

    fn count_wildcard(&mut self, pattern: &str, step: fn(u32) -> u32) {
        if let Some(suffix) = wildcard_suffix(pattern) {
            step_at(&mut self.wildcards, suffix.split('.').count(), step);
        }
    }
}

/// Changes one of several counts, of which those that are not there are zero.
fn step_at<const N: usize>(counts: &mut SmallVec<[u32; N]>, at: usize, step: fn(u32) -> u32)
where
    [u32; N]: smallvec::Array<Item = u32>,
{
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] = step(counts[at]);
    while counts.last() == Some(&0) {
        counts.pop();
    }
}

fn wildcard_suffix(pattern: &str) -> Option<&str> {
    pattern.strip_prefix("*.")
}

/// Of a wildcard it is made from what is behind the star alone, so that a request needs no text put together.
fn hash_of_pattern(pattern: &str) -> u64 {
    match wildcard_suffix(pattern) {
        Some(suffix) => hash_of_wildcard(suffix),
        None => hash_of(pattern),
    }
}

fn hash_of_wildcard(suffix: &str) -> u64 {
    !hash_of(suffix)
}
