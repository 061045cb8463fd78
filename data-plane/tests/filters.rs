//! What routes and their backends change in requests and responses, through a whole node.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use data_plane::telemetry::Telemetry;
use http_body_util::BodyExt;
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use support::{Node, backend, problem, put, read_until, settings, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// A node with a service that echoes, and these routes.
async fn node(routes: &[(&str, Value)]) -> Node {
    let address = backend::echo().await;
    let edits = json!({"set": {"x-both": "policy"}, "add": {"x-all": "policy"}});
    let mut edits: Vec<Edit> = vec![
        put(Kind::Service, "echo", json!({ "url": format!("http://{address}") })),
        put(Kind::Policy, "policy", json!({"type": "headers", "config": {"request": edits, "response": edits}})),
    ];
    edits.extend(routes.iter().map(|(name, spec)| put(Kind::Route, name, spec.clone())));
    Node::start(edits).await
}

async fn get(node: &Node, target: &str, fields: &str) -> String {
    node.raw(format!("GET {target} HTTP/1.1\r\nhost: Api.test:81\r\n{fields}connection: close\r\n\r\n")).await
}

/// What the service got.
fn echoed(answer: &str) -> Value {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|_| panic!("{answer}"))
}

fn field(got: &Value, name: &str) -> Vec<String> {
    let headers = got["headers"].as_array().unwrap().iter();
    headers.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

fn answered(answer: &str, name: &str) -> Vec<String> {
    let head = answer.split_once("\r\n\r\n").unwrap().0;
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).collect()
}

#[tokio::test]
async fn a_rewritten_request_reaches_its_service_and_keeps_its_query() {
    let node = node(&[
        ("prefix", json!({"paths": ["/orders"], "service": "echo", "rewrite": {"path": {"replace_prefix": "/v2"}}})),
        (
            "template",
            json!({
                "paths": [{"template": "/items/{id}"}], "service": "echo",
                "rewrite": {"host": "items.internal", "path": {"template": "/v3/{id}/x"}},
            }),
        ),
        (
            "regex",
            json!({
                "paths": [{"regex": "/r/(?<a>[^!]*)!(?<b>.*)"}], "service": "echo",
                "rewrite": {"path": {"template": "/in/{a}{b}"}},
            }),
        ),
    ])
    .await;
    for (target, expected) in [
        ("/orders", "/v2"),
        ("/orders/", "/v2/"),
        ("//orders/./7?a=/orders&b", "/v2/7?a=/orders&b"),
        ("/items/a%20b?", "/v3/a%20b/x?"),
        ("/r/a!/b", "/in/a/b"),
        ("/r/a/!/b", "/in/a/b"),
    ] {
        assert_eq!(echoed(&get(&node, target, "").await)["target"], expected, "{target}");
    }
    let got = echoed(&get(&node, "/items/7", "").await);
    assert_eq!(
        (field(&got, "host"), field(&got, "x-forwarded-host")),
        (vec!["items.internal".into()], vec!["Api.test:81".into()])
    );
    let plain = echoed(&get(&node, "/orders", "").await);
    assert_eq!(field(&plain, "host"), ["Api.test:81"]);
    for climbing in ["/r/.!.", "/r/.!./secret", "/r/%2!0", "/r/x%!2e"] {
        let refused = get(&node, climbing, "").await;
        let code = problem(&refused)["code"].as_str().unwrap().to_owned();
        assert!(refused.starts_with("HTTP/1.1 400"), "{climbing}: {refused}");
        assert!(code == "path-not-rewritable" || code == "path-invalid-escape", "{climbing}: {refused}");
    }
}

#[tokio::test]
async fn fields_are_edited_for_the_route_and_for_the_backend_that_was_drawn() {
    let edits = |value: &str| json!({"set": {"x-both": value}, "add": {"x-all": value}, "remove": ["x-gone"]});
    let node = node(&[
        (
            "both",
            json!({
                "paths": ["/both"], "policies": ["policy"],
                "request_headers": edits("route"), "response_headers": edits("route"),
                "backends": [
                    {"service": "echo", "weight": 0, "request_headers": edits("idle")},
                    {"service": "echo", "request_headers": edits("backend"), "response_headers": edits("backend"),
                        "rewrite": {"host": "backend.internal"}},
                ],
            }),
        ),
        ("plain", json!({"paths": ["/plain"], "service": "echo"})),
        ("fixed", json!({"paths": ["/fixed"], "respond": {"status": 503}, "response_headers": {"set": {"retry-after": "60"}}})),
    ])
    .await;
    let answer = get(&node, "/both", "x-gone: 1\r\nx-both: client\r\nx-all: client\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let got = echoed(&answer);
    assert_eq!(field(&got, "x-both"), ["backend"]);
    assert_eq!(field(&got, "x-all"), ["client", "policy", "route", "backend"]);
    assert_eq!((field(&got, "x-gone"), field(&got, "host")), (vec![], vec!["backend.internal".to_owned()]));
    assert_eq!(answered(&answer, "x-both"), ["policy"]);
    assert_eq!(answered(&answer, "x-all"), ["backend", "route", "policy"]);
    let plain = get(&node, "/plain", "x-gone: 1\r\n").await;
    assert_eq!(field(&echoed(&plain), "x-gone"), ["1"]);
    assert!(!plain.contains("x-both"), "{plain}");
    let fixed = get(&node, "/fixed", "").await;
    assert!(fixed.starts_with("HTTP/1.1 503"), "{fixed}");
    assert_eq!(answered(&fixed, "retry-after"), ["60"]);
}

#[tokio::test]
async fn clients_are_sent_elsewhere() {
    let node = node(&[
        ("https", json!({"redirect": {"scheme": "https", "status": 301}})),
        ("moved", json!({"paths": ["/old"], "redirect": {"path": {"replace_prefix": "/new"}, "status": 308}})),
        (
            "ids",
            json!({
                "paths": [{"template": "/o/{id}"}], "redirect": {"host": "o.test", "port": 80, "path": {"template": "/{id}"}},
                "response_headers": {"set": {"cache-control": "no-store"}},
            }),
        ),
    ])
    .await;
    let port = node.address.port();
    for (target, status, location) in [
        ("/?q=%20", 301, "https://api.test/?q=%20".to_owned()),
        ("/a//b", 301, "https://api.test/a/b".to_owned()),
        ("/old/x?y", 308, format!("http://api.test:{port}/new/x?y")),
        ("/o/7", 302, "http://o.test/7".to_owned()),
    ] {
        let answer = get(&node, target, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(
            (answered(&answer, "location"), answered(&answer, "content-length")),
            (vec![location], vec!["0".into()])
        );
        assert_eq!(answered(&answer, "cache-control").is_empty(), target != "/o/7");
    }
    let nameless = node.raw("GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!(problem(&nameless)["code"], "host-missing");
}

/// The port of the listener is not that of a proxy in front of it, and neither is the scheme.
#[tokio::test]
async fn behind_a_trusted_proxy_clients_are_sent_where_they_know_it() {
    let moved = json!({"redirect": {"path": {"replace_full": "/new"}}});
    let listener = json!({"forwarded": {"trusted_proxies": ["127.0.0.1"]}});
    let node = Node::start_on(listener, vec![put(Kind::Route, "moved", moved)]).await;
    let answer = get(&node, "/old", "x-forwarded-proto: https\r\nx-forwarded-for: 192.0.2.1\r\n").await;
    assert_eq!(answered(&answer, "location"), ["https://api.test/new"]);
}

/// HTTPRoute, BackendRefs: a route without a backend that could get the request.
#[tokio::test]
async fn a_route_without_a_backend_that_could_get_it_answers_500() {
    let none = json!({"service": "echo", "weight": 0});
    let node = node(&[
        ("none", json!({"paths": ["/none"], "backends": []})),
        ("nothing", json!({"paths": ["/nothing"], "rewrite": {"host": "a.test"}})),
        ("weightless", json!({"paths": ["/weightless"], "backends": [none, none]})),
    ])
    .await;
    for path in ["/none", "/nothing", "/weightless"] {
        let answer = get(&node, path, "").await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{path}: {answer}");
        assert_eq!(problem(&answer)["code"], "no-backend");
    }
}

/// HTTPRoute, Timeouts: `request` is for all that is done for a request, `backend_request` for one exchange with a
/// service, both to the last byte of the response.
#[tokio::test]
async fn a_request_has_its_time_and_no_more() {
    let silent = backend::sockets(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (endless, echo) = (backend::endless().await, backend::echo().await);
    let mut edits: Vec<Edit> = [("silent", format!("http://{silent}")), ("deaf", format!("https://{silent}"))]
        .into_iter()
        .chain([("endless", format!("http://{endless}")), ("echo", format!("http://{echo}"))])
        .map(|(name, url)| put(Kind::Service, name, json!({ "url": url })))
        .collect();
    for (path, service, timeouts) in [
        ("/silent", "silent", json!({"request": "50ms"})),
        ("/part", "silent", json!({"request": "1h", "backend_request": "50ms"})),
        ("/unconnected", "deaf", json!({"request": "50ms"})),
        ("/endless", "endless", json!({"request": "2s"})),
        ("/endless-part", "endless", json!({"request": "1h", "backend_request": "2s"})),
        ("/echo", "echo", json!({"request": "1h", "backend_request": "1h"})),
    ] {
        edits.push(put(Kind::Route, &path[1..], json!({"paths": [path], "service": service, "timeouts": timeouts})));
    }
    let log = support::Log::default();
    let node = Node::start_telling(settings(), Telemetry::with_log_to(Box::new(log.clone())).unwrap(), edits).await;
    for late in ["/silent", "/part", "/unconnected"] {
        let answer = get(&node, late, "").await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{late}: {answer}");
        assert_eq!(problem(&answer)["code"], "upstream-timeout");
    }
    support::until(|| log.lines().len() == 3).await;
    for line in log.lines() {
        assert_eq!(line["target"], silent.to_string(), "{line}");
    }
    let failures = |shard: &data_plane::telemetry::Shard, service| {
        shard.services.get(service).and_then(|counts| counts.failures.get("upstream-timeout").copied())
    };
    node.until_counted(|shard| [failures(shard, "silent"), failures(shard, "deaf")] == [Some(2), Some(1)]).await;
    for late in ["/endless", "/endless-part"] {
        let broken = get(&node, late, "").await;
        assert!(broken.starts_with("HTTP/1.1 200") && broken.ends_with('.'), "{late}: {broken}");
    }
    node.until_counted(|shard| shard.rejections.get("response-late") == Some(&2)).await;
    echoed(&get(&node, "/echo", "").await);
}

/// What a service got, told to the test: method, target, one field and the body; nothing if the body broke off.
async fn telling() -> (SocketAddr, mpsc::UnboundedReceiver<(String, Option<Bytes>)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let address = backend::http(move |request| {
        let tell = tell.clone();
        async move {
            let (head, body) = request.into_parts();
            let mark = head.headers.get("x-mark").map_or("", |mark| mark.to_str().unwrap());
            let length = head.headers.get("content-length").map_or("-", |length| length.to_str().unwrap());
            let line = format!("{} {} {mark} {length}", head.method, head.uri);
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            let _ = tell.send((line, body));
            hyper::Response::new(backend::full("the mirror's answer"))
        }
    })
    .await;
    (address, told)
}

fn mirrored(service: &str, address: SocketAddr) -> Edit {
    put(Kind::Service, service, json!({ "url": format!("http://{address}") }))
}

#[tokio::test]
async fn mirrors_get_what_the_service_gets_and_the_client_gets_the_service_s_answer() {
    let (first, mut to_first) = telling().await;
    let (second, mut to_second) = telling().await;
    let route = json!({
        "paths": ["/a"], "service": "echo", "rewrite": {"path": {"replace_prefix": "/b"}},
        "request_headers": {"set": {"x-mark": "1"}},
        "mirrors": [{"service": "first"}, {"service": "second"}, {"service": "never", "fraction": "0%"}],
    });
    let mut node = node(&[]).await;
    let never = support::free_address();
    let edits = vec![
        mirrored("first", first),
        mirrored("second", second),
        mirrored("never", never),
        put(Kind::Route, "a", route),
    ];
    node.change(edits).await.unwrap();
    let large = "x".repeat(300_000);
    for (body, framing) in [
        (String::new(), "content-length: 0\r\n\r\n".to_owned()),
        ("hello".to_owned(), "content-length: 5\r\n\r\nhello".to_owned()),
        ("hello".to_owned(), "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()),
        (large.clone(), format!("content-length: {}\r\n\r\n{large}", large.len())),
    ] {
        let head = "POST /a/x?q HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        let got = echoed(&node.raw(format!("{head}{framing}")).await);
        assert_eq!((&got["target"], &got["body"]), (&json!("/b/x?q"), &json!(body)));
        for told in [&mut to_first, &mut to_second] {
            let (line, copy) = within(told.recv()).await.unwrap();
            let length = if framing.starts_with("transfer") { "-".to_owned() } else { body.len().to_string() };
            assert_eq!(line, format!("POST /b/x?q 1 {length}"));
            assert_eq!(copy.unwrap(), body);
        }
    }
    node.until_counted(|shard| shard.services.get("first").is_some_and(|counts| counts.mirrored == 4)).await;
    let shard = node.telemetry.gather().await;
    assert!(shard.services.values().all(|counts| counts.mirror_drops.is_empty()));
    assert!(!shard.services.contains_key("never"));
}

/// One mirror is dead, one never reads, one answers for ever: nothing of it reaches the client, and all is counted.
#[tokio::test]
async fn a_mirror_that_fails_is_its_own_affair() {
    let deaf = backend::sockets(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let endless = backend::endless().await;
    let mut node = node(&[]).await;
    let impatient = json!({ "url": format!("http://{deaf}"), "timeouts": { "request": "200ms" } });
    let route = json!({
        "service": "echo",
        "mirrors": [{"service": "dead"}, {"service": "deaf"}, {"service": "endless", "timeout": "1s"}],
    });
    let edits = vec![
        mirrored("dead", support::free_address()),
        put(Kind::Service, "deaf", impatient),
        mirrored("endless", endless),
        put(Kind::Route, "a", route),
    ];
    node.change(edits).await.unwrap();
    // More than sockets hold on the way to the one that does not read.
    let large = "x".repeat(16 * 1024 * 1024);
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", large.len());
    let got = echoed(&node.raw(format!("{head}{large}")).await);
    assert_eq!(got["body"].as_str().map(str::len), Some(large.len()));
    node.until_counted(|shard| {
        let dropped = |name| shard.services.get(name).map_or(0, |counts| counts.mirror_drops.values().sum());
        [dropped("dead"), dropped("deaf"), dropped("endless")] == [1, 1, 1]
    })
    .await;
}

/// Mirrors that never answer hold so many copies, and no more.
#[tokio::test]
async fn copies_under_way_are_bounded() {
    let deaf = backend::sockets(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut settings = settings();
    settings.cores = std::num::NonZeroUsize::MIN;
    let service = json!({ "url": format!("http://{}", backend::echo().await) });
    let edits = vec![
        put(Kind::Service, "echo", service),
        mirrored("deaf", deaf),
        put(Kind::Route, "a", json!({"service": "echo", "mirrors": [{"service": "deaf"}]})),
    ];
    let node = Node::start_with(settings, edits).await;
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    for _ in 0..200 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_until(&mut stream, "}").await;
    }
    node.until_counted(|shard| {
        let counts = shard.services.get("deaf");
        counts.is_some_and(|counts| counts.mirrored == 128 && counts.mirror_drops.get("too-many") == Some(&72))
    })
    .await;
}

/// A backend has mirrors of its own, which get what it gets and nothing that another gets.
#[tokio::test]
async fn mirrors_of_a_backend_get_its_requests_only() {
    let (first, mut to_first) = telling().await;
    let mut node = node(&[]).await;
    let route = |weights: [u32; 2]| {
        let mark = |mark: &str| json!({"set": {"x-mark": mark}});
        let marked = json!({"service": "echo", "weight": weights[0], "request_headers": mark("1"), "mirrors": [{"service": "first"}]});
        let other = json!({"service": "echo", "weight": weights[1], "request_headers": mark("2")});
        put(Kind::Route, "a", json!({"backends": [marked, other]}))
    };
    for weights in [[0, 1], [1, 0]] {
        node.change(vec![mirrored("first", first), route(weights)]).await.unwrap();
        echoed(&get(&node, "/x", "").await);
    }
    assert_eq!(within(to_first.recv()).await.unwrap().0, "GET /x 1 -");
    node.until_counted(|shard| shard.services.get("first").is_some_and(|counts| counts.mirrored == 1)).await;
    assert!(to_first.try_recv().is_err());
}

/// However patient a mirror's service is: its copies make room for others when their time has come.
#[tokio::test]
async fn a_mirror_that_never_answers_gives_its_places_back() {
    let deaf = backend::sockets(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let endless = backend::endless().await;
    let patient = |address: SocketAddr| json!({"url": format!("http://{address}"), "timeouts": {"request": "1h"}});
    let mirror = |service: &str| json!({"service": service, "timeout": "50ms"});
    let mut node = node(&[]).await;
    let edits = vec![
        put(Kind::Service, "deaf", patient(deaf)),
        put(Kind::Service, "endless", patient(endless)),
        put(Kind::Route, "a", json!({"service": "echo", "mirrors": [mirror("deaf"), mirror("endless")]})),
    ];
    node.change(edits).await.unwrap();
    echoed(&get(&node, "/", "").await);
    node.until_counted(|shard| {
        let dropped = |name, code| shard.services.get(name).and_then(|counts| counts.mirror_drops.get(code).copied());
        // On a slow machine it may not have come as far as its answer.
        let endless = dropped("endless", "answer-broken").or(dropped("endless", "unanswered"));
        (dropped("deaf", "unanswered"), endless) == (Some(1), Some(1))
    })
    .await;
}

/// What the service gets is what the route was found by and what the log says, whether the path is kept or canonical.
#[tokio::test]
async fn a_path_that_is_kept_reaches_the_service_as_it_came() {
    let address = backend::echo().await;
    let log = support::Log::default();
    let edits = vec![
        mirrored("echo", address),
        put(Kind::Route, "kept", json!({"paths": ["/kept"], "normalize_path": false, "service": "echo"})),
        put(Kind::Route, "secret", json!({"paths": ["/kept/secret"], "respond": {"status": 403}})),
        put(Kind::Route, "all", json!({"service": "echo"})),
    ];
    let node = Node::start_telling(settings(), Telemetry::with_log_to(Box::new(log.clone())).unwrap(), edits).await;
    for (target, got) in [
        ("/kept/a%2Fb//c/./%7Ed?q=%2F", "/kept/a%2Fb//c/./%7Ed?q=%2F"),
        ("/kept/x", "/kept/x"),
        ("/other//x/%7Ed?q=%2F", "/other/x/~d?q=%2F"),
        ("/kept/../other", "/other"),
    ] {
        assert_eq!(echoed(&get(&node, target, "").await)["target"], got, "{target}");
    }
    for (target, status) in [
        ("/kept//secret", 403),
        ("/kept/%73ecret/x", 403),
        ("/x/../kept/secret", 403),
        ("/kept/secret/a%2Fb", 400),
        ("/other/a%2Fb", 400),
        ("//kept/a", 400),
    ] {
        let answer = get(&node, target, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
    }
    node.until_counted(|shard| shard.requests_ended == 10).await;
    support::until(|| log.lines().len() == 10).await;
    let paths: Vec<_> = log.lines().iter().map(|line| line["path"].clone()).collect();
    for kept in ["/kept/a%2Fb//c/./%7Ed", "/other/x/~d", "/other"] {
        assert!(paths.contains(&json!(kept)), "{kept}: {paths:?}");
    }
}
