//! Where in the router a path is found: by its whole, by a prefix, by the shape of a template.

use std::borrow::Cow;
use std::hash::Hasher;

use super::hosts::Reach;
use super::prefixes::{self, Prefixes};
use super::template::Shape;
use crate::index;
use crate::pattern;
use crate::resource::route::{PathPattern, Route};

/// In front of the keys of groups of regular expressions; no path holds it.
const REGEX_MARK: char = '?';

/// What a group is found by.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The number of the pattern of the host.
    pub(super) host: u32,
    pub(super) key: Key<'a>,
    pub(super) key_hash: u64,
}

/// The path of a group. The four are told apart by their text alone: see [`Key::to_text`].
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    Exact(&'a str),
    /// Without the slash in front.
    Prefix(&'a str),
    /// Of regular expressions that begin with these segments.
    Regex(&'a str),
    /// The path, or the template itself.
    Template(Shape, &'a str),
}

impl Place<'_> {
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = index::hasher();
        hasher.write_u64(self.key_hash);
        hasher.write_u32(match self.key {
            Key::Regex(_) => !self.host,
            Key::Exact(_) | Key::Prefix(_) | Key::Template(..) => self.host,
        });
        hasher.finish()
    }
}

impl Key<'_> {
    /// How it is kept: exact paths and templates begin with a slash, and templates hold braces, which paths never do.
    pub(super) fn to_text(self) -> Cow<'static, str> {
        Cow::Owned(match self {
            Self::Exact(path) | Self::Prefix(path) => path.to_owned(),
            Self::Regex(lead) => format!("{REGEX_MARK}{lead}"),
            Self::Template(shape, path) => shape.key(path),
        })
    }

    pub(super) fn is(self, text: &[u8]) -> bool {
        match self {
            Self::Exact(path) | Self::Prefix(path) => text == path.as_bytes(),
            Self::Regex(lead) => text.strip_prefix(&[REGEX_MARK as u8]) == Some(lead.as_bytes()),
            Self::Template(shape, path) => shape.is_key(text, path),
        }
    }
}

/// One path of a route as it is written.
pub(super) struct WrittenPath<'a> {
    pub(super) index: usize,
    /// Nothing for a route without paths.
    pub(super) pattern: Option<&'a PathPattern>,
    pub(super) reach: Reach,
    /// The path that it is found by.
    path: Cow<'a, str>,
}

impl<'a> WrittenPath<'a> {
    /// The paths of a route; every path is the prefix `/`.
    pub(super) fn all(written: &'a Route) -> Vec<Self> {
        if written.paths.is_empty() {
            return vec![Self { index: 0, pattern: None, reach: Reach::Prefix { depth: 0 }, path: "/".into() }];
        }
        written.paths.iter().enumerate().map(|(index, pattern)| Self::of(index, pattern)).collect()
    }

    fn of(index: usize, pattern: &'a PathPattern) -> Self {
        let (reach, path) = match pattern {
            PathPattern::Exact(path) => (Reach::Exact, Cow::from(path)),
            PathPattern::Prefix(path) => (Reach::Prefix { depth: Prefixes::whole(path).0 }, path.into()),
            PathPattern::Template(template) => (Reach::Template(Shape::of(template)), template.into()),
            PathPattern::Regex(regex) => {
                let lead = fixed_segments(regex);
                (Reach::Regex { depth: Prefixes::whole(&lead).0 }, lead.into())
            }
        };
        Self { index, pattern: Some(pattern), reach, path }
    }

    pub(super) fn at(&self, host: u32) -> Place<'_> {
        let (key, key_hash) = match self.reach {
            Reach::Exact => {
                let (key, hash) = prefixes::exact(&self.path);
                (Key::Exact(key), hash)
            }
            Reach::Prefix { .. } => {
                let (_, key, hash) = Prefixes::whole(&self.path);
                (Key::Prefix(key), hash)
            }
            Reach::Regex { .. } => {
                let (_, key, hash) = Prefixes::whole(&self.path);
                (Key::Regex(key), hash)
            }
            Reach::Template(shape) => {
                let hash = shape.hash(&self.path).expect("what stands at the names of a template is not empty");
                (Key::Template(shape, &self.path), hash)
            }
        };
        Place { host, key, key_hash }
    }
}

/// The whole segments that every path begins with which a regular expression matches, as a path.
fn fixed_segments(regex: &str) -> String {
    let lead = pattern::lead(regex);
    let mut whole = String::from("/");
    let mut segments = lead.text.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        // The last one may go on.
        if segment.is_empty() || (segments.peek().is_none() && !lead.is_whole) {
            break;
        }
        if whole.len() > 1 {
            whole.push('/');
        }
        whole.push_str(segment);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_hang_below_their_fixed_segments() {
        for (regex, path) in [
            ("/orders/[0-9]+", "/orders"),
            ("/orders/v[0-9]+/x", "/orders"),
            ("/a/b/c", "/a/b/c"),
            ("/a/b/", "/a/b"),
            ("/a//b.*", "/a"),
            ("/.*", "/"),
            (".*", "/"),
            ("/a", "/a"),
        ] {
            assert_eq!(fixed_segments(regex), path, "{regex}");
        }
    }
}
