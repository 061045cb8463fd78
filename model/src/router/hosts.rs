//! The hosts that routes are for: exact names, wildcards and any host.

use std::sync::Arc;

use imbl::Vector;
use smallvec::SmallVec;

use super::template::Shape;
use crate::index::{Index, hash_of};
use crate::text::Text;

/// How much of a path a group of routes is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Exactly the path.
    Exact,
    /// Everything below a path of so many segments.
    Prefix { depth: u16 },
    /// What matches regular expressions that begin with so many fixed segments.
    Regex { depth: u16 },
    /// What matches templates of this shape.
    Template(Shape),
}

/// All host patterns of the routes.
#[derive(Clone, Default)]
pub(super) struct Hosts {
    by_pattern: Index<Host>,
    /// How many numbers were given.
    given: u32,
    /// Those that can be given again.
    free: Vector<u32>,
    /// How many wildcards there are with 0, 1, 2, … labels behind the star: only suffixes of a host that are as
    /// long as some wildcard are looked for.
    wildcards: SmallVec<[u32; 6]>,
}

/// What is known of one host pattern: where looking for groups can lead to anything.
#[derive(Clone)]
pub(super) struct Host {
    /// Stands for the pattern in what groups are found by.
    pub(super) number: u32,
    exact_groups: u32,
    /// As written; empty for any host.
    pattern: Text,
    /// How many groups there are for prefixes of 0, 1, 2, … segments.
    prefix_groups: SmallVec<[u32; 4]>,
    /// Most hosts have neither templates nor regular expressions.
    other_groups: Option<Arc<OtherGroups>>,
}

/// What is known of the templates and regular expressions of a host.
#[derive(Clone, Default)]
struct OtherGroups {
    /// How many groups there are for regular expressions that begin with 0, 1, 2, … fixed segments.
    regexes: SmallVec<[u32; 4]>,
    /// In order of precedence, with how many groups there are of each.
    templates: Vec<(Shape, u32)>,
}

impl Host {
    pub(super) fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    pub(super) fn has(&self, reach: Reach) -> bool {
        let at = |counts: &[u32], depth: u16| counts.get(usize::from(depth)).is_some_and(|count| *count > 0);
        match reach {
            Reach::Exact => self.exact_groups > 0,
            Reach::Prefix { depth } => at(&self.prefix_groups, depth),
            Reach::Regex { depth } => self.other_groups.as_ref().is_some_and(|other| at(&other.regexes, depth)),
            Reach::Template(shape) => self.templates().iter().any(|(other, _)| *other == shape),
        }
    }

    /// The shapes of templates, in order of precedence.
    pub(super) fn templates(&self) -> &[(Shape, u32)] {
        self.other_groups.as_ref().map_or(&[], |other| &other.templates)
    }

    /// How many segments the longest beginning has that some prefix, regular expression or template fixes.
    pub(super) fn deepest(&self) -> Option<usize> {
        let regexes = self.other_groups.as_ref().map_or(0, |other| other.regexes.len());
        let deepest = self.prefix_groups.len().max(regexes).checked_sub(1);
        // The first shape is the one with the most.
        deepest.max(self.templates().first().map(|(shape, _)| shape.lead()))
    }

    fn is_empty(&self) -> bool {
        self.exact_groups == 0 && self.prefix_groups.is_empty() && self.other_groups.is_none()
    }
}

impl OtherGroups {
    fn count_template(&mut self, shape: Shape, step: fn(u32) -> u32) {
        match self.templates.binary_search_by_key(&shape, |(shape, _)| *shape) {
            Ok(at) => {
                self.templates[at].1 = step(self.templates[at].1);
                if self.templates[at].1 == 0 {
                    self.templates.remove(at);
                }
            }
            Err(at) => self.templates.insert(at, (shape, step(0))),
        }
    }
}

impl Hosts {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_pattern.is_empty() && self.wildcards.is_empty() && self.free.len() == self.given as usize
    }

    /// The patterns that match, the most specific first.
    pub(super) fn matching<'h, 'a>(&'h self, host: &'a str) -> impl Iterator<Item = &'h Host> + use<'h, 'a> {
        let exact = Some(host).filter(|host| !host.is_empty()).and_then(|host| self.find(host));
        let any = std::iter::once_with(|| self.find("")).flatten();
        exact.into_iter().chain(self.matching_wildcards(host)).chain(any)
    }

    fn matching_wildcards<'h, 'a>(&'h self, host: &'a str) -> impl Iterator<Item = &'h Host> + use<'h, 'a> {
        let dots = if self.wildcards.is_empty() { 0 } else { host.bytes().filter(|b| *b == b'.').count() };
        let suffixes = host.match_indices('.').take(dots).enumerate();
        suffixes.filter_map(move |(index, (dot, _))| {
            let labels = dots - index;
            self.wildcards.get(labels).filter(|count| **count > 0)?;
            let suffix = &host[dot + 1..];
            let is_it = |host: &Host| host.pattern.as_bytes().strip_prefix(b"*.") == Some(suffix.as_bytes());
            self.by_pattern.find(hash_of_wildcard(suffix), is_it)
        })
    }

    pub(super) fn find(&self, pattern: &str) -> Option<&Host> {
        self.by_pattern.find(hash_of_pattern(pattern), is_for(pattern))
    }

    /// The number of a pattern, which is given if there is none.
    pub(super) fn enter(&mut self, pattern: &str) -> u32 {
        if let Some(host) = self.find(pattern) {
            return host.number;
        }
        let number = self.free.pop_back().unwrap_or_else(|| {
            self.given += 1;
            self.given - 1
        });
        let host = Host {
            number,
            exact_groups: 0,
            pattern: pattern.into(),
            prefix_groups: SmallVec::new(),
            other_groups: None,
        };
        self.by_pattern.insert(hash_of_pattern(pattern), host);
        self.count_wildcard(pattern, |count| count + 1);
        number
    }

    pub(super) fn count(&mut self, pattern: &str, reach: Reach, step: fn(u32) -> u32) {
        let Some(host) = self.by_pattern.find_mut(hash_of_pattern(pattern), is_for(pattern)) else { return };
        match reach {
            Reach::Exact => host.exact_groups = step(host.exact_groups),
            Reach::Prefix { depth } => step_at(&mut host.prefix_groups, depth.into(), step),
            Reach::Regex { .. } | Reach::Template(_) => {
                let mut other = host.other_groups.take().map(Arc::unwrap_or_clone).unwrap_or_default();
                match reach {
                    Reach::Regex { depth } => step_at(&mut other.regexes, depth.into(), step),
                    Reach::Template(shape) => other.count_template(shape, step),
                    Reach::Exact | Reach::Prefix { .. } => {}
                }
                let is_empty = other.regexes.is_empty() && other.templates.is_empty();
                host.other_groups = (!is_empty).then(|| Arc::new(other));
            }
        }
    }

    pub(super) fn leave_if_empty(&mut self, pattern: &str) {
        let Some(host) = self.find(pattern) else { return };
        if !host.is_empty() {
            return;
        }
        self.free.push_back(host.number);
        self.by_pattern.remove(hash_of_pattern(pattern), is_for(pattern));
        self.count_wildcard(pattern, |count| count - 1);
    }

    fn count_wildcard(&mut self, pattern: &str, step: fn(u32) -> u32) {
        if let Some(suffix) = wildcard_suffix(pattern) {
            step_at(&mut self.wildcards, suffix.split('.').count(), step);
        }
    }
}

fn is_for(pattern: &str) -> impl Fn(&Host) -> bool {
    |host| host.pattern.as_bytes() == pattern.as_bytes()
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
