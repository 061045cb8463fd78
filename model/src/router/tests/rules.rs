//! The rules of the router, one by one.

use super::*;

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
        ("listener", json!({"listeners": ["one"]})),
        ("source", json!({"sources": ["192.0.2.0/24"]})),
        ("query", json!({"query": [{"name": "q", "exact": "1"}]})),
        ("header", json!({"headers": [{"name": "x-a", "exact": "1"}]})),
        ("headers", json!({"headers": [{"name": "x-a", "exact": "1"}, {"name": "x-b", "exact": "1"}]})),
        ("method", json!({"methods": ["GET"]})),
        ("prefix", json!({"paths": ["/a"]})),
        ("template", json!({"paths": [{"template": "/a/{x}"}]})),
        ("regex", json!({"paths": [{"regex": "/a/[a-z]"}]})),
        ("longer", json!({"paths": ["/a/b"]})),
        ("exact", json!({"paths": [{"exact": "/a/b"}]})),
    ];
    let ask = Ask {
        listener: Some("one"),
        source: Some([192, 0, 2, 7].into()),
        headers: vec![("x-a", "1"), ("x-b", "0"), ("x-b", "1")],
        query: Some("p=2&q=2&%71=1"),
        ..Ask::get("any.example", "/a/b")
    };
    for top in 2..=rungs.len() {
        assert_route(&gateway(&rungs[..top]), &ask, rungs[if top == 2 { 0 } else { top - 1 }].0);
    }
    // Where the conditions of the longer path fail, the shorter one has its turn.
    let mut conditional = rungs.clone();
    for (_, spec) in &mut conditional[9..] {
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

#[test]
fn templates_take_any_one_segment_where_a_name_stands() {
    let snapshot = gateway(&[
        ("order", json!({"paths": [{"template": "/orders/{id}"}]})),
        ("line", json!({"paths": [{"template": "/orders/{id}/lines/{line}"}]})),
        ("pages", json!({"paths": [{"template": "/{a}/{b}/lines/first"}]})),
        ("slash", json!({"paths": [{"template": "/orders/{id}/"}]})),
        ("special", json!({"paths": ["/orders/special"]})),
    ]);
    for (path, expected) in [
        ("/orders/7", "order"),
        ("/orders/", "none"),
        ("/orders", "none"),
        ("/orders/7/", "slash"),
        ("/orders/7/lines", "none"),
        ("/orders/7/lines/12", "line"),
        ("/orders/7/lines/first", "line"),
        ("/carts/7/lines/first", "pages"),
        ("/orders/special", "special"),
        ("/orders/special/lines/1", "special"),
    ] {
        assert_route(&snapshot, &Ask::get("any.example", path), expected);
    }
    let (_, captures) = Ask::get("any.example", "/orders/7/lines/12").found(&snapshot).expect("a route");
    assert_eq!(captures, [("id".to_owned(), "7"), ("line".to_owned(), "12")]);
}

#[test]
fn regular_expressions_match_whole_paths_before_shorter_beginnings() {
    let snapshot = gateway(&[
        ("images", json!({"paths": [{"regex": ".*\\.(png|jpg)"}]})),
        ("root", json!({"paths": ["/"]})),
        ("static", json!({"paths": ["/static"]})),
        ("numbers", json!({"paths": [{"regex": "/orders/(?<number>[0-9]+)"}, {"template": "/orders/{number}/lines"}]})),
        ("names", json!({"paths": [{"template": "/orders/{name}"}]})),
    ]);
    for (path, expected) in [
        ("/a/b.png", "images"),
        ("/a/b.png/c", "root"),
        ("/static/b.png", "static"),
        ("/orders/12", "numbers"),
        ("/orders/12a", "names"),
        ("/orders/12/lines", "numbers"),
        ("/orders/1/2", "root"),
    ] {
        assert_route(&snapshot, &Ask::get("any.example", path), expected);
    }
    for path in ["/orders/12", "/orders/12/lines"] {
        let (_, captures) = Ask::get("any.example", path).found(&snapshot).expect("a route");
        assert_eq!(captures, [("number".to_owned(), "12")]);
    }
}

#[test]
fn conditions_look_at_every_value() {
    let snapshot = gateway(&[
        ("regex", json!({"headers": [{"name": "x-v", "regex": "[0-9]+"}, {"name": "x-w", "present": true}]})),
        ("absent", json!({"query": [{"name": "p", "present": false}], "headers": [{"name": "x-v", "present": false}]})),
        ("query", json!({"query": [{"name": "p", "regex": "a+"}, {"name": "q", "present": true}]})),
        ("none", json!({"priority": -1})),
    ]);
    let ask = |headers: &[(&'static str, &'static str)], query| Ask {
        headers: headers.to_vec(),
        query: Some(query),
        ..Ask::get("any.example", "/")
    };
    for (headers, query, expected) in [
        (&[("x-v", "a"), ("x-v", "12"), ("x-w", "")][..], "p=1", "regex"),
        (&[("x-v", "12a"), ("x-w", "")], "p=1", "none"),
        (&[("x-v", "12")], "p=1", "none"),
        (&[], "q=1", "absent"),
        (&[], "p=b&p=%61a&q", "query"),
        (&[], "p=b&q", "none"),
        (&[], "p=a", "none"),
    ] {
        assert_route(&snapshot, &ask(headers, query), expected);
    }
}

#[test]
fn sources_are_networks() {
    let sources = json!({"sources": ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1", "2001:db8::/32"]});
    let snapshot = gateway(&[("all", json!({})), ("inside", sources)]);
    for (source, expected) in [
        ("10.1.2.3", "inside"),
        ("10.255.255.255", "inside"),
        ("11.0.0.0", "all"),
        ("192.0.2.1", "inside"),
        ("192.0.2.2", "all"),
        ("2001:db8::1", "inside"),
        ("2001:db9::1", "all"),
        ("::a00:1", "all"),
    ] {
        let ask = Ask { source: Some(source.parse().expect("an address")), ..Ask::get("any.example", "/") };
        assert_route(&snapshot, &ask, expected);
    }
    assert_route(&snapshot, &Ask::get("any.example", "/"), "all");
}

#[test]
fn what_cannot_be_compiled_is_refused_with_its_place() {
    let refused = |spec: Value| {
        let mut spec = spec;
        spec["respond"] = json!({});
        let edit = Edit::Put { kind: Kind::Route, name: "r".to_owned(), spec };
        let problems = Snapshot::default().apply(1, vec![edit]).map(drop).expect_err("problems");
        problems.into_iter().map(|problem| format!("{} {}", problem.pointer, problem.code)).collect::<Vec<_>>()
    };
    let huge = ".*a.{60}";
    assert_eq!(refused(json!({"paths": ["/", {"regex": "/a("}]})), ["/paths/1 invalid-regex"]);
    assert_eq!(refused(json!({"paths": [{"regex": format!("/{huge}")}]})), ["/paths/0/regex regex-too-large"]);
    assert_eq!(refused(json!({"paths": [{"regex": "orders"}]})), ["/paths/0 invalid-path"]);
    assert_eq!(refused(json!({"paths": [{"template": "/a/{b}c"}]})), ["/paths/0 invalid-path"]);
    assert_eq!(refused(json!({"paths": [{"template": "/a//{b}"}]})), ["/paths/0 invalid-path"]);
    assert_eq!(
        refused(json!({"headers": [{"name": "a", "regex": huge}], "query": [{"name": "b", "regex": huge}]})),
        ["/headers/0/regex regex-too-large", "/query/0/regex regex-too-large"]
    );
    assert_eq!(
        refused(
            json!({"headers": [{"name": "a"}, {"name": "a", "exact": "b", "present": true}, {"name": "a", "regex": "["}]})
        ),
        ["/headers/0 missing-value", "/headers/1 conflicting-fields", "/headers/2/regex invalid-regex"]
    );
}
