//! The regular expressions of a long list of matches, put together by the dozen: a path is read once for each part of the
//! list and not once for each expression.
//!
//! They are made when a change is complete, and parts that are as before are kept. A list that changed since, and a part
//! whose expressions are too large together, are looked through one by one: what is found is the same.

use std::sync::Arc;

use super::group::{Match, PathMatch};
use crate::index::hash_of;
use crate::pattern::{Joint, MAX_JOINED, Pattern};

/// Lists shorter than this are not worth it, and parts of this length that are too large are not cut again.
const FEW: usize = 16;
/// Other parts than the last have at least this length.
const MIN_PART: usize = 32;

/// For one list.
#[derive(Clone)]
pub(super) struct Joined {
    parts: Arc<[Arc<Part>]>,
    /// Tried and too large: not to be tried again with every change.
    too_large: Arc<[Arc<Part>]>,
    is_current: bool,
}

/// Matches that lie next to one another.
struct Part {
    paths: Box<[Arc<PathMatch>]>,
    joint: Option<Joint>,
}

impl Joined {
    /// Whether the list is one for which this is made.
    pub(super) fn is_for(list: &[Match]) -> bool {
        list.len() >= FEW && list.first().is_some_and(|one| regex(one).is_some())
    }

    /// The list changes.
    pub(super) fn outdate(&mut self) {
        self.is_current = false;
    }

    /// For the list, with the parts that are as they were before.
    pub(super) fn of(list: &[Match], before: Option<&Self>) -> Option<Self> {
        let paths = Some(list).filter(|list| Self::is_for(list))?.iter().map(regex).collect::<Option<Vec<_>>>()?;
        let (mut parts, mut too_large) = (Vec::with_capacity(paths.len() / MIN_PART + 1), Vec::new());
        let mut rest = &paths[..];
        while !rest.is_empty() {
            let (here, behind) = rest.split_at(length(rest));
            join(here, before, &mut parts, &mut too_large);
            rest = behind;
        }
        Some(Self { parts: parts.into(), too_large: too_large.into(), is_current: true })
    }

    /// The matches of a list in its order, each with whether its path matches; nothing where that is to be found out.
    /// Those that are known not to match are left out, unless `all` are wanted.
    pub(super) fn each<'r, 'p>(
        joined: Option<&'r Self>,
        list: &'r [Match],
        path: &'p [u8],
        all: bool,
    ) -> impl Iterator<Item = (&'r Match, Option<bool>)> + use<'r, 'p> {
        let parts = joined.filter(|joined| joined.is_current).map_or(&[][..], |joined| &joined.parts);
        let mut rest = list;
        let known = parts.iter().map(move |part| {
            let (here, behind) = rest.split_at(part.paths.len());
            rest = behind;
            (here, part.joint.as_ref())
        });
        let whole = parts.is_empty().then_some((list, None));
        known.chain(whole).flat_map(move |(here, joint)| {
            let bits = joint.map(|joint| joint.matches(path));
            let here = if bits == Some(0) && !all { &[][..] } else { here };
            here.iter().enumerate().map(move |(at, one)| (one, bits.map(|bits| bits >> at & 1 == 1)))
        })
    }
}

fn regex(one: &Match) -> Option<Arc<PathMatch>> {
    one.path.clone().filter(|path| matches!(**path, PathMatch::Regex(_)))
}

/// How long the first part is. What stands in the list decides, so that one match more or less changes the parts next to it
/// and leaves those behind as they are.
fn length(paths: &[Arc<PathMatch>]) -> usize {
    let is_last =
        |path: &Arc<PathMatch>| pattern(path).is_some_and(|pattern| hash_of(pattern.as_str()).is_multiple_of(16));
    let most = paths.len().min(MAX_JOINED);
    (MIN_PART..most).find(|length| is_last(&paths[length - 1])).unwrap_or(most)
}

/// Makes one part, or smaller ones where it would be too large.
fn join(paths: &[Arc<PathMatch>], before: Option<&Joined>, parts: &mut Vec<Arc<Part>>, too_large: &mut Vec<Arc<Part>>) {
    let is_same = |part: &&Arc<Part>| part.paths.len() == paths.len() && part.paths.iter().zip(paths).all(is_one);
    if let Some(part) = before.and_then(|before| before.parts.iter().find(is_same)) {
        parts.push(Arc::clone(part));
        return;
    }
    let part = before.and_then(|before| before.too_large.iter().find(is_same)).cloned().unwrap_or_else(|| {
        let joint = Joint::compile(paths.iter().filter_map(pattern));
        Arc::new(Part { paths: paths.into(), joint })
    });
    if part.joint.is_some() || paths.len() <= FEW {
        parts.push(part);
    } else {
        too_large.push(part);
        let (first, second) = paths.split_at(paths.len() / 2);
        join(first, before, parts, too_large);
        join(second, before, parts, too_large);
    }
}

fn is_one((one, other): (&Arc<PathMatch>, &Arc<PathMatch>)) -> bool {
    Arc::ptr_eq(one, other)
}

fn pattern(path: &Arc<PathMatch>) -> Option<&Pattern> {
    match &**path {
        PathMatch::Regex(pattern) => Some(pattern),
        PathMatch::Template(_) => None,
    }
}
