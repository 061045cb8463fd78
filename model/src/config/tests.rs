use serde_json::json;

use super::*;
use crate::snapshot::Snapshot;

fn put(kind: Kind, name: &str, spec: Value) -> Edit {
    Edit::Put { kind, name: name.to_owned(), spec }
}

fn service(name: &str) -> Edit {
    put(Kind::Service, name, json!({"url": "http://10.0.0.1:80"}))
}

fn route(name: &str, service: &str) -> Edit {
    put(Kind::Route, name, json!({"paths": [format!("/{name}")], "service": service}))
}

fn remove(kind: Kind, name: &str) -> Edit {
    Edit::Remove { key: key(kind, name) }
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, name.parse().expect("a name"))
}

fn apply(before: &Snapshot, edits: Vec<Edit>) -> Snapshot {
    before.apply(before.revision + 1, edits).unwrap_or_else(|problems| panic!("{problems:?}")).0
}

/// `kind name pointer code`, sorted.
fn found(before: &Snapshot, edits: Vec<Edit>) -> Vec<String> {
    let problems = before.apply(before.revision + 1, edits).err().expect("problems");
    let mut found: Vec<_> = problems
        .iter()
        .map(|problem| {
            let kind = problem.kind.map(Kind::singular).unwrap_or_default();
            let name = problem.name.as_deref().unwrap_or_default();
            format!("{kind} {name} {} {}", problem.pointer, problem.code)
        })
        .collect();
    found.sort();
    found
}

/// The stored form of what a person wrote.
fn canonical(kind: Kind, spec: Value) -> Value {
    let resource = Resource::parse(kind, spec).unwrap_or_else(|faults| panic!("{faults:?}"));
    serde_json::from_str(&resource.canonical()).expect("JSON")
}

#[test]
fn a_reference_to_nothing_is_a_problem_with_a_guess() {
    let before = apply(&Snapshot::default(), vec![service("orders")]);
    let problems = before.apply(2, vec![route("a", "oders"), route("b", "something")]).err().expect("problems");
    let told: Vec<_> = problems.iter().map(|problem| problem.to_string()).collect();
    assert_eq!(
        told,
        [
            "route `a` at /service: no service is named `oders` (did you mean `orders`?)",
            "route `b` at /service: no service is named `something` \
             (create the service in the same change, or before it)",
        ]
    );
}

#[test]
fn what_is_referred_to_may_come_in_the_same_change_and_in_any_order() {
    let both = apply(&Snapshot::default(), vec![route("a", "orders"), service("orders")]);
    assert_eq!(both.config.len(), 2);
    let neither = apply(&both, vec![remove(Kind::Service, "orders"), remove(Kind::Route, "a")]);
    assert!(neither.config.is_empty());
    assert_eq!(neither.config.digest(), Digest::default());
}

#[test]
fn what_is_referred_to_is_not_removed_and_its_users_are_named() {
    let policy = put(Kind::Policy, "auth", json!({"type": "key-auth"}));
    let user = put(Kind::Route, "user", json!({"paths": ["/user"], "respond": {}, "policies": ["auth"]}));
    let before =
        apply(&Snapshot::default(), vec![policy, user, service("orders"), route("a", "orders"), route("b", "orders")]);
    let edits = vec![remove(Kind::Policy, "auth"), remove(Kind::Service, "orders")];
    let problems = before.apply(2, edits).err().expect("problems");
    let told: Vec<_> = problems.iter().map(|problem| &*problem.message).collect();
    assert_eq!(
        told,
        [
            "service `orders` cannot be removed: route `a` at /backends/0/service, route `b` at /backends/0/service refer to it",
            "policy `auth` cannot be removed: route `user` at /policies/0 refers to it",
        ]
    );
    let moved =
        apply(&before, vec![remove(Kind::Service, "orders"), service("next"), route("a", "next"), route("b", "next")]);
    assert!(moved.config.get(&key(Kind::Service, "orders")).is_none());
}

#[test]
fn all_problems_of_a_change_are_found_and_none_that_only_follows() {
    let before = apply(&Snapshot::default(), vec![service("old"), route("user", "old")]);
    let edits = vec![
        put(Kind::Service, "faulty", json!({"url": "ftp://x"})),
        put(Kind::Route, "user", json!({"service": "faulty", "weight": 1})),
        put(Kind::Route, "both", json!({"backends": [7, {"service": "nowhere"}], "pahts": []})),
        put(Kind::Route, "Bad Name", json!({"respond": {"status": 99}})),
        service("twice"),
        service("twice"),
        remove(Kind::Service, "old"),
        put(Kind::Listener, "one", json!({"bind": "0.0.0.0:80"})),
        put(Kind::Listener, "two", json!({"bind": "0.0.0.0:80"})),
    ];
    assert_eq!(
        found(&before, edits),
        [
            "listener two /bind duplicate-value",
            "route Bad Name /name invalid-name",
            "route Bad Name /respond/status invalid-value",
            "route both /backends/0 invalid-value",
            "route both /backends/1/service unknown-reference",
            "route both /pahts unknown-field",
            "route user /weight unknown-field",
            "service faulty /url invalid-value",
            "service twice /name duplicate-name",
        ]
    );
}

#[test]
fn only_one_policy_of_a_type_acts_at_one_place() {
    let policy =
        |name: &str, apply_to: Value| put(Kind::Policy, name, json!({"type": "key-auth", "apply_to": apply_to}));
    let edits = vec![
        policy("a", json!("everything")),
        policy("b", json!("everything")),
        policy("c", json!(null)),
        put(Kind::Route, "r", json!({"respond": {}, "policies": ["c", "a"]})),
    ];
    assert_eq!(
        found(&Snapshot::default(), edits),
        ["policy b /apply_to duplicate-policy-type", "route r /policies/1 duplicate-policy-type"]
    );
}

#[test]
fn an_edit_that_changes_nothing_is_no_change() {
    let before = apply(&Snapshot::default(), vec![service("orders")]);
    let long = put(
        Kind::Service,
        "orders",
        json!({"targets": [{"url": "http://10.0.0.1:80/", "weight": 1}], "enabled": true}),
    );
    let (after, changes) = before.apply(2, vec![long, remove(Kind::Route, "none")]).expect("a snapshot");
    assert!(changes.is_empty());
    assert_eq!(after.config.digest(), before.config.digest());
}

#[test]
fn a_resource_is_as_old_as_its_name() {
    let age = |snapshot: &Snapshot| snapshot.config.get(&key(Kind::Service, "a")).expect("it is there").created;
    let first = apply(&Snapshot::default(), vec![service("a")]);
    let changed = apply(&first, vec![put(Kind::Service, "a", json!({"url": "http://other:1"}))]);
    let gone = apply(&changed, vec![remove(Kind::Service, "a")]);
    let again = apply(&gone, vec![service("a")]);
    assert_eq!((age(&first), age(&changed), age(&again)), (1, 1, 4));
}

#[test]
fn written_forms_become_canonical() {
    for (kind, written, stored) in [
        (
            Kind::Service,
            json!({"url": "HTTP://Orders.Internal", "enabled": true, "timeouts": {"connect": "2000ms", "idle": "90s"}}),
            json!({"targets": [{"url": "http://orders.internal:80"}], "timeouts": {"idle": "1m 30s"}}),
        ),
        (
            Kind::Route,
            json!({"paths": ["/a/", {"exact": "/b"}], "service": "x", "hosts": ["API.Example"], "priority": 0, "methods": []}),
            json!({"hosts": ["api.example"], "paths": [{"prefix": "/a"}, {"exact": "/b"}], "backends": [{"service": "x"}]}),
        ),
        (
            Kind::Policy,
            json!({"config": {"header": "x-request-ID"}, "type": "request-id", "labels": {}}),
            json!({"type": "request-id"}),
        ),
        (
            Kind::Policy,
            json!({"type": "rate-limit", "config": {"per": "60s", "limit": 5, "by": "client_address", "scope": "node"}}),
            json!({"type": "rate-limit", "config": {"limit": 5, "per": "1m"}}),
        ),
        (
            Kind::Consumer,
            json!({"credentials": [{"type": "key-auth", "name": "main", "key": "0123456789abcdef"}]}),
            json!({"credentials": [{
                "type": "key-auth",
                "name": "main",
                "key_sha256": "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f",
            }]}),
        ),
        (Kind::Listener, json!({"bind": "[::]:0080", "policies": []}), json!({"bind": "[::]:80"})),
    ] {
        assert_eq!(canonical(kind, written).to_string(), stored.to_string(), "{kind}");
        assert_eq!(canonical(kind, stored.clone()).to_string(), stored.to_string(), "{kind} again");
    }
}

#[test]
fn lists_go_by_kind_and_name() {
    let names = ["b", "a-1", "a", "c"];
    let edits = names.into_iter().map(service).chain([route("a", "a")]).collect();
    let config = apply(&Snapshot::default(), edits).config;
    let after = |name: Option<&str>| -> Vec<String> {
        let name = name.map(|name| name.parse().expect("a name"));
        config.of_kind(Kind::Service, name.as_ref()).map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(after(None), ["a", "a-1", "b", "c"]);
    assert_eq!(after(Some("a-1")), ["b", "c"]);
}

#[test]
fn what_types_and_what_checks_find_is_told_at_once() {
    let targets = json!([{"url": "nowhere"}, {"url": "http://a:1", "weight": 200_000}]);
    let edits = vec![
        put(Kind::Service, "a", json!({"targets": targets, "timeouts": {"request": 5}})),
        put(Kind::Route, "b", json!({"servise": "a", "methods": ["GET", "get"]})),
    ];
    assert_eq!(
        found(&Snapshot::default(), edits),
        [
            "route b /methods/1 invalid-value",
            "route b /servise unknown-field",
            "service a /targets/0/url invalid-value",
            "service a /targets/1/weight invalid-value",
            "service a /timeouts/request invalid-value",
        ]
    );
}

#[test]
fn what_does_not_fit_is_told_with_what_would() {
    let told = |kind, spec| {
        let problems = Snapshot::default().apply(1, vec![put(kind, "a", spec)]).err().expect("problems");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        told(Kind::Listener, json!({"bind": "localhost:80"})),
        "listener `a` at /bind: `localhost:80` is no address: write an IP address and a port, such as \
         `0.0.0.0:8080` or `[::]:8443`"
    );
    assert_eq!(
        told(Kind::Listener, json!({"bind": 8080})),
        "listener `a` at /bind: integer `8080` does not fit here \
         (write an IP address and a port, such as `0.0.0.0:8080`)"
    );
    let span = told(Kind::Service, json!({"url": "http://a:1", "timeouts": {"request": 5}}));
    assert!(span.contains("integer `5` does not fit here (write a length of time"), "{span}");
}

#[test]
fn secrets_in_the_wrong_form_are_not_repeated() {
    for (kind, spec) in [
        (Kind::Consumer, json!({"credentials": [{"type": "key-auth", "name": "k", "key": 1_234_567_890}]})),
        (Kind::Consumer, json!({"credentials": ["1234567890"]})),
        (Kind::Consumer, json!({"credentials": "1234567890"})),
        (Kind::Service, json!({"url": "http://user:1234567890@a:1"})),
    ] {
        let problems = Snapshot::default().apply(1, vec![put(kind, "a", spec)]).err().expect("problems");
        assert!(!format!("{problems:?}").contains("1234567890"), "{problems:?}");
    }
}
