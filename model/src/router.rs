//! Which route a request belongs to.
//!
//! Precedence is that of the Gateway API HTTPRoute specification, over all matches and not only the most specific
//! path. In this order: exact host, longer wildcard, any host; exact path; the longer fixed beginning of a path, in
//! whole segments, and with the same one a regular expression before a template before a prefix (of two templates the
//! one whose fixed segments are further to the left); a method; more header conditions; more query conditions;
//! sources; listeners; then `priority`, age and name.
//!
//! All routes of one host and one path form a [`group`]. A group is found by the hash of host and path, so a request
//! asks for its exact path, and for each beginning of it that is as deep as something of the host, from the longest to the
//! shortest, and takes the first match whose conditions hold. That costs what the path is long, however many routes
//! there are; and a change copies the groups that it touches. Regular expressions that begin alike have to be looked at all
//! the same; where there are many, a path is read once for dozens of them ([`joined`]).

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use http::Method;

use crate::fields::Fields;
use crate::index::Index;
use crate::pattern::Pattern;
use crate::problem::Fault;
use crate::resource::Name;
use crate::resource::route::{PathPattern, Route};
use crate::slots::Slot;
use crate::value::HostPattern;
use asked::Asked;
use conditions::{Conditions, Failure};
use group::{Group, Left, Match, PathMatch};
use hosts::{Host, Hosts, Reach};
use places::{Key, Place, WrittenPath};
use prefixes::Prefixes;
use template::Template;

mod asked;
mod conditions;
pub mod explain;
mod group;
pub mod host;
mod hosts;
mod joined;
pub mod path;
mod places;
mod prefixes;
pub(crate) mod rivals;
mod split;
pub(crate) mod template;
#[cfg(test)]
mod tests;

/// What routing looks at.
pub struct Request<'a> {
    pub listener: Option<Slot>,
    /// The address of the client.
    pub source: Option<IpAddr>,
    /// Canonical (see [`host`]); empty if the client named none.
    pub host: &'a str,
    /// Canonical (see [`path`]).
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a Fields,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

/// The route that a request belongs to.
#[derive(Clone, Copy)]
pub struct Found<'r> {
    pub route: Slot,
    path: Option<&'r PathMatch>,
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
    /// Hashes of groups that are not settled.
    unsettled: Vec<u64>,
}

/// Looks on while a route is looked for.
trait Observer<'r> {
    /// Whether the search goes on when the route is found.
    const SEES_ALL: bool;

    /// Before the candidates of a group.
    fn enter(&mut self, host: &'r Host, group: &'r Group);

    /// One route whose place the request matches, and whether its conditions hold; without them there may be no match.
    fn candidate(&mut self, route: Slot, one: Option<&'r Match>, verdict: Result<(), Failure<'r>>);
}

/// For requests: nobody looks on.
struct Nobody;

impl<'r> Observer<'r> for Nobody {
    const SEES_ALL: bool = false;

    fn enter(&mut self, _: &'r Host, _: &'r Group) {}

    fn candidate(&mut self, _: Slot, _: Option<&'r Match>, _: Result<(), Failure<'r>>) {}
}

impl<'r> Found<'r> {
    /// What stands at the names of the template, or in the named groups of the regular expression, that matched.
    /// `path` is that of the request.
    #[must_use]
    pub fn captures(&self, path: &str) -> Vec<(&'r str, Range<usize>)> {
        match self.path {
            None => Vec::new(),
            Some(PathMatch::Template(template)) => template.captures(path),
            Some(PathMatch::Regex(pattern)) => pattern.groups(path),
        }
    }
}

impl Router {
    /// Adds a route, or says what in it cannot be compiled. `age` tells the age of this and of every route that is in
    /// here.
    pub fn insert(
        &mut self,
        written: &Route,
        route: Slot,
        listeners: &[Slot],
        age: &dyn Fn(Slot) -> Age,
    ) -> Result<(), Vec<Fault>> {
        let conditions = Conditions::of(written, listeners, &|| age(route))?.map(Arc::new);
        let paths = WrittenPath::all(written);
        let matches = compiled_paths(&paths)?;
        for pattern in written_hosts(written) {
            let host = self.hosts.enter(pattern);
            for (path, compiled) in paths.iter().zip(&matches) {
                let place = path.at(host);
                let added = Match { route, conditions: conditions.clone(), path: compiled.clone() };
                if let Some(group) = self.groups.find_mut(place.hash(), |group| place.is_of(group)) {
                    let was_settled = group.is_settled();
                    group.add(added, age);
                    if was_settled && !group.is_settled() {
                        self.unsettled.push(place.hash());
                    }
                } else {
                    self.groups.insert(place.hash(), Group::new(host, (&*place.key.to_text()).into(), added));
                    self.hosts.count(pattern, path.reach, |count| count + 1);
                }
            }
        }
        Ok(())
    }

    /// Takes out a route; `written` is the form that was inserted.
    pub fn remove(&mut self, written: &Route, route: Slot) {
        let paths = WrittenPath::all(written);
        for pattern in written_hosts(written) {
            let Some(host) = self.hosts.find(pattern).map(|host| host.number) else { continue };
            for path in &paths {
                let place = path.at(host);
                let is_it = |group: &Group| place.is_of(group);
                let Some(group) = self.groups.find_mut(place.hash(), is_it) else { continue };
                if group.remove(conditions::written_exact_values(written), route) == Left::Nothing {
                    self.groups.remove(place.hash(), is_it);
                    self.hosts.count(pattern, path.reach, |count| count - 1);
                } else if !group.is_settled() {
                    self.unsettled.push(place.hash());
                }
            }
            self.hosts.leave_if_empty(pattern);
        }
    }

    /// Makes what is worth its cost only once all of a change is here. Nothing that is found depends on it.
    pub fn settle(&mut self) {
        for hash in std::mem::take(&mut self.unsettled) {
            while let Some(group) = self.groups.find_mut(hash, |group| !group.is_settled()) {
                group.settle();
            }
        }
    }

    /// Whether nothing is kept, neither of routes nor of their hosts.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.hosts.is_empty()
    }

    /// The route that the request belongs to.
    #[must_use]
    pub fn find(&self, request: &Request<'_>) -> Option<Found<'_>> {
        self.walk(request, &mut Nobody)
    }

    /// Looks at the groups that can hold the route, the most specific first.
    fn walk<'r, O: Observer<'r>>(&'r self, request: &Request<'_>, observer: &mut O) -> Option<Found<'r>> {
        let asked = Asked::new(request);
        let mut prefixes = Prefixes::new(request.path);
        let mut found = None;
        for host in self.hosts.matching(request.host) {
            let is_over = each_place(host, &mut prefixes, request.path, |key, key_hash| {
                let place = Place { host: host.number, key, key_hash };
                let Some(group) = self.groups.find(place.hash(), |group| place.is_of(group)) else { return false };
                observer.enter(host, group);
                found = found.or(group.find(&asked, observer));
                found.is_some() && !O::SEES_ALL
            });
            if is_over {
                break;
            }
        }
        found
    }
}

/// The places of one host where a route for the path can be, the most specific first, until `visit` has had enough.
fn each_place(
    host: &Host,
    prefixes: &mut Prefixes<'_>,
    path: &str,
    mut visit: impl FnMut(Key<'_>, u64) -> bool,
) -> bool {
    if host.has(Reach::Exact) {
        let (key, hash) = prefixes::exact(path);
        if visit(Key::Exact(key), hash) {
            return true;
        }
    }
    let shapes = host.templates();
    let segments = if shapes.is_empty() { 0 } else { template::segments(path).count() };
    let mut shapes = shapes.iter().map(|(shape, _)| *shape).filter(|shape| shape.segments() == segments).peekable();
    for (depth, key, hash) in prefixes.deepest_first(host.deepest()) {
        if host.has(Reach::Regex { depth }) && visit(Key::Regex(key), hash) {
            return true;
        }
        while let Some(shape) = shapes.next_if(|shape| shape.lead() >= usize::from(depth)) {
            if let Some(hash) = shape.hash(path)
                && visit(Key::Template(shape, path), hash)
            {
                return true;
            }
        }
        if host.has(Reach::Prefix { depth }) && visit(Key::Prefix(key), hash) {
            return true;
        }
    }
    false
}

impl Place<'_> {
    fn is_of(&self, group: &Group) -> bool {
        group.host == self.host && self.key.is(group.key.as_bytes())
    }
}

/// The patterns of a route; the empty one is every host.
fn written_hosts(written: &Route) -> impl Iterator<Item = &str> {
    let every = written.hosts.is_empty().then_some("");
    every.into_iter().chain(written.hosts.iter().map(HostPattern::as_str))
}

/// What has to be looked at in each path, or what cannot be compiled.
fn compiled_paths(paths: &[WrittenPath<'_>]) -> Result<Vec<Option<Arc<PathMatch>>>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut compiled = Vec::with_capacity(paths.len());
    for path in paths {
        compiled.push(match path.pattern {
            Some(PathPattern::Template(text)) => Some(Arc::new(PathMatch::Template(Template::new(text)))),
            Some(PathPattern::Regex(text)) => match Pattern::compile(text) {
                Ok(pattern) => Some(Arc::new(PathMatch::Regex(Box::new(pattern)))),
                Err(fault) => {
                    faults.push(fault.below(&format!("/paths/{}/regex", path.index)));
                    None
                }
            },
            Some(PathPattern::Prefix(_) | PathPattern::Exact(_)) | None => None,
        });
    }
    if faults.is_empty() { Ok(compiled) } else { Err(faults) }
}
