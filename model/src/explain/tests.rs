//! One request explained from end to end, and what is wrong with questions.

use serde_json::{Value, json};

use super::*;
use crate::config::Edit;
use crate::resource::Kind;

fn snapshot() -> Snapshot {
    let put = |(kind, name, spec): (Kind, &str, Value)| Edit::Put { kind, name: name.to_owned(), spec };
    let headers = |more: Value| {
        let mut spec = json!({"type": "headers", "config": {"request": {"set": {"X-A": "1"}}}});
        spec.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        spec
    };
    let edits = [
        (Kind::Policy, "ids", json!({"type": "request-id", "apply_to": "everything"})),
        (Kind::Policy, "common", headers(json!({"apply_to": "everything"}))),
        (Kind::Policy, "of-service", headers(json!({}))),
        (Kind::Policy, "of-route", headers(json!({}))),
        (Kind::Policy, "off", json!({"type": "key-auth", "enabled": false})),
        (Kind::Listener, "web", json!({"bind": "127.0.0.1:8080"})),
        (Kind::Listener, "other", json!({"bind": "127.0.0.1:9090"})),
        (Kind::Service, "a", json!({"url": "http://a:1", "policies": ["of-service"], "timeouts": {"idle": "1m"}})),
        (Kind::Service, "b", json!({"url": "http://b:1"})),
        (
            Kind::Route,
            "order",
            json!({
                "hosts": ["shop.example"], "paths": [{"template": "/orders/{id}"}], "methods": ["GET"],
                "policies": ["of-route", "off"], "timeouts": {"request": "1m", "backend_request": "5s"},
                "backends": [{"service": "a", "weight": 9}, {"service": "b", "weight": 1}],
            }),
        ),
        (Kind::Route, "writes", json!({"paths": [{"template": "/orders/{id}"}], "methods": ["PUT"], "service": "b"})),
        (
            Kind::Route,
            "beta",
            json!({"paths": ["/orders"], "headers": [{"name": "x-beta", "exact": "1"}], "service": "b"}),
        ),
        (Kind::Route, "orders", json!({"paths": ["/orders"], "service": "a"})),
    ];
    Snapshot::default().apply(1, edits.map(put).into()).expect("valid").0
}

fn question(more: &Value) -> Question {
    let mut question = json!({"url": "http://Shop.example:8080//orders/./%37?page=2"});
    question.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
    serde_json::from_value(question).expect("a question")
}

fn told(question: &Question) -> Value {
    serde_json::to_value(explain(&snapshot(), question).expect("an explanation")).expect("plain data")
}

#[test]
fn a_request_is_explained_from_its_path_to_its_policies() {
    let told = told(&question(&json!({})));
    let steps = json!([
        {"step": "received", "path": "//orders/./%37"},
        {"step": "escapes", "path": "//orders/./7"},
        {"step": "segments", "path": "/orders/7"},
    ]);
    assert_eq!(told["path"]["steps"], steps);
    assert_eq!(told["host"], json!({"received": "Shop.example:8080", "canonical": "shop.example"}));
    assert_eq!((&told["listener"], &told["route"]), (&json!("web"), &json!("order")));
    assert_eq!(told["captures"], json!([{"name": "id", "value": "7"}]));
    let candidates = json!([
        {"route": "order", "host": "shop.example", "path": {"template": "/orders/{id}"}, "verdict": "won"},
        {"route": "writes", "path": {"template": "/orders/{id}"}, "verdict": "no-match", "because": "method",
            "detail": "the method is none of PUT"},
        {"route": "beta", "path": {"prefix": "/orders"}, "verdict": "no-match", "because": "header",
            "detail": "header `x-beta`: no value is `1`"},
        {"route": "orders", "path": {"prefix": "/orders"}, "verdict": "lost", "because": "host",
            "detail": "its host is less specific"},
    ]);
    assert_eq!(told["candidates"], candidates);
    let ids = json!({"policy": "ids", "type": "request-id", "from": "everything"});
    let of_route =
        |replaced: Value| json!({"policy": "of-route", "type": "headers", "from": "route", "instead_of": replaced});
    let common = json!({"policy": "common", "from": "everything"});
    let outcomes = json!([
        {
            "service": "a", "share": {"weight": 9, "total": 10},
            "policies": [ids, of_route(json!([common, {"policy": "of-service", "from": "service"}]))],
            "settings": [
                {"name": "timeouts.request", "value": "1m", "from": "route"},
                {"name": "timeouts.connect", "value": "2s", "from": "default"},
                {"name": "timeouts.backend_request", "value": "5s", "from": "route"},
                {"name": "timeouts.idle", "value": "1m", "from": "service"},
            ],
        },
        {
            "service": "b", "share": {"weight": 1, "total": 10},
            "policies": [ids, of_route(json!([common]))],
            "settings": [
                {"name": "timeouts.request", "value": "1m", "from": "route"},
                {"name": "timeouts.connect", "value": "2s", "from": "default"},
                {"name": "timeouts.backend_request", "value": "5s", "from": "route"},
                {"name": "timeouts.idle", "value": "5m", "from": "default"},
            ],
        },
    ]);
    assert_eq!(told["outcomes"], outcomes);
}

/// As whoever looks for it in the service finds it.
#[test]
fn a_timeout_has_the_name_that_it_has_where_it_comes_from() {
    let put = |kind, name: &str, spec| Edit::Put { kind, name: name.to_owned(), spec };
    let edits = vec![
        put(Kind::Service, "a", json!({"url": "http://a:1", "timeouts": {"request": "7s"}})),
        put(Kind::Route, "all", json!({"service": "a"})),
    ];
    let snapshot = Snapshot::default().apply(1, edits).expect("valid").0;
    let explained = explain(&snapshot, &question(&json!({}))).expect("an explanation");
    let told = serde_json::to_value(explained).expect("plain data");
    let expected = json!({"name": "timeouts.request", "value": "7s", "from": "service"});
    assert_eq!(told["outcomes"][0]["settings"][1], expected, "{told}");
}

#[test]
fn what_is_refused_or_not_found_is_explained_too() {
    let refused = told(&question(&json!({"url": "http://shop.example:8080/a%2fb"})));
    assert_eq!(refused["path"]["refused"]["code"], "path-encoded-slash");
    assert_eq!((&refused["route"], &refused["outcomes"]), (&Value::Null, &json!([])));
    let host = told(&question(&json!({"headers": [{"name": "Host", "value": "a b"}]})));
    assert_eq!(host["host"]["refused"]["code"], "host-invalid-name");
    let nothing = told(&question(&json!({"url": "/nothing", "headers": [{"name": "Host", "value": "x"}]})));
    assert_eq!((&nothing["listener"], &nothing["candidates"]), (&Value::Null, &json!([])));
    assert_eq!(nothing["outcomes"][0]["status"], 404);
}

#[test]
fn filters_are_told_in_the_order_in_which_they_act() {
    let edits = |value: &str| json!({"add": {"x": value}, "remove": ["y"]});
    let route = json!({
        "paths": [{"template": "/v1/{id}"}], "request_headers": edits("route"), "response_headers": edits("route"),
        "rewrite": {"host": "route.internal", "path": {"template": "/v2/{id}"}},
        "mirrors": [{"service": "b", "fraction": "2.50%"}],
        "backends": [
            {"service": "a"},
            {"service": "b", "mirrors": [{"service": "a"}], "rewrite": {"host": "b.internal"}, "request_headers": edits("b"), "response_headers": edits("b")},
        ],
    });
    let moved = json!({"paths": ["/old"], "redirect": {"scheme": "https", "path": {"replace_prefix": "/new"}}});
    let put = |(name, spec): (&str, Value)| Edit::Put { kind: Kind::Route, name: name.to_owned(), spec };
    let snapshot = snapshot().apply(2, [("v1", route), ("moved", moved)].map(put).into()).expect("valid").0;
    let told = |url: &str| -> Vec<Vec<String>> {
        let told = explain(&snapshot, &question(&json!({"url": url}))).expect("an explanation");
        let one = |filter: Setting| format!("{} {} {}", filter.name, filter.value, word(filter.from));
        told.outcomes.into_iter().map(|outcome| outcome.filters.into_iter().map(one).collect()).collect()
    };
    let outcomes = told("http://shop.example:8080/v1/7?q");
    let expected = [
        "rewrite.host route.internal route",
        "rewrite.path /v2/7 route",
        "request_headers.remove y route",
        "request_headers.add x: route route",
        "response_headers.remove y route",
        "response_headers.add x: route route",
        "mirrors b 2.5% route",
    ];
    assert_eq!(outcomes[0], expected);
    let expected = [
        "rewrite.host b.internal backend",
        "rewrite.path /v2/7 route",
        "request_headers.remove y route",
        "request_headers.add x: route route",
        "request_headers.remove y backend",
        "request_headers.add x: b backend",
        "response_headers.remove y backend",
        "response_headers.add x: b backend",
        "response_headers.remove y route",
        "response_headers.add x: route route",
        "mirrors b 2.5% route",
        "mirrors a 100% backend",
    ];
    assert_eq!(outcomes[1], expected);
    let moved = told("http://shop.example:8080/old/a?q=1");
    assert_eq!(moved, [["redirect https://shop.example/new/a?q=1 route"]]);
}

fn word(origin: Origin) -> String {
    serde_json::to_value(origin).expect("plain data").as_str().expect("a word").to_owned()
}

#[test]
fn questions_that_cannot_be_understood_are_faults() {
    let faults = |more: Value| -> Vec<String> {
        let faults = explain(&snapshot(), &question(&more)).expect_err("faults");
        faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.hint.unwrap_or_default())).collect()
    };
    assert_eq!(faults(json!({"listener": "wbe"})), ["/listener did you mean `web`?"]);
    assert!(faults(json!({"url": "shop.example/"}))[0].starts_with("/url write"));
    assert_eq!(faults(json!({"headers": [{"name": "a", "value": "b\nc"}]})), ["/headers/0/value "]);
}

/// A place with very many routes: what a request cannot match is counted, not listed.
#[test]
fn routes_that_ask_for_other_values_are_counted() {
    let route = |number: u32| {
        let spec = json!({"headers": [{"name": "x-tenant", "exact": number.to_string()}], "respond": {}});
        Edit::Put { kind: Kind::Route, name: format!("t{number}"), spec }
    };
    let snapshot = Snapshot::default().apply(1, (0..1000).map(route).collect()).expect("valid").0;
    let headers = json!([{"name": "X-Tenant", "value": "7"}, {"name": "X-Tenant", "value": "9"}]);
    let told = explain(&snapshot, &question(&json!({"headers": headers}))).expect("an explanation");
    let verdicts: Vec<_> = told.candidates.iter().map(|one| (one.route.as_str(), one.verdict, one.because)).collect();
    assert_eq!(verdicts, [("t7", Said::Won, None), ("t9", Said::Lost, Some(Because::Age))]);
    assert_eq!((told.omitted, told.other_values), (0, 998));
}
