//! All routes of one host and one path, in order of precedence.
//!
//! The memory of a configuration with very many routes is mostly groups with a single route that asks for nothing more
//! than host and path, so these are kept short. A few routes are a list; many are a [`Split`].

use std::cmp::Ordering;
use std::sync::Arc;

use super::asked::Asked;
use super::conditions::{Asks, Conditions, Failure};
use super::joined::Joined;
use super::split::{self, Split};
use super::template::Template;
use super::{Age, Found, Observer};
use crate::pattern::Pattern;
use crate::slots::Slot;
use crate::text::Text;

/// A longer list is split.
const FEW: usize = 8;

/// See the head of this file.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) host: u32,
    /// Of a group with a single route that asks for nothing more than host and path.
    first: Slot,
    pub(super) key: Text,
    /// Absent in that case.
    members: Option<Arc<Members>>,
}

#[derive(Clone)]
enum Members {
    /// In order of precedence.
    Few(Vec<Match>),
    Many(Split),
}

/// One path of one route, and what it asks for beyond host and place.
#[derive(Clone)]
pub(super) struct Match {
    pub(super) route: Slot,
    pub(super) conditions: Option<Arc<Conditions>>,
    pub(super) path: Option<Arc<PathMatch>>,
}

/// What has to be looked at in a path beyond the place where it was found.
pub(super) enum PathMatch {
    /// Nothing, but there are names in it.
    Template(Template),
    Regex(Box<Pattern>),
}

/// Whether a group still has a match.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Something,
    Nothing,
}

impl Group {
    pub(super) fn new(host: u32, key: Text, only: Match) -> Self {
        let mut group = Self { host, first: only.route, key, members: None };
        group.set(Members::Few(vec![only]));
        group
    }

    pub(super) fn add(&mut self, added: Match, age: &dyn Fn(Slot) -> Age) {
        let members = match self.take() {
            Members::Few(mut list) => {
                added.put_into(&mut list, age);
                if list.len() <= FEW {
                    Members::Few(list)
                } else {
                    let mut split = Split::default();
                    list.into_iter().for_each(|one| split.insert(one, age));
                    Members::Many(split)
                }
            }
            Members::Many(mut split) => {
                split.insert(added, age);
                Members::Many(split)
            }
        };
        self.set(members);
    }

    /// Takes a route out, which asks for these exact values.
    pub(super) fn remove<'a>(&mut self, exact: impl Iterator<Item = (Asks<'a>, &'a [u8])>, route: Slot) -> Left {
        let members = match self.take() {
            Members::Few(mut list) => {
                list.retain(|one| one.route != route);
                Members::Few(list)
            }
            Members::Many(mut split) => {
                split.remove(exact, route);
                if split.len() <= FEW / 2 { Members::Few(split.to_list()) } else { Members::Many(split) }
            }
        };
        let left =
            if matches!(&members, Members::Few(list) if list.is_empty()) { Left::Nothing } else { Left::Something };
        self.set(members);
        left
    }

    fn take(&mut self) -> Members {
        match self.members.take() {
            Some(members) => Arc::unwrap_or_clone(members),
            None => Members::Few(vec![Match { route: self.first, conditions: None, path: None }]),
        }
    }

    fn set(&mut self, mut members: Members) {
        if let Members::Few(list) = &mut members {
            if let [Match { route, conditions: None, path: None }] = list[..] {
                self.first = route;
                return;
            }
            list.shrink_to_fit();
        }
        self.members = Some(Arc::new(members));
    }

    /// Whether nothing is left to be made for it.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.members.as_deref(), Some(Members::Many(split)) if !split.is_settled())
    }

    pub(super) fn settle(&mut self) {
        if let Some(Members::Many(split)) = self.members.as_mut().map(Arc::make_mut) {
            split.settle();
        }
    }

    /// How many matches there are.
    pub(super) fn len(&self) -> usize {
        match self.members.as_deref() {
            None => 1,
            Some(Members::Few(list)) => list.len(),
            Some(Members::Many(split)) => split.len(),
        }
    }

    /// The first match whose conditions hold.
    pub(super) fn find<'r, O: Observer<'r>>(&'r self, asked: &Asked<'_>, observer: &mut O) -> Option<Found<'r>> {
        let mut best = None;
        match self.members.as_deref() {
            None => {
                observer.candidate(self.first, None, Ok(()));
                return Some(Found { route: self.first, path: None });
            }
            Some(Members::Few(list)) => look_through(list, None, asked, observer, &mut best),
            Some(Members::Many(split)) => {
                split.visit(asked, |list, joined| look_through(list, joined, asked, observer, &mut best));
            }
        }
        best.map(|one: &Match| Found { route: one.route, path: one.path.as_deref() })
    }
}

/// What routes are to one another: see [`super::rivals`]. A route that asks for nothing and is alone has no rivals, so that
/// it is not shown.
impl Group {
    /// The match that `is_own`, of a route that asks for these exact values.
    pub(super) fn own<'a>(
        &self,
        exact: impl Iterator<Item = (Asks<'a>, &'a [u8])>,
        is_own: impl Fn(&Match) -> bool,
    ) -> Option<&Match> {
        let list = match self.members.as_deref()? {
            Members::Few(list) => list,
            Members::Many(split) => split.list_of(exact),
        };
        list.iter().find(|one| is_own(one))
    }

    /// The list in which a match of this group is.
    pub(super) fn list_of(&self, own: &Match) -> &[Match] {
        match self.members.as_deref() {
            None => &[],
            Some(Members::Few(list)) => list,
            Some(Members::Many(split)) => split.list_of(own.exact_values()),
        }
    }

    /// The lists in which a match can be that holds wherever `own` does.
    pub(super) fn each_list_like<'r>(&'r self, own: &Match, visit: &mut impl FnMut(&'r [Match])) {
        match self.members.as_deref() {
            None => {}
            Some(Members::Few(list)) => visit(list),
            Some(Members::Many(split)) => split.visit(own, |list, _| visit(list)),
        }
    }

    /// Every match, until `visit` has seen enough.
    pub(super) fn each_match<'r>(&'r self, visit: &mut impl FnMut(&'r Match) -> bool) {
        match self.members.as_deref() {
            None => {}
            Some(Members::Few(list)) => _ = list.iter().all(visit),
            Some(Members::Many(split)) => _ = split.each_match(visit),
        }
    }
}

/// Makes `best` the first match of a list whose conditions hold, if it is before that.
fn look_through<'r, O: Observer<'r>>(
    list: &'r [Match],
    joined: Option<&'r Joined>,
    asked: &Asked<'_>,
    observer: &mut O,
    best: &mut Option<&'r Match>,
) {
    for (one, fits) in Joined::each(joined, list, asked.request.path.as_bytes(), O::SEES_ALL) {
        let is_before = best.is_none_or(|best| one.precedence(best) == Ordering::Less);
        if !is_before && !O::SEES_ALL {
            return;
        }
        let verdict = one.check(asked, fits);
        observer.candidate(one.route, Some(one), verdict);
        if verdict.is_ok() && is_before {
            *best = Some(one);
        }
    }
}

impl Match {
    /// `Less` if it is asked before the other, as far as that depends on more than age.
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        Conditions::precedence(self.conditions.as_deref(), other.conditions.as_deref())
    }

    pub(super) fn exact_values(&self) -> impl Iterator<Item = (Asks<'_>, &[u8])> {
        self.conditions.iter().flat_map(|conditions| conditions.exact_values())
    }

    /// Puts it into a list at its place, instead of what the same route has there for the same path.
    pub(super) fn put_into(self, list: &mut Vec<Self>, age: &dyn Fn(Slot) -> Age) {
        list.retain(|other| !self.replaces(other));
        let at = list.partition_point(|other| split::is_before(other, &self, age));
        list.insert(at, self);
    }

    fn replaces(&self, other: &Self) -> bool {
        let is_other_path = match (self.path.as_deref(), other.path.as_deref()) {
            (Some(PathMatch::Regex(one)), Some(PathMatch::Regex(other))) => one.as_str() != other.as_str(),
            _ => false,
        };
        self.route == other.route && !is_other_path
    }

    /// `fits` tells whether its path matches, if that is known.
    fn check(&self, asked: &Asked<'_>, fits: Option<bool>) -> Result<(), Failure<'_>> {
        if let Some(PathMatch::Regex(pattern)) = self.path.as_deref()
            && !fits.unwrap_or_else(|| pattern.is_match(asked.request.path.as_bytes()))
        {
            return Err(Failure::Path);
        }
        self.conditions.as_ref().map_or(Ok(()), |conditions| conditions.check(asked))
    }
}
