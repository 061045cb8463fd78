//! What comes of paths and locations, against the tables of Gateway API and against hostile values.

use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::path::Refused;
use super::redirect::Origin;
use crate::config::Edit;
use crate::exchange::Scheme;
use crate::problem::Problems;
use crate::resource::Kind;
use crate::router::path::{PathFault, canonical};
use crate::router::{Found, Request};
use crate::snapshot::{Action, Snapshot};

fn with_route(spec: Value) -> Result<Snapshot, Problems> {
    let service = json!({"url": "http://a:1"});
    let edits = [(Kind::Service, "a", service), (Kind::Route, "r", spec)];
    let edits = edits.map(|(kind, name, spec)| Edit::Put { kind, name: name.to_owned(), spec });
    Snapshot::default().apply(1, edits.into()).map(|(snapshot, _)| snapshot)
}

fn found<'s>(snapshot: &'s Snapshot, path: &str) -> Found<'s> {
    let headers = crate::fields::Fields::default();
    let (listener, source, query) = (None, None, None);
    let request = Request { listener, source, host: "api.test", path, method: &Method::GET, headers: &headers, query };
    snapshot.router.find(&request).expect("the route matches")
}

/// What becomes of `path` on a route with these `paths`.
fn rewritten(paths: &Value, rewrite: &Value, path: &str) -> Result<String, Refused> {
    let spec = json!({"paths": paths, "service": "a", "rewrite": {"path": rewrite}});
    let snapshot = with_route(spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    let filters = snapshot.routes.find("r").and_then(|route| route.filters()).expect("there is a rewrite");
    filters.path.as_ref().expect("of the path").apply(path, &found(&snapshot, path).captures(path))
}

/// The table of HTTPPathModifier, and what follows from it.
#[test]
fn prefixes_are_replaced_in_whole_segments() {
    for (path, prefix, with, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
        ("/", "/", "/xyz", "/xyz/"),
    ] {
        let made = rewritten(&json!([prefix]), &json!({"replace_prefix": with}), path);
        assert_eq!(made.as_deref(), Ok(expected), "{path} {prefix} {with}");
    }
    let several = rewritten(&json!(["/a", "/a/b", "/c"]), &json!({"replace_prefix": "/x"}), "/a/b/c");
    assert_eq!(several.as_deref(), Ok("/x/c"), "the prefix that matched is the longest");
    assert_eq!(rewritten(&json!([]), &json!({"replace_prefix": "/x"}), "/a").as_deref(), Ok("/x/a"));
}

#[test]
fn captured_values_go_where_their_names_stand() {
    let template = json!([{"template": "/orders/{id}/lines/{line}"}]);
    let made = rewritten(&template, &json!({"template": "/v2/{line}.json/of-{id}"}), "/orders/7/lines/%20a");
    assert_eq!(made.as_deref(), Ok("/v2/%20a.json/of-7"));
    let regex = json!([{"regex": "/(?<kind>[a-z]+)/(?<rest>.*)"}]);
    assert_eq!(rewritten(&regex, &json!({"template": "/{rest}/{kind}"}), "/a/b/c").as_deref(), Ok("/b/c/a"));
    let swap = json!({"regex": {"pattern": "/service/(?<a>[^/]+)(?<b>/.*)", "substitution": "{b}/instance/{a}"}});
    assert!(with_route(json!({"service": "a", "rewrite": {"path": swap}})).is_err(), "a path begins with a slash");
    let swap = json!({"regex": {"pattern": "/service/(?<a>[^/]+)(?<b>/.*)", "substitution": "/x{b}/instance/{a}"}});
    assert_eq!(rewritten(&json!([]), &swap, "/service/foo/v1/api").as_deref(), Ok("/x/v1/api/instance/foo"));
    assert_eq!(rewritten(&json!([]), &swap, "/other").as_deref(), Ok("/other"));
    assert_eq!(rewritten(&json!(["/a"]), &json!({"replace_full": "/b/"}), "/a/b/c").as_deref(), Ok("/b/"));
}

#[test]
fn what_would_lead_elsewhere_is_refused() {
    let any = |substitution: &str, path: &str| {
        let regex = json!({"pattern": "/(?<a>[^!]*)!(?<b>[^!]*)!(?<c>[^!]*)", "substitution": substitution});
        rewritten(&json!([]), &json!({"regex": regex}), path)
    };
    for (substitution, path, expected) in [
        ("/v2/{a}/{b}/{c}", "/x!..!y", Err(Refused::DotSegment)),
        ("/v2/{a}{b}/{c}", "/.!.!y", Err(Refused::DotSegment)),
        ("/v2/.{b}/{c}", "/x!.!y", Err(Refused::DotSegment)),
        ("/v2/{a}{b}", "/x%2!0!y", Err(Refused::CutEscape)),
        ("/v2/{a}{b}", "/x%!20!y", Err(Refused::CutEscape)),
        ("/v2/{b}{a}", "/E%20!%!20", Err(Refused::CutEscape)),
        // An escaped percent sign with digits behind it is what decoding twice would open.
        ("/v2/%25{b}", "/x!20!y", Err(Refused::Path(PathFault::DoubleEncoded))),
        ("/v2/{a}/{b}", "/x!!y", Ok("/v2/x/")),
        ("/v2/{a}/{b}/{c}", "/x!!y", Ok("/v2/x/y")),
    ] {
        assert_eq!(any(substitution, path).as_deref(), expected.as_ref().map(|path| *path), "{path}");
    }
    let many = "{a}".repeat(64);
    assert_eq!(any(&format!("/{many}"), &format!("/{}!!", "a".repeat(1000))), Err(Refused::TooLong));
    let long = "a".repeat(30_000);
    assert_eq!(any("/{a}", &format!("/{long}!!")), Ok(format!("/{long}")), "a listener may take as much");
}

proptest! {
    /// Whatever was captured: what comes out is canonical, holds no dot segment and lies where the text puts it.
    #[test]
    fn nothing_leaves_its_place(
        path in "/[a.%25EF;~!/]{0,24}",
        fixed in prop::sample::select(vec!["/", "/v2/", "/v2/x-", "/v2/a%20"]),
        between in prop::sample::select(vec!["", ".", "/", "%25", "-"]),
    ) {
        let Ok(path) = canonical(&path) else { return Ok(()) };
        let regex = json!({
            "pattern": "/(?<a>[^!]*)(!(?<b>[^!]*))?(!(?<c>.*))?", "substitution": format!("{fixed}{{a}}{between}{{b}}/{{c}}"),
        });
        if let Ok(made) = rewritten(&json!([]), &json!({"regex": regex}), &path) {
            let again = canonical(&made);
            prop_assert_eq!(again.as_deref(), Ok(&*made));
            let place = &fixed[..=fixed.rfind('/').expect("a slash")];
            prop_assert!(made.starts_with(place) || made == *path, "{} of {}", made, path);
        }
    }

    /// A prefix that is replaced is replaced as text; an oracle that works on segments agrees.
    #[test]
    fn replacing_a_prefix_replaces_segments(
        prefix in "(/[ab]{1,2}){0,2}", with in "(/[xy]){0,2}", rest in "(/[ab]{1,2}){0,3}/?",
    ) {
        let path = format!("{prefix}{rest}");
        prop_assume!(!path.is_empty());
        let slash = |text: &str| if text.is_empty() { "/".to_owned() } else { text.to_owned() };
        let made = rewritten(&json!([slash(&prefix)]), &json!({"replace_prefix": slash(&with)}), &path);
        let segments = |text: &str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
        let expected = [segments(&with), segments(&rest)].concat();
        prop_assert_eq!(made, Ok(format!("/{}", expected.join("/"))));
    }
}

/// HTTPRequestRedirectFilter: which port, which path, and that the query stays.
#[test]
fn redirects_lead_where_they_say() {
    use Scheme::{Http, Https};
    for (redirect, scheme, port, location) in [
        (json!({"scheme": "https"}), Http, 8080, "https://api.test/a/b?q=1"),
        (json!({"scheme": "http"}), Https, 8443, "http://api.test/a/b?q=1"),
        (json!({"scheme": "https", "port": 8443}), Http, 80, "https://api.test:8443/a/b?q=1"),
        (json!({"scheme": "https", "port": 443}), Http, 80, "https://api.test/a/b?q=1"),
        (json!({"scheme": "https", "port": 80}), Http, 80, "https://api.test:80/a/b?q=1"),
        (json!({"host": "new.test"}), Http, 80, "http://new.test/a/b?q=1"),
        (json!({"host": "new.test"}), Http, 8080, "http://new.test:8080/a/b?q=1"),
        (json!({"host": "new.test"}), Https, 443, "https://new.test/a/b?q=1"),
        (json!({"host": "2001:db8::1", "port": 80}), Http, 8080, "http://[2001:db8::1]/a/b?q=1"),
        (json!({"path": {"replace_prefix": "/x"}}), Http, 80, "http://api.test/x/b?q=1"),
        (json!({"path": {"replace_full": "/"}, "status": 301}), Http, 80, "http://api.test/?q=1"),
    ] {
        let snapshot = with_route(json!({"paths": ["/a"], "redirect": redirect})).expect("a route");
        let Action::Redirect(compiled) = &snapshot.routes.find("r").expect("it is there").action else { panic!() };
        let origin = Origin { scheme, host: "api.test", port: Some(port), path: "/a/b", query: Some("q=1") };
        let made = compiled.location(&origin, &found(&snapshot, "/a/b").captures("/a/b"));
        assert_eq!(made.expect("a location"), location, "{redirect}");
        let status = redirect["status"].as_u64().unwrap_or(302);
        assert_eq!(u64::from(compiled.status.as_u16()), status);
    }
    let snapshot = with_route(json!({"redirect": {"scheme": "https"}})).expect("a route");
    let Action::Redirect(compiled) = &snapshot.routes.find("r").expect("it is there").action else { panic!() };
    let nowhere = Origin { scheme: Http, host: "", port: None, path: "/", query: None };
    assert!(compiled.location(&nowhere, &[]).is_err());
}

#[test]
fn what_cannot_work_is_refused_when_it_is_written() {
    let path = |rewrite: Value| json!({"paths": ["/a"], "service": "a", "rewrite": {"path": rewrite}});
    for (spec, expected) in [
        (json!({"redirect": {}}), "/redirect missing-value"),
        (json!({"redirect": {"port": 0}}), "/redirect/port invalid-value"),
        (json!({"redirect": {"scheme": "https", "status": 304}}), "/redirect/status invalid-value"),
        (json!({"redirect": {"scheme": "ftp"}}), "/redirect/scheme unknown-value"),
        (json!({"redirect": {"host": "*.a.test"}}), "/redirect/host invalid-value"),
        (json!({"redirect": {"scheme": "https"}, "service": "a"}), "/redirect conflicting-fields"),
        (json!({"redirect": {"scheme": "https"}, "rewrite": {"host": "b"}}), "/rewrite conflicting-fields"),
        (json!({"respond": {}, "request_headers": {"remove": ["a"]}}), "/request_headers conflicting-fields"),
        (json!({"respond": {"status": 204, "body": "x"}}), "/respond/body conflicting-fields"),
        (json!({"service": "a", "rewrite": {"host": "*.a"}}), "/rewrite/host invalid-value"),
        (
            json!({"service": "a", "response_headers": {"set": {"Connection": "x"}}}),
            "/response_headers/set/Connection reserved-field",
        ),
        (path(json!({"replace_full": "a"})), "/rewrite/path/replace_full invalid-path"),
        (path(json!({"replace_full": "/a/../b"})), "/rewrite/path/replace_full invalid-path"),
        (path(json!({"replace_full": "/a?b"})), "/rewrite/path/replace_full invalid-path"),
        (path(json!({"replace_prefix": "/a%2fb"})), "/rewrite/path/replace_prefix invalid-path"),
        (path(json!({"replace_full": "/a", "replace_prefix": "/b"})), "/rewrite/path conflicting-fields"),
        (path(json!({"template": "/b/{id}"})), "/rewrite/path/template unknown-name"),
        (path(json!({"template": "/b/{id"})), "/rewrite/path/template invalid-path"),
        (path(json!({"template": "/b/{i-d}"})), "/rewrite/path/template invalid-path"),
        (path(json!({"regex": {"pattern": "(", "substitution": "/"}})), "/rewrite/path/regex/pattern invalid-regex"),
        (
            path(json!({"regex": {"pattern": ".*a.{30}", "substitution": "/"}})),
            "/rewrite/path/regex/pattern regex-too-large",
        ),
        (
            path(json!({"regex": {"pattern": "(?<a>.*)", "substitution": "{a}"}})),
            "/rewrite/path/regex/substitution invalid-path",
        ),
        (
            path(json!({"regex": {"pattern": "(?<a>.*)", "substitution": "/{b}"}})),
            "/rewrite/path/regex/substitution unknown-name",
        ),
        (
            path(json!({"regex": {"pattern": "(?<a>.*)", "substitution": "/%2{a}"}})),
            "/rewrite/path/regex/substitution invalid-path",
        ),
        (
            json!({"paths": [{"exact": "/a"}], "service": "a", "rewrite": {"path": {"replace_prefix": "/b"}}}),
            "/rewrite/path/replace_prefix no-prefix",
        ),
        (
            json!({"paths": [{"template": "/{a}"}, {"regex": "/(?<b>.*)"}], "service": "a", "rewrite": {"path": {"template": "/x/{a}"}}}),
            "/rewrite/path/template unknown-name",
        ),
        (
            json!({"backends": [{"service": "a", "rewrite": {"path": {"template": "/{x}"}}}]}),
            "/backends/0/rewrite/path/template unknown-name",
        ),
        (
            json!({"backends": [{"service": "a", "weight": 0, "request_headers": {"remove": ["Host"]}}]}),
            "/backends/0/request_headers/remove/0 reserved-field",
        ),
        (json!({"service": "a", "timeouts": {"request": "0s"}}), "/timeouts/request invalid-value"),
        (
            json!({"service": "a", "timeouts": {"request": "1s", "backend_request": "2s"}}),
            "/timeouts/backend_request conflicting-fields",
        ),
        (json!({"respond": {}, "mirrors": [{"service": "a"}]}), "/mirrors conflicting-fields"),
        (json!({"service": "a", "mirrors": vec![json!({"service": "a"}); 9]}), "/mirrors invalid-value"),
        (
            json!({"service": "a", "mirrors": [{"service": "a", "fraction": "101%"}]}),
            "/mirrors/0/fraction invalid-value",
        ),
        (json!({"service": "a", "mirrors": [{"service": "b"}]}), "/mirrors/0/service unknown-reference"),
        (json!({"service": "a", "mirrors": [{"service": "a", "timeout": "0s"}]}), "/mirrors/0/timeout invalid-value"),
        (
            json!({"backends": [{"service": "a", "mirrors": [{"service": "b"}]}]}),
            "/backends/0/mirrors/0/service unknown-reference",
        ),
        (
            json!({"backends": [{"service": "a", "mirrors": vec![json!({"service": "a"}); 9]}]}),
            "/backends/0/mirrors invalid-value",
        ),
        (
            json!({"paths": ["/a"], "service": "a", "normalize_path": false, "rewrite": {"path": {"replace_full": "/b"}}}),
            "/rewrite/path conflicting-fields",
        ),
        (json!({"paths": ["/a%2Fb"], "service": "a"}), "/paths/0 invalid-path"),
        (json!({"paths": ["/%41"], "service": "a", "normalize_path": false}), "/paths/0 invalid-path"),
        (json!({"backends": [{"service": "b"}]}), "/backends/0/service unknown-reference"),
    ] {
        let problems = with_route(spec.clone()).err().unwrap_or_else(|| panic!("{spec} is taken"));
        let found: Vec<_> = problems.iter().map(|problem| format!("{} {}", problem.pointer, problem.code)).collect();
        assert_eq!(found, [expected], "{spec}");
    }
}

#[test]
fn a_backend_with_filters_of_its_own_keeps_them() {
    let spec = json!({"backends": [
        {"service": "a", "weight": 0, "request_headers": {"set": {"x": "never"}}},
        {"service": "a", "weight": 3, "request_headers": {"set": {"x": "3"}}},
        {"service": "a", "weight": 1},
    ]});
    let snapshot = with_route(spec).expect("a route");
    let route = snapshot.routes.find("r").expect("it is there");
    let told = |draw| {
        let (_, backend) = route.draw_service(draw).expect("a service");
        let edits = route.filters_of(backend).flat_map(|filters| filters.request.iter());
        edits.map(|(_, field)| field).collect::<Vec<_>>()
    };
    assert_eq!([0, 1, 2, 3].map(told), [vec!["x: 3"], vec!["x: 3"], vec!["x: 3"], vec![]]);
    let plain = with_route(json!({"service": "a"})).expect("a route");
    assert!(matches!(plain.routes.find("r").expect("it is there").action, Action::Forward(_)));
    assert!(plain.routes.find("r").expect("it is there").filters_of(0).next().is_none());
}
