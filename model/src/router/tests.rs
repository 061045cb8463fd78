//! The router against a linear matcher written from the Gateway API's text, and its rules one by one.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::Request;
use crate::config::Edit;
use crate::resource::route::{PathPattern, Route};
use crate::resource::{Document, Key, Kind, Resource};
use crate::snapshot::Snapshot;

/// A request that owns its parts.
#[derive(Clone, Debug)]
struct Ask {
    listener: Option<&'static str>,
    host: &'static str,
    path: &'static str,
    method: Method,
    headers: Vec<(&'static str, &'static str)>,
    query: Option<&'static str>,
}

impl Ask {
    fn get(host: &'static str, path: &'static str) -> Self {
        Self { listener: None, host, path, method: Method::GET, headers: Vec::new(), query: None }
    }

    /// The name of the route that the router finds.
    fn route(&self, snapshot: &Snapshot) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = Request {
            listener: self.listener.and_then(|name| snapshot.listeners.slot(name)),
            host: self.host,
            path: self.path,
            method: &self.method,
            headers: &headers,
            query: self.query,
        };
        let slot = snapshot.router.find(&request)?;
        Some(snapshot.routes.get(slot).expect("a route").name.to_string())
    }
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

#[test]
fn prefixes_match_in_whole_segments() {
    let snapshot = gateway(&[("orders", json!({"paths": ["/orders"]})), ("root", json!({"paths": [{"exact": "/"}]}))]);
    for (path, expected) in [
        ("/orders", "orders"),
        ("/orders/", "orders"),
        ("/orders/7/lines", "orders"),
        ("/orders-old", "none"),
        ("/order", "none"),
        ("/Orders", "none"),
        ("/", "root"),
        ("/a", "none"),
    ] {
        assert_route(&snapshot, &Ask::get("any.example", path), expected);
    }
}

#[test]
fn a_path_of_very_many_segments_is_looked_at_as_deep_as_routes_go() {
    let deep = "/s".repeat(4_000);
    let snapshot = gateway(&[("a", json!({"paths": ["/s/s"]})), ("deep", json!({"hosts": ["d"], "paths": [deep]}))]);
    let path = "/s".repeat(4_001).leak();
    assert_route(&snapshot, &Ask::get("any.example", path), "a");
    assert_route(&snapshot, &Ask::get("d", path), "deep");
    let host = "s.".repeat(126) + "s";
    assert_route(&snapshot, &Ask::get(host.leak(), "/s/s/s"), "a");
}

#[test]
fn a_more_specific_host_wins_and_falls_through_where_its_routes_fail() {
    let snapshot = gateway(&[
        ("any", json!({"paths": ["/"]})),
        ("wide", json!({"hosts": ["*.example.com"], "paths": ["/", "/deep"]})),
        ("narrow", json!({"hosts": ["*.api.example.com"], "paths": ["/api", "/deep"]})),
        ("exact", json!({"hosts": ["v1.api.example.com"], "paths": ["/exact"]})),
    ]);
    for (host, path, expected) in [
        ("v1.api.example.com", "/exact", "exact"),
        ("v1.api.example.com", "/api", "narrow"),
        ("v1.api.example.com", "/other", "wide"),
        ("a.b.api.example.com", "/deep/x", "narrow"),
        ("api.example.com", "/api", "wide"),
        ("example.com", "/api", "any"),
        ("badexample.com", "/api", "any"),
        ("", "/", "any"),
    ] {
        assert_route(&snapshot, &Ask::get(host, path), expected);
    }
}

#[test]
fn the_ladder_of_precedence() {
    let rungs = [
        ("old", json!({})),
        ("young", json!({})),
        ("weighty", json!({"priority": 1})),
        ("query", json!({"query": [{"name": "q", "exact": "1"}]})),
        ("header", json!({"headers": [{"name": "x-a", "exact": "1"}]})),
        ("headers", json!({"headers": [{"name": "x-a", "exact": "1"}, {"name": "x-b", "exact": "1"}]})),
        ("method", json!({"methods": ["GET"]})),
        ("prefix", json!({"paths": ["/a/b"]})),
        ("exact", json!({"paths": [{"exact": "/a/b"}]})),
    ];
    let ask = Ask {
        headers: vec![("x-a", "1"), ("x-b", "0"), ("x-b", "1")],
        query: Some("p=2&%71=1&q=2"),
        ..Ask::get("any.example", "/a/b")
    };
    for top in 2..=rungs.len() {
        assert_route(&gateway(&rungs[..top]), &ask, rungs[if top == 2 { 0 } else { top - 1 }].0);
    }
    // Where the conditions of the longer path fail, the shorter one has its turn.
    let mut conditional = rungs.clone();
    for (_, spec) in &mut conditional[7..] {
        spec["headers"] = json!([{"name": "x-a", "exact": "0"}]);
    }
    assert_route(&gateway(&conditional), &ask, "method");
}

#[test]
fn a_route_for_a_listener_is_not_found_elsewhere() {
    let snapshot = gateway(&[("only", json!({"listeners": ["two"], "priority": 1})), ("all", json!({}))]);
    let at = |listener| Ask { listener, ..Ask::get("any.example", "/") };
    assert_route(&snapshot, &at(Some("two")), "only");
    assert_route(&snapshot, &at(Some("one")), "all");
    assert_route(&snapshot, &at(None), "all");
}

/// Whether a prefix matches, segment by segment.
fn is_below(path: &str, prefix: &str) -> bool {
    let segments = |text: &str| text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    segments(path).starts_with(&segments(prefix))
}

/// How well the best host and path of a route match, if they do and its conditions hold: the greater wins.
fn rank(route: &Route, ask: &Ask) -> Option<impl Ord + use<>> {
    let hosts = route.hosts.iter().filter_map(|pattern| match pattern.wildcard_suffix() {
        Some(suffix) => ask.host.ends_with(&format!(".{suffix}")).then_some((1, suffix.len())),
        None => (pattern.as_str() == ask.host).then_some((2, ask.host.len())),
    });
    let host = if route.hosts.is_empty() { Some((0, 0)) } else { hosts.max() }?;
    let paths = route.paths.iter().filter_map(|pattern| match pattern {
        PathPattern::Exact(path) => (path == ask.path).then_some((1, path.len())),
        PathPattern::Prefix(path) => is_below(ask.path, path).then_some((0, path.len())),
    });
    let path = if route.paths.is_empty() { Some((0, 1)) } else { paths.max() }?;
    let query = ask.query.unwrap_or("").replace("%71", "q");
    let parameter =
        |name: &str| query.split('&').find_map(|part| part.strip_prefix(&format!("{name}=")).map(str::to_owned));
    let holds = (route.methods.is_empty() || route.methods.iter().any(|method| method.0 == ask.method))
        && route.headers.iter().all(|condition| ask.headers.contains(&(condition.name.0.as_str(), &condition.exact)))
        && route.query.iter().all(|condition| parameter(&condition.name).as_ref() == Some(&condition.exact))
        && (route.listeners.is_empty() || route.listeners.iter().any(|name| Some(name.as_str()) == ask.listener));
    let conditions = (!route.methods.is_empty(), route.headers.len(), route.query.len(), route.priority);
    holds.then_some((host, path, conditions))
}

fn naive(snapshot: &Snapshot, ask: &Ask) -> Option<String> {
    let parse = |document: &Document| match document.parse(Kind::Route) {
        Ok(Resource::Route(route)) => route,
        other => panic!("no route: {other:?}"),
    };
    snapshot
        .config
        .of_kind(Kind::Route, None)
        .map(|(name, document)| (name, document.created, parse(document)))
        .filter(|(.., route)| route.enabled)
        .filter_map(|(name, created, route)| Some((rank(&route, ask)?, std::cmp::Reverse((created, name.to_string())))))
        .max()
        .map(|(_, std::cmp::Reverse((_, name)))| name)
}

fn some_route() -> impl Strategy<Value = Value> {
    let hosts = subsequence(vec!["a.x", "b.a.x", "*.x", "*.a.x", "c"], 0..=2);
    let paths = subsequence(
        vec![json!("/"), json!("/a"), json!("/a/b"), json!({"exact": "/a"}), json!({"exact": "/a/"}), json!("/ab")],
        0..=2,
    );
    let methods = subsequence(vec!["GET", "POST"], 0..=2);
    let conditions = |pairs: Vec<(&'static str, &'static str)>| {
        let of = |(name, exact)| json!({"name": name, "exact": exact});
        subsequence(pairs, 0..=1).prop_map(move |pairs| pairs.into_iter().map(of).collect::<Vec<_>>())
    };
    let headers = conditions(vec![("x-k", "1"), ("x-k", "2"), ("x-j", "1")]);
    let query = conditions(vec![("q", "1"), ("q", "2"), ("p", "1")]);
    let listeners = prop_oneof![3 => Just(vec![]), 1 => subsequence(vec!["one", "two"], 1..=2)];
    let rest = (prop_oneof![2 => Just(0), 1 => -1..=1], prop::bool::weighted(0.9));
    (hosts, paths, methods, headers, query, listeners, rest).prop_map(
        |(hosts, paths, methods, headers, query, listeners, (priority, enabled))| {
            json!({
                "hosts": hosts, "paths": paths, "methods": methods, "headers": headers, "query": query,
                "listeners": listeners, "priority": priority, "enabled": enabled, "service": "s",
            })
        },
    )
}

fn some_ask() -> impl Strategy<Value = Ask> {
    (
        select(vec![None, Some("one"), Some("two")]),
        select(vec!["a.x", "b.a.x", "z.b.a.x", "q.x", "x", "c", "d", ""]),
        select(vec!["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/b"]),
        select(vec![Method::GET, Method::POST, Method::PUT]),
        subsequence(vec![("x-k", "1"), ("x-k", "2"), ("x-j", "1")], 0..=3),
        select(vec![None, Some(""), Some("q=1"), Some("q=2&q=1"), Some("%71=1&&p=1"), Some("p=1&q")]),
    )
        .prop_map(|(listener, host, path, method, headers, query)| Ask {
            listener,
            host,
            path,
            method,
            headers,
            query,
        })
}

/// A revision: routes put (or removed) by number.
fn some_change() -> impl Strategy<Value = BTreeMap<u8, Option<Value>>> {
    prop::collection::btree_map(0_u8..12, prop::option::weighted(0.8, some_route()), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_series_of_changes_finds_what_a_linear_search_finds(
        changes in prop::collection::vec(some_change(), 1..8),
        asks in prop::collection::vec(some_ask(), 24),
    ) {
        let mut snapshot = gateway(&[]);
        for change in changes {
            let name = |number: u8| format!("r{number}");
            let edits = change.into_iter().map(|(number, spec)| match spec {
                Some(spec) => Edit::Put { kind: Kind::Route, name: name(number), spec },
                None => Edit::Remove { key: Key::new(Kind::Route, name(number).parse().expect("a name")) },
            });
            snapshot = snapshot.apply(snapshot.revision + 1, edits.collect()).expect("valid").0;
            for ask in &asks {
                prop_assert_eq!(ask.route(&snapshot), naive(&snapshot, ask), "{:?}", ask);
            }
        }
        let everything = Snapshot::default().config.edits_to(&snapshot.config);
        let fresh = Snapshot::default().apply(snapshot.revision, everything).expect("valid").0;
        for ask in &asks {
            prop_assert_eq!(ask.route(&snapshot), ask.route(&fresh), "{:?}", ask);
        }
        // What is taken out leaves nothing behind.
        let routes = snapshot.config.of_kind(Kind::Route, None);
        let removals = routes.map(|(name, _)| Edit::Remove { key: Key::new(Kind::Route, name.clone()) }).collect();
        let empty = snapshot.apply(snapshot.revision + 1, removals).expect("valid").0;
        prop_assert!(empty.router.is_empty());
    }
}
