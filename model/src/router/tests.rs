//! What the router finds: gateways of a few routes, and requests to ask them about.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::Request;
use super::explain::{Candidate, Verdict};
use crate::config::Edit;
use crate::fields::Fields;
use crate::resource::route::{PathPattern, Route, ValueMatch};
use crate::resource::{Document, Key, Kind, Resource};
use crate::slots::Slot;
use crate::snapshot::Snapshot;
use crate::value::Network;

mod oracle;
mod rules;

/// A request that owns its parts.
#[derive(Clone, Debug)]
struct Ask {
    listener: Option<&'static str>,
    source: Option<IpAddr>,
    host: &'static str,
    path: &'static str,
    method: Method,
    headers: Vec<(&'static str, &'static str)>,
    query: Option<&'static str>,
}

impl Ask {
    fn get(host: &'static str, path: &'static str) -> Self {
        Self { listener: None, source: None, host, path, method: Method::GET, headers: Vec::new(), query: None }
    }

    /// The name of the route that the router finds.
    fn route(&self, snapshot: &Snapshot) -> Option<String> {
        self.found(snapshot).map(|(name, _)| name)
    }

    /// The same, with what it captures.
    fn found(&self, snapshot: &Snapshot) -> Option<(String, Vec<(String, &'static str)>)> {
        let headers = self.headers();
        let found = snapshot.router.find(&self.request(snapshot, &headers))?;
        let captures = found.captures(self.path).into_iter().map(|(name, at)| (name.to_owned(), &self.path[at]));
        Some((name_of(snapshot, found.route), captures.collect()))
    }

    fn headers(&self) -> Fields {
        let mut headers = Fields::default();
        for (name, value) in &self.headers {
            headers.append(&HeaderName::from_static(name), &HeaderValue::from_static(value));
        }
        headers
    }

    fn request<'a>(&'a self, snapshot: &Snapshot, headers: &'a Fields) -> Request<'a> {
        Request {
            listener: self.listener.and_then(|name| snapshot.listeners.slot(name)),
            source: self.source,
            host: self.host,
            path: self.path,
            method: &self.method,
            headers,
            query: self.query,
        }
    }
}

fn name_of(snapshot: &Snapshot, route: Slot) -> String {
    snapshot.routes.get(route).expect("a route").name.to_string()
}

/// A gateway with two listeners, a service and these routes, each of a revision of its own.
fn gateway(routes: &[(&str, Value)]) -> Snapshot {
    let put = |kind, name: &str, spec| Edit::Put { kind, name: name.to_owned(), spec };
    let first = vec![
        put(Kind::Service, "s", json!({"targets": [{"url": "http://127.0.0.1:1"}]})),
        put(Kind::Listener, "one", json!({"bind": "127.0.0.1:1"})),
        put(Kind::Listener, "two", json!({"bind": "127.0.0.1:2"})),
    ];
    let mut snapshot = Snapshot::default().apply(1, first).expect("valid").0;
    for (name, spec) in routes {
        let mut spec = spec.clone();
        spec["service"] = json!("s");
        let edit = put(Kind::Route, name, spec);
        snapshot = snapshot.apply(snapshot.revision + 1, vec![edit]).expect("valid").0;
    }
    snapshot
}

#[track_caller]
fn assert_route(snapshot: &Snapshot, ask: &Ask, expected: &str) {
    assert_eq!(ask.route(snapshot).as_deref().unwrap_or("none"), expected, "{ask:?}");
}
