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
use std::sync::Arc;

use http::{HeaderMap, Method};
use smallvec::SmallVec;

use crate::index::{self, Index};
use crate::resource::Name;
use crate::resource::route::{PathPattern, Route};
use crate::slots::{Places, Slot};
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
    groups: Places<Group>,
    by_place: Index,
}

/// All routes of one host and one path. The memory of a configuration with very many routes is mostly these.
#[derive(Clone)]
struct Group {
    host: Slot,
    reach: Reach,
    /// Of a prefix without a slash at its end: empty for the root.
    path: Box<str>,
    matches: Matches,
}

#[derive(Clone)]
enum Matches {
    /// A single route that asks for nothing more than host and path: the common case, without a list.
    One(Slot),
    /// In order of precedence.
    Ranked(Box<[Match]>),
}

#[derive(Clone)]
struct Match {
    route: Slot,
    conditions: Option<Arc<Conditions>>,
}

/// Where a group is: part of what it is found by.
#[derive(Clone, Copy)]
struct Place<'a> {
    host: Slot,
    reach: Reach,
    path: &'a str,
    path_hash: u64,
}

impl Router {
    /// Adds a route. `age` tells the age of this and of every route that is in here.
    pub fn insert(&mut self, written: &Route, route: Slot, listeners: &[Slot], age: &dyn Fn(Slot) -> Age) {
        let conditions = Conditions::of(written, listeners).map(Arc::new);
        for host in patterns(&written.hosts, |host| host.as_str()) {
            let host = self.hosts.enter(host);
            for path in written_places(written) {
                let place = path.at(host);
                let added = Match { route, conditions: conditions.clone() };
                match self.find_group(place) {
                    Some((number, _)) => {
                        let group = self.groups.get_mut(number).expect("it was found");
                        group.matches.add(added, age);
                    }
                    None => {
                        let matches = Matches::of(vec![added]);
                        let group = Group { host, reach: place.reach, path: place.path.into(), matches };
                        let number = self.groups.add(Arc::new(group));
                        self.by_place.insert(place.hash(), number);
                        self.hosts.count(host, place.reach, |count| count + 1);
                    }
                }
            }
        }
    }

    /// Takes out a route; `written` is the form that was inserted.
    pub fn remove(&mut self, written: &Route, route: Slot) {
        for pattern in patterns(&written.hosts, |host| host.as_str()) {
            let Some(host) = self.hosts.find(pattern) else { continue };
            for path in written_places(written) {
                let place = path.at(host);
                let Some((number, _)) = self.find_group(place) else { continue };
                let group = self.groups.get_mut(number).expect("it was found");
                if group.matches.remove(route) == Left::Nothing {
                    self.groups.take(number);
                    self.by_place.remove(place.hash(), number);
                    self.hosts.count(host, place.reach, |count| count - 1);
                }
            }
            self.hosts.leave_if_empty(host);
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
        for (number, host) in self.hosts.matching(request.host) {
            if host.has(Reach::Exact) {
                let place = Place {
                    host: number,
                    reach: Reach::Exact,
                    path: request.path,
                    path_hash: index::hash_of(request.path),
                };
                if let Some(route) = self.first_match(place, &asked) {
                    return Some(route);
                }
            }
            for (depth, path, path_hash) in prefixes.deepest_first(host.deepest_prefix()) {
                let reach = Reach::Prefix { depth };
                if host.has(reach)
                    && let Some(route) = self.first_match(Place { host: number, reach, path, path_hash }, &asked)
                {
                    return Some(route);
                }
            }
        }
        None
    }

    fn first_match(&self, place: Place<'_>, asked: &Asked<'_>) -> Option<Slot> {
        match &self.find_group(place)?.1.matches {
            Matches::One(route) => Some(*route),
            Matches::Ranked(matches) => matches
                .iter()
                .find(|one| one.conditions.as_ref().is_none_or(|conditions| conditions.hold(asked)))
                .map(|one| one.route),
        }
    }

    fn find_group(&self, place: Place<'_>) -> Option<(Slot, &Group)> {
        self.by_place
            .find(place.hash())
            .filter_map(|number| Some((number, &**self.groups.get(number)?)))
            .find(|(_, group)| group.host == place.host && group.reach == place.reach && *group.path == *place.path)
    }
}

/// The path of a group before its host is known.
struct PathPlace<'a> {
    reach: Reach,
    path: &'a str,
    path_hash: u64,
}

impl<'a> PathPlace<'a> {
    fn at(&self, host: Slot) -> Place<'a> {
        let Self { reach, path, path_hash } = *self;
        Place { host, reach, path, path_hash }
    }

    fn of(pattern: &'a PathPattern) -> Self {
        match pattern {
            PathPattern::Exact(path) => Self { reach: Reach::Exact, path, path_hash: index::hash_of(path) },
            PathPattern::Prefix(path) => {
                let (depth, path, path_hash) = Prefixes::whole(path);
                Self { reach: Reach::Prefix { depth }, path, path_hash }
            }
        }
    }
}

impl Place<'_> {
    fn hash(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = index::hasher();
        hasher.write_u64(self.path_hash);
        hasher.write_u64(u64::from(self.host) << 1 | u64::from(self.reach == Reach::Exact));
        hasher.finish()
    }
}

/// What is written down, or the empty pattern that stands for everything.
fn patterns<T>(written: &[T], text: fn(&T) -> &str) -> SmallVec<[&str; 1]> {
    if written.is_empty() { SmallVec::from_elem("", 1) } else { written.iter().map(text).collect() }
}

/// The paths of a route; every path is the prefix `/`.
fn written_places(written: &Route) -> SmallVec<[PathPlace<'_>; 1]> {
    if written.paths.is_empty() {
        let (depth, path, path_hash) = Prefixes::whole("/");
        return smallvec::smallvec![PathPlace { reach: Reach::Prefix { depth }, path, path_hash }];
    }
    written.paths.iter().map(PathPlace::of).collect()
}

/// Whether a group still has a match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Something,
    Nothing,
}

impl Matches {
    fn of(mut list: Vec<Match>) -> Self {
        match &list[..] {
            [Match { route, conditions: None }] => Self::One(*route),
            _ => {
                list.shrink_to_fit();
                Self::Ranked(list.into())
            }
        }
    }

    fn take_list(&mut self) -> Vec<Match> {
        match self {
            Self::One(route) => vec![Match { route: *route, conditions: None }],
            Self::Ranked(list) => std::mem::take(list).into_vec(),
        }
    }

    fn add(&mut self, added: Match, age: &dyn Fn(Slot) -> Age) {
        let mut list = self.take_list();
        list.retain(|other| other.route != added.route);
        let at = list.partition_point(|other| other.precedence(&added, age) == Ordering::Less);
        list.insert(at, added);
        *self = Self::of(list);
    }

    fn remove(&mut self, route: Slot) -> Left {
        let mut list = self.take_list();
        list.retain(|one| one.route != route);
        let left = if list.is_empty() { Left::Nothing } else { Left::Something };
        *self = Self::of(list);
        left
    }
}

impl Match {
    /// `Less` if it is asked before the other.
    fn precedence(&self, other: &Self, age: &dyn Fn(Slot) -> Age) -> Ordering {
        let specificity = |one: &Self| one.conditions.as_deref().map_or_else(Default::default, Conditions::specificity);
        specificity(other).cmp(&specificity(self)).then_with(|| age(self.route).cmp(&age(other.route)))
    }
}
