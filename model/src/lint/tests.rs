//! Each warning by an example, and the claim that a route is unreachable against what requests find.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::*;
use crate::config::Edit;

fn put(kind: Kind, name: &str, spec: Value) -> Edit {
    Edit::Put { kind, name: name.to_owned(), spec }
}

/// 2026-11-24
const NOW: u64 = 1_795_478_400;

fn start() -> Snapshot {
    let edits = vec![
        put(Kind::Service, "s", json!({"url": "http://127.0.0.1:1"})),
        put(Kind::Listener, "one", json!({"bind": "127.0.0.1:1"})),
        put(Kind::Listener, "off", json!({"bind": "127.0.0.1:2", "enabled": false})),
    ];
    Snapshot::default().apply(1, edits).expect("valid").0
}

/// Applies one revision for each route and gives the warnings about the last: name, code and message.
fn warnings(routes: &[(&str, Value)]) -> Vec<(String, String, String)> {
    let mut snapshot = start();
    let mut warnings = Vec::new();
    for (name, spec) in routes {
        let mut spec = spec.clone();
        if ["backends", "redirect"].iter().all(|field| spec.get(field).is_none()) {
            spec["service"] = json!("s");
        }
        let (next, changes) = snapshot.apply(snapshot.revision + 1, vec![put(Kind::Route, name, spec)]).expect("valid");
        warnings = lint(&next, &changes, NOW);
        snapshot = next;
    }
    for warning in &warnings {
        assert!(LINTS.iter().any(|lint| lint.code == warning.code));
        assert_eq!(warning.page.as_deref(), Some(&*format!("/docs/lints/{}", warning.code)));
    }
    let told = |problem: Problem| (problem.name.unwrap_or_default(), problem.code.into_owned(), problem.message);
    warnings.into_iter().map(told).collect()
}

#[track_caller]
fn assert_unreachable(routes: &[(&str, Value)], route: &str, because: &str) {
    let come = if because.contains(',') { "come" } else { "comes" };
    let message = format!("no request can reach this route: {because} {come} first wherever it matches");
    assert_eq!(warnings(routes), [(route.to_owned(), "unreachable-route".to_owned(), message)]);
}

#[test]
fn a_route_behind_others_is_told_with_their_names() {
    let plain = json!({"paths": ["/a"]});
    assert_unreachable(&[("old", plain.clone()), ("new", plain.clone())], "new", "`old`");
    assert_eq!(warnings(&[("old", plain.clone()), ("new", json!({"paths": ["/a", "/b"]}))]), []);
    let methods = |list: &[&str]| json!({"paths": ["/a"], "methods": list});
    let together = [("get", methods(&["GET"])), ("post", methods(&["POST"])), ("both", methods(&["POST", "GET"]))];
    assert_unreachable(&together, "both", "`get`, `post`");
    let more = [("get", methods(&["GET"])), ("post", methods(&["POST"])), ("three", methods(&["POST", "PUT"]))];
    assert_eq!(warnings(&more), []);
    // The one that comes first may come later.
    let first = json!({"paths": ["/a"], "priority": 1});
    assert_unreachable(&[("old", plain), ("new", first)], "old", "`new`");
    let header = |test: Value| {
        let mut spec = json!({"headers": [test]});
        spec["headers"][0]["name"] = json!("x");
        spec
    };
    let present = ("present", header(json!({"present": true})));
    let regex = ("regex", header(json!({"regex": "[0-9]+"})));
    assert_unreachable(&[present.clone(), ("exact", header(json!({"exact": "a"})))], "exact", "`present`");
    assert_unreachable(&[regex.clone(), ("exact", header(json!({"exact": "12"})))], "exact", "`regex`");
    assert_eq!(warnings(&[regex, ("exact", header(json!({"exact": "a"})))]), []);
    let sources = |list: &[&str]| json!({"sources": list});
    let within = [("wide", sources(&["10.0.0.0/8", "192.0.2.0/24"])), ("narrow", sources(&["10.1.0.0/16"]))];
    assert_unreachable(&within, "narrow", "`wide`");
}

#[test]
fn what_contradicts_itself_or_leads_nowhere_is_told() {
    let codes =
        |spec: Value| -> Vec<String> { warnings(&[("r", spec)]).into_iter().map(|(_, code, _)| code).collect() };
    let absent = json!({"name": "X", "present": false});
    assert_eq!(codes(json!({"headers": [{"name": "x", "exact": "1"}, absent]})), ["contradicting-conditions"]);
    assert_eq!(codes(json!({"query": [{"name": "x", "exact": "1"}, {"name": "X", "present": false}]})), [""; 0]);
    assert_eq!(codes(json!({"listeners": ["off"]})), ["disabled-listeners"]);
    assert_eq!(codes(json!({"listeners": ["off", "one"]})), [""; 0]);
    assert_eq!(codes(json!({"backends": [{"service": "s", "weight": 0}]})), ["no-weight"]);
    assert_eq!(codes(json!({"backends": []})), ["no-backend"]);
}

#[test]
fn redirects_that_lead_to_themselves_are_told_and_no_others() {
    let key = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let (cert, key) = (key.cert.pem(), key.signing_key.serialize_pem());
    let secure = |port: u16| json!({"bind": format!("127.0.0.1:{port}"), "tls": {"certificates": ["c"]}});
    let edits = vec![
        put(Kind::Certificate, "c", json!({"cert": cert, "key": key})),
        put(Kind::Listener, "secure", secure(443)),
        put(Kind::Listener, "inner", secure(8443)),
        put(Kind::Route, "deep", json!({"hosts": ["a.test"], "paths": ["/home"], "respond": {}})),
    ];
    let start = start().apply(2, edits).expect("valid").0;
    let is_told = |mut spec: Value, redirect: Value| {
        spec["redirect"] = redirect;
        let (next, changes) = start.apply(3, vec![put(Kind::Route, "r", spec)]).expect("valid");
        lint(&next, &changes, NOW).iter().any(|problem| problem.code == "endless-redirect")
    };
    let to_https = json!({"scheme": "https", "status": 308});
    let path = |path: Value| json!({ "path": path });
    for (spec, redirect) in [
        (json!({}), to_https.clone()),
        (json!({"listeners": ["one", "secure"]}), to_https.clone()),
        // Clients may know it by the usual port.
        (json!({"listeners": ["inner"]}), to_https.clone()),
        (json!({"listeners": ["secure"]}), json!({"port": 443})),
        (json!({"hosts": ["a.test", "b.test"]}), json!({"host": "b.test"})),
        (json!({"hosts": ["*.a.test"], "methods": ["POST"]}), json!({"host": "x.a.test"})),
        (json!({"hosts": ["b.test"]}), path(json!({"replace_full": "/home"}))),
        (json!({"paths": ["/a"]}), path(json!({"replace_prefix": "/a/b"}))),
        (json!({"paths": [{"template": "/a/{x}"}]}), path(json!({"template": "/a/{x}"}))),
        (json!({}), path(json!({"regex": {"pattern": "/old/(?<rest>.*)", "substitution": "/{rest}"}}))),
    ] {
        assert!(is_told(spec.clone(), redirect.clone()), "{spec} {redirect}");
    }
    for (spec, redirect) in [
        (json!({"listeners": ["one"]}), to_https.clone()),
        (json!({"headers": [{"name": "x", "exact": "1"}]}), to_https),
        (json!({"listeners": ["inner"]}), json!({"port": 443})),
        (json!({"hosts": ["b.test"]}), json!({"host": "a.test"})),
        (json!({"hosts": ["a.test"]}), path(json!({"replace_full": "/home"}))),
        (json!({"paths": ["/a"]}), path(json!({"replace_prefix": "/b"}))),
        (json!({"paths": ["/a"]}), path(json!({"replace_prefix": "/"}))),
        (json!({"paths": [{"regex": "/a/.*"}]}), path(json!({"replace_full": "/a/b"}))),
    ] {
        assert!(!is_told(spec.clone(), redirect.clone()), "{spec} {redirect}");
    }
}

#[test]
fn every_code_is_in_the_table_in_order() {
    assert!(LINTS.is_sorted_by_key(|lint| lint.code));
    let source = concat!(include_str!("../lint.rs"), include_str!("certificates.rs"), include_str!("redirects.rs"));
    for lint in LINTS {
        assert!(source.matches(&format!("\"{}\"", lint.code)).count() == 2, "{} is told somewhere", lint.code);
    }
}

#[test]
fn routes_that_nothing_sets_apart_are_refused_with_both_names() {
    let route = |more: Value| {
        let mut spec = json!({"service": "s", "paths": ["/b", "/a"]});
        spec.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        spec
    };
    let start = start();
    let apply = |snapshot: &Snapshot, one: Value, other: Value| {
        let edits = vec![put(Kind::Route, "one", one), put(Kind::Route, "other", other)];
        snapshot.apply(snapshot.revision + 1, edits).map(|(next, _)| next)
    };
    for (one, other) in [
        (json!({}), json!({})),
        (json!({"methods": ["GET"]}), json!({"methods": ["POST", "GET"]})),
        (json!({"sources": ["10.0.0.0/8"]}), json!({"sources": ["10.1.0.0/16"]})),
        (json!({"headers": [{"name": "x", "exact": "1"}]}), json!({"headers": [{"name": "X", "exact": "1"}]})),
        (json!({"paths": [{"template": "/{a}"}]}), json!({"paths": [{"template": "/{b}"}]})),
        (json!({"paths": [{"regex": "/a+"}]}), json!({"paths": [{"regex": "/a+"}]})),
    ] {
        let problems = apply(&start, route(one), route(other)).map(drop).expect_err("a tie");
        assert_eq!(problems.len(), 1);
        assert_eq!((&*problems[0].code, problems[0].name.as_deref()), ("tied-routes", Some("one")));
        assert!(problems[0].message.starts_with("`one` and `other` match the same requests"), "{}", problems[0]);
    }
    for (one, other) in [
        (json!({}), json!({"priority": 1})),
        (json!({"methods": ["GET"]}), json!({"methods": ["POST"]})),
        (json!({"headers": [{"name": "x", "exact": "1"}]}), json!({"headers": [{"name": "y", "exact": "1"}]})),
        (json!({"enabled": false}), json!({})),
        (json!({"paths": [{"regex": "/a+"}]}), json!({"paths": [{"regex": "/[a]+"}]})),
    ] {
        assert!(apply(&start, route(one), route(other)).is_ok());
    }
    // Age sets apart, and what was published once is not refused when it comes back.
    let first = start.apply(2, vec![put(Kind::Route, "one", route(json!({})))]).expect("valid").0;
    let second = first.apply(3, vec![put(Kind::Route, "other", route(json!({})))]).expect("valid").0;
    let everything = Snapshot::default().config.edits_to(&second.config);
    assert!(Snapshot::default().apply(3, everything).is_ok());
}

fn some_route() -> impl Strategy<Value = Value> {
    let tests = [json!({"exact": "1"}), json!({"regex": "[12]"}), json!({"present": true}), json!({"present": false})];
    let named = |name: &'static str| {
        tests.clone().map(|mut test| {
            test["name"] = json!(name);
            test
        })
    };
    let headers = [named("x"), named("y")].concat();
    (
        subsequence(
            vec![json!("/"), json!({"exact": "/a"}), json!({"template": "/{t}"}), json!({"regex": "/[ab]"})],
            1..=2,
        ),
        subsequence(vec!["GET", "POST"], 0..=2),
        prop_oneof![1 => Just(vec![]), 2 => subsequence(headers, 1..=2)],
        prop_oneof![2 => Just(vec![]), 1 => subsequence(vec!["10.0.0.0/8", "10.1.0.0/16"], 1..=2)],
        prop_oneof![2 => Just(vec![]), 1 => subsequence(vec!["one", "off"], 1..=2)],
        select(vec![0, 0, 1]),
    )
        .prop_map(|(paths, methods, headers, sources, listeners, priority)| {
            json!({
                "paths": paths, "methods": methods, "headers": headers, "sources": sources, "listeners": listeners,
                "priority": priority, "service": "s",
            })
        })
}

/// The routes that some request of a small world finds.
fn found(snapshot: &Snapshot) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let values = [&[][..], &["1"], &["2"], &["3"], &["1", "3"]];
    for path in ["/", "/a", "/b", "/c", "/a/b"] {
        for method in [http::Method::GET, http::Method::POST, http::Method::PUT] {
            for (x, y) in values.iter().flat_map(|x| values.iter().map(move |y| (x, y))) {
                let mut headers = http::HeaderMap::new();
                x.iter().for_each(|value| _ = headers.append("x", http::HeaderValue::from_static(value)));
                y.iter().for_each(|value| _ = headers.append("y", http::HeaderValue::from_static(value)));
                let headers = crate::fields::Fields::from(&headers);
                for source in [[10, 1, 0, 1], [10, 2, 0, 1], [192, 0, 2, 1]] {
                    for listener in ["one", "off"] {
                        let request = crate::router::Request {
                            listener: snapshot.listeners.slot(listener),
                            source: Some(source.into()),
                            host: "h",
                            path,
                            method: &method,
                            headers: &headers,
                            query: None,
                        };
                        let slot = snapshot.router.find(&request).map(|found| found.route);
                        found.extend(
                            slot.and_then(|slot| snapshot.routes.get(slot)).map(|route| route.name.to_string()),
                        );
                    }
                }
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Of few routes, and of so many at one place that they are not in one list.
    #[test]
    fn nothing_that_is_called_unreachable_is_found(
        routes in prop::collection::vec(prop::collection::vec(some_route(), 1..6), 1..8),
    ) {
        let mut snapshot = start();
        let mut count = 0;
        for revision in routes {
            let edits = revision.into_iter().map(|spec| {
                count += 1;
                put(Kind::Route, &format!("r{count}"), spec)
            });
            // Ties are refused.
            let Ok((next, changes)) = snapshot.apply(snapshot.revision + 1, edits.collect()) else { continue };
            let found = found(&next);
            for warning in lint(&next, &changes, NOW).into_iter().filter(|warning| warning.code == "unreachable-route") {
                prop_assert!(!found.contains(warning.name.as_deref().expect("a name")), "{warning}");
            }
            snapshot = next;
        }
    }
}

#[test]
fn certificates_that_nobody_will_accept_are_told() {
    let made = |names: &[&str], from: (i32, u8), until: (i32, u8)| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(from.0, from.1, 1);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    };
    let told = |kind: Kind, spec: Value| -> Vec<String> {
        let (next, changes) = start().apply(2, vec![put(kind, "a", spec)]).expect("valid");
        let told = |problem: Problem| format!("{} {} {}", problem.pointer, problem.code, problem.message);
        lint(&next, &changes, NOW).into_iter().map(told).collect()
    };
    let good = made(&["a.test", "*.b.test"], (2026, 11), (2026, 12));
    let old = made(&["a.test"], (2020, 1), (2026, 11));
    let early = made(&["a.test"], (2026, 12), (2027, 1));
    let written = |(cert, key): &(String, String), hosts: &[&str]| json!({"cert": cert, "key": key, "hosts": hosts});
    for (spec, expected) in [
        (written(&good, &[]), None),
        (written(&good, &["A.test", "x.b.test", "*.b.test"]), None),
        (written(&old, &[]), Some("/cert certificate-validity certificate 1, of ``, expired on 2026-11-01")),
        (written(&early, &[]), Some("/cert certificate-validity certificate 1, of ``, is not valid before 2026-12-01")),
        (
            written(&good, &["a.test", "b.test"]),
            Some("/hosts/1 host-not-in-certificate the certificate is not for `b.test`"),
        ),
        (
            written(&good, &["x.y.b.test"]),
            Some("/hosts/0 host-not-in-certificate the certificate is not for `x.y.b.test`"),
        ),
        (written(&good, &["*.test"]), Some("/hosts/0 host-not-in-certificate the certificate is not for `*.test`")),
    ] {
        let found = told(Kind::Certificate, spec);
        let is_right = match (&found[..], expected) {
            ([], None) => true,
            ([one], Some(expected)) => one.replace("CN=rcgen self signed cert", "").starts_with(expected),
            _ => false,
        };
        assert!(is_right, "{expected:?}: {found:?}");
    }
    let mut off = written(&old, &[]);
    off["enabled"] = false.into();
    assert_eq!(told(Kind::Certificate, off), Vec::<String>::new());
    let found = told(Kind::CaBundle, json!({"certs": format!("{}{}", good.0, old.0)}));
    assert!(found.len() == 1 && found[0].starts_with("/certs certificate-validity certificate 2"), "{found:?}");
}
