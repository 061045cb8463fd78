//! What routes are to one another: which two nothing sets apart, and which take all that another could get.
//!
//! Only routes of one group can be either: what is less specific in host or path comes later, and what is more specific
//! leaves something over. How many routes are compared is bounded, so that a change costs what it touches; beyond that,
//! some that could be told stay untold.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::conditions::Conditions;
use super::group::{Group, Match, PathMatch};
use super::places::WrittenPath;
use super::{Age, Router, written_hosts};
use crate::resource::route::Route;
use crate::slots::Slot;

/// With how many others of a group a route is compared.
const LOOKED_AT: usize = 1_000;

/// How many comparisons of routes are left.
pub(crate) struct Patience(pub(crate) usize);

impl Patience {
    fn wears(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

/// A route at one of its places.
struct Own<'a> {
    host: &'a str,
    path: &'a WrittenPath<'a>,
    group: &'a Group,
    /// Nothing where it is alone and asks for nothing.
    own: Option<&'a Match>,
}

/// Two routes that match the same requests at one place, and neither comes first.
pub(crate) struct Tie {
    pub(crate) other: Slot,
    /// Empty for every host.
    pub(crate) host: String,
    /// Place in the list of paths, unless the route has none.
    pub(crate) path: Option<usize>,
}

impl Router {
    /// The routes that match the same requests as this one, are as specific, and are as old.
    pub(crate) fn ties(&self, written: &Route, route: Slot, age: &dyn Fn(Slot) -> Age) -> Vec<Tie> {
        let mut ties: Vec<Tie> = Vec::new();
        self.each_own(written, route, &mut |Own { host, path, group, own }| {
            let Some(own) = own else { return true };
            let list = group.list_of(own);
            let Some(at) = list.iter().position(|one| one.is_same_path(own) && one.route == route) else { return true };
            let created = age(route).created;
            let is_close = |one: &&Match| {
                own.is_as_specific(one) && (one.conditions.is_some() || age(one.route).created == created)
            };
            let before = list[..at].iter().rev().take(LOOKED_AT).take_while(is_close);
            let after = list[at + 1..].iter().take(LOOKED_AT).take_while(is_close);
            for other in before.chain(after).filter(|one| one.route != route && one.is_same_path(own)) {
                if own.is_tied_with(other) && ties.iter().all(|tie| tie.other != other.route) {
                    let path = path.pattern.map(|_| path.index);
                    ties.push(Tie { other: other.route, host: host.to_owned(), path });
                }
            }
            true
        });
        ties
    }

    /// The routes that take every request that this one could get; nothing if something is left for it.
    pub(crate) fn covering(&self, written: &Route, route: Slot, patience: &mut Patience) -> Option<BTreeSet<Slot>> {
        let mut covering = BTreeSet::new();
        let mut is_covered = true;
        self.each_own(written, route, &mut |Own { group, own, .. }| {
            let Some(own) = own else {
                is_covered = false;
                return false;
            };
            let mut before: Vec<&Match> = Vec::new();
            group.each_list_like(own, &mut |list| {
                let ahead = list.iter().take_while(|one| {
                    one.route != route && one.precedence(own) != Ordering::Greater && patience.wears()
                });
                before.extend(ahead.take(LOOKED_AT).filter(|one| one.covers_fields_of(own)));
            });
            is_covered = own.each_sort(&mut |method, listener| {
                let covers = before.iter().find(|one| one.takes(method, listener));
                covers.is_some_and(|one| {
                    covering.insert(one.route);
                    true
                })
            });
            is_covered
        });
        is_covered.then_some(covering).filter(|covering| !covering.is_empty())
    }

    /// Routes of which this one could take everything.
    pub(crate) fn behind(&self, written: &Route, route: Slot, patience: &mut Patience) -> BTreeSet<Slot> {
        let mut behind = BTreeSet::new();
        self.each_own(written, route, &mut |Own { group, own, .. }| {
            let Some(own) = own else { return true };
            let mut left = LOOKED_AT;
            group.each_match(&mut |one| {
                left -= 1;
                if one.route != route && own.precedence(one) != Ordering::Greater && own.covers_fields_of(one) {
                    behind.insert(one.route);
                }
                left > 0 && patience.wears()
            });
            true
        });
        behind
    }

    /// Shows the route at each of its places, until `visit` has seen enough.
    fn each_own(&self, written: &Route, route: Slot, visit: &mut dyn FnMut(Own<'_>) -> bool) {
        let paths = WrittenPath::all(written);
        for pattern in written_hosts(written) {
            let Some(host) = self.hosts.find(pattern).map(|host| host.number) else { continue };
            for path in &paths {
                let place = path.at(host);
                let Some(group) = self.groups.find(place.hash(), |group| place.is_of(group)) else { continue };
                let text = path.pattern.map(|pattern| pattern.as_str());
                let own = group.own(super::conditions::written_exact_values(written), |one| {
                    let is_path = match one.path.as_deref() {
                        Some(PathMatch::Regex(regex)) => Some(regex.as_str()) == text,
                        Some(PathMatch::Template(_)) | None => true,
                    };
                    one.route == route && is_path
                });
                if !visit(Own { host: pattern, path, group, own }) {
                    return;
                }
            }
        }
    }
}

impl Match {
    /// Whether both are for the same paths; they are at one place.
    fn is_same_path(&self, other: &Self) -> bool {
        match (self.path.as_deref(), other.path.as_deref()) {
            (Some(PathMatch::Regex(one)), Some(PathMatch::Regex(other))) => one.as_str() == other.as_str(),
            _ => true,
        }
    }

    fn is_as_specific(&self, other: &Self) -> bool {
        Conditions::are_as_specific(self.conditions.as_deref(), other.conditions.as_deref())
    }

    fn is_tied_with(&self, other: &Self) -> bool {
        match (&self.conditions, &other.conditions) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is_tied_with(other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether it holds wherever the other does, as far as that depends on path, fields and sources.
    fn covers_fields_of(&self, other: &Self) -> bool {
        self.is_same_path(other)
            && self
                .conditions
                .as_ref()
                .is_none_or(|conditions| conditions.covers_fields_of(other.conditions.as_deref()))
    }

    /// Shows every method and listener that it is for, until `visit` says no.
    fn each_sort(&self, visit: &mut dyn FnMut(Option<&http::Method>, Option<Slot>) -> bool) -> bool {
        match &self.conditions {
            Some(conditions) => conditions.each_sort(visit),
            None => visit(None, None),
        }
    }

    /// Whether it takes what comes with the method (nothing: with any) at the listener (nothing: at every one).
    fn takes(&self, method: Option<&http::Method>, listener: Option<Slot>) -> bool {
        self.conditions.as_ref().is_none_or(|conditions| conditions.takes(method, listener))
    }
}
