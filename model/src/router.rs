//! Which route a request belongs to.
//!
//! Precedence is that of the Gateway API HTTPRoute specification, over all matches and not only the most specific
//! path: exact host, longer wildcard, any host; exact path, longest prefix; a method; more header conditions;
//! more query conditions; then `priority`, age and name.
//!
//! All routes of one host and one path form a group. A group is found by the hash of host and path, so a
//! request asks for its exact path and for each prefix of it that is as deep as some prefix of the host,
//! from the longest to the shortest, and takes the first match whose conditions hold. That costs what the
//! path is long, however many routes there are; and a change copies the groups that it touches.

use std::cmp::Ordering;
use std::hash::Hasher;
use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::index::{self, Index};
use crate::resource::Name;
use crate::resource::route::{PathPattern, Route};
use crate::slots::Slot;
use crate::text::Text;
use crate::value::HostPattern;
use conditions::{Asked, Conditions};
use hosts::{Hosts, Reach};
use prefixes::Prefixes;

mod conditions;
pub mod host;
mod hosts;
pub mod path;
mod prefixes;
#[cfg(test)]
mod tests;

/// What routing looks at.
pub struct Request<'a> {
    pub listener: Option<Slot>,
    /// Canonical (see [`host`]); empty if the client named none.
    pub host: &'a str,
    /// Canonical (see [`path`]).
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

/// What decides between routes that are equally specific: the older wins, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    pub created: u64,
    pub name: Name,
}

/// The compiled matcher. Cloning costs nothing; a change costs what it touches.
#[derive(Clone, Default)]
pub struct Router {
    hosts: Hosts,
    groups: Index<Group>,
}

/// All routes of one host and one path. The memory of a configuration with very many routes is mostly these.
#[derive(Clone)]
struct Group {
    host: u32,
    /// Of a group with a single route that asks for nothing more than host and path: the common case.
    first: Slot,
    key: Text,
    /// In order of precedence; absent in the common case.
    ranked: Option<Arc<Vec<Match>>>,
}

#[derive(Clone)]
struct Match {
    route: Slot,
    conditions: Option<Arc<Conditions>>,
}

/// What a group is found by.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The number of the pattern.
    host: u32,
    /// The path as [`prefixes`] tells exact paths and prefixes apart.
    key: &'a str,
    key_hash: u64,
}

impl Router {
    /// Adds a route. `age` tells the age of this and of every route that is in here.
    pub fn insert(&mut self, written: &Route, route: Slot, listeners: &[Slot], age: &dyn Fn(Slot) -> Age) {
        let conditions = Conditions::of(written, listeners).map(Arc::new);
        for pattern in written_hosts(written) {
            let host = self.hosts.enter(pattern);
            for path in written_paths(written) {
                let place = path.at(host);
                let added = Match { route, conditions: conditions.clone() };
                if let Some(group) = self.groups.find_mut(place.hash(), |group| place.is_of(group)) {
                    group.add(added, age);
                } else {
                    let mut group = Group { host, first: route, key: place.key.into(), ranked: None };
                    group.set(vec![added]);
                    self.groups.insert(place.hash(), group);
                    self.hosts.count(pattern, path.reach, |count| count + 1);
                }
            }
        }
    }

    /// Takes out a route; `written` is the form that was inserted.
    pub fn remove(&mut self, written: &Route, route: Slot) {
        for pattern in written_hosts(written) {
            let Some(host) = self.hosts.find(pattern).map(|host| host.number) else { continue };
            for path in written_paths(written) {
                let place = path.at(host);
                let is_it = |group: &Group| place.is_of(group);
                let Some(group) = self.groups.find_mut(place.hash(), is_it) else { continue };
                if group.remove(route) == Left::Nothing {
                    self.groups.remove(place.hash(), is_it);
                    self.hosts.count(pattern, path.reach, |count| count - 1);
                }
            }
            self.hosts.leave_if_empty(pattern);
        }
    }

    /// Whether nothing is kept, neither of routes nor of their hosts.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.hosts.is_empty()
    }

    /// The route that the request belongs to.
    #[must_use]
    pub fn find(&self, request: &Request<'_>) -> Option<Slot> {
        let asked = Asked::new(request);
        let mut prefixes = Prefixes::new(request.path);
        for host in self.hosts.matching(request.host) {
            if host.has(Reach::Exact) {
                let (key, key_hash) = prefixes::exact(request.path);
                if let Some(route) = self.first_match(Place { host: host.number, key, key_hash }, &asked) {
                    return Some(route);
                }
            }
            for (depth, key, key_hash) in prefixes.deepest_first(host.deepest_prefix()) {
                if host.has(Reach::Prefix { depth })
                    && let Some(route) = self.first_match(Place { host: host.number, key, key_hash }, &asked)
                {
                    return Some(route);
                }
            }
        }
        None
    }

    fn first_match(&self, place: Place<'_>, asked: &Asked<'_>) -> Option<Slot> {
        let group = self.groups.find(place.hash(), |group| place.is_of(group))?;
        let Some(ranked) = &group.ranked else { return Some(group.first) };
        let holds = |one: &&Match| one.conditions.as_ref().is_none_or(|conditions| conditions.hold(asked));
        ranked.iter().find(holds).map(|one| one.route)
    }
}

/// The path of a group before its host is known.
struct PathPlace<'a> {
    reach: Reach,
    key: &'a str,
    key_hash: u64,
}

impl<'a> PathPlace<'a> {
    fn at(&self, host: u32) -> Place<'a> {
        Place { host, key: self.key, key_hash: self.key_hash }
    }

    fn exact(path: &'a str) -> Self {
        let (key, key_hash) = prefixes::exact(path);
        Self { reach: Reach::Exact, key, key_hash }
    }

    fn prefix(path: &'a str) -> Self {
        let (depth, key, key_hash) = Prefixes::whole(path);
        Self { reach: Reach::Prefix { depth }, key, key_hash }
    }
}

impl Place<'_> {
    fn is_of(&self, group: &Group) -> bool {
        group.host == self.host && group.key.as_bytes() == self.key.as_bytes()
    }

    fn hash(&self) -> u64 {
        let mut hasher = index::hasher();
        hasher.write_u64(self.key_hash);
        hasher.write_u32(self.host);
        hasher.finish()
    }
}

/// The patterns of a route; the empty one is every host.
fn written_hosts(written: &Route) -> impl Iterator<Item = &str> {
    let every = written.hosts.is_empty().then_some("");
    every.into_iter().chain(written.hosts.iter().map(HostPattern::as_str))
}

/// The paths of a route; every path is the prefix `/`.
fn written_paths(written: &Route) -> impl Iterator<Item = PathPlace<'_>> {
    let every = written.paths.is_empty().then(|| PathPlace::prefix("/"));
    every.into_iter().chain(written.paths.iter().map(|pattern| match pattern {
        PathPattern::Exact(path) => PathPlace::exact(path),
        PathPattern::Prefix(path) => PathPlace::prefix(path),
    }))
}

/// Whether a group still has a match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Something,
    Nothing,
}

impl Group {
    fn add(&mut self, added: Match, age: &dyn Fn(Slot) -> Age) {
        let mut list = self.take();
        list.retain(|other| other.route != added.route);
        let at = list.partition_point(|other| other.precedence(&added, age) == Ordering::Less);
        list.insert(at, added);
        self.set(list);
    }

    fn remove(&mut self, route: Slot) -> Left {
        let mut list = self.take();
        list.retain(|one| one.route != route);
        let left = if list.is_empty() { Left::Nothing } else { Left::Something };
        self.set(list);
        left
    }

    fn take(&mut self) -> Vec<Match> {
        match self.ranked.take() {
            Some(ranked) => Arc::unwrap_or_clone(ranked),
            None => vec![Match { route: self.first, conditions: None }],
        }
    }

    fn set(&mut self, mut list: Vec<Match>) {
        if let [Match { route, conditions: None }] = list[..] {
            self.first = route;
        } else {
            list.shrink_to_fit();
            self.ranked = Some(Arc::new(list));
        }
    }
}

impl Match {
    /// `Less` if it is asked before the other.
    fn precedence(&self, other: &Self, age: &dyn Fn(Slot) -> Age) -> Ordering {
        let specificity = |one: &Self| one.conditions.as_deref().map_or_else(Default::default, Conditions::specificity);
        specificity(other).cmp(&specificity(self)).then_with(|| age(self.route).cmp(&age(other.route)))
    }
}
