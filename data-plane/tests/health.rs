//! Targets that fail in each of the ways there are, and what their clients notice of it.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::resource::Kind;
use serde_json::{Value, json};
use support::backend::{self, full};
use support::{Node, free_address, put, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

async fn get(node: &Node, path: &str, fields: &str) -> String {
    node.raw(format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\n{fields}connection: close\r\n\r\n")).await
}

fn is_fine(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200")
}

/// A node with a service of these targets and fields.
async fn node(targets: &[SocketAddr], mut service: Value) -> Node {
    let targets: Vec<Value> = targets.iter().map(|target| json!({"url": format!("http://{target}")})).collect();
    service["targets"] = targets.into();
    let route = json!({"service": "shop"});
    Node::start(vec![put(Kind::Service, "shop", service), put(Kind::Route, "shop", route)]).await
}

/// A service that says its name.
async fn named(name: &'static str) -> SocketAddr {
    backend::http(move |_| async move { Response::new(full(name)) }).await
}

fn out(node: &Node) -> Vec<String> {
    node.telemetry.health.troubles(100).into_iter().map(|(_, target, _)| target.authority()).collect()
}

async fn until_out(node: &Node, target: Option<SocketAddr>) {
    let wanted: Vec<String> = target.iter().map(ToString::to_string).collect();
    support::until(|| out(node) == wanted).await;
}

/// Sends requests until the target is out, and then a hundred that do not notice it.
async fn notices(node: &Node, bad: SocketAddr) {
    within(async {
        while out(node).is_empty() {
            get(node, "/", "").await;
        }
    })
    .await;
    assert_eq!(out(node), [bad.to_string()]);
    for _ in 0..100 {
        let answer = get(node, "/", "").await;
        assert!(is_fine(&answer), "{answer}");
    }
}

#[tokio::test]
async fn a_target_that_fails_in_a_row_is_left_alone() {
    let five_hundred = backend::http(|_| async { Response::builder().status(500).body(full("no")).unwrap() }).await;
    let closes = backend::sockets(|mut stream| async move {
        backend::read_head(&mut stream).await;
    })
    .await;
    let garbage = backend::sends("what?\r\n\r\n").await;
    for bad in [free_address(), five_hundred, closes, garbage] {
        let good = [named("one").await, named("two").await];
        for policy in ["round_robin", "least_request"] {
            let node = node(&[good[0], bad, good[1]], json!({"load_balancing": policy})).await;
            notices(&node, bad).await;
        }
    }
}

#[tokio::test]
async fn a_target_that_takes_no_connection_is_left_alone_long_before_its_timeout() {
    // Its queue is full: what else comes is not answered.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let hole = socket.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(hole).unwrap();
    let service = json!({"load_balancing": "round_robin", "timeouts": {"connect": "1m"}});
    let node = node(&[named("one").await, hole, named("two").await], service).await;
    // Twenty wait for it; nobody after them has to.
    let waiting = join_all((0..30).map(|_| get(&node, "/", "")));
    let meanwhile = async {
        until_out(&node, Some(hole)).await;
        for _ in 0..100 {
            let answer = get(&node, "/", "").await;
            assert!(is_fine(&answer), "{answer}");
        }
    };
    tokio::select! {
        _ = waiting => panic!("the hole answered"),
        () = meanwhile => {}
    }
}

#[tokio::test]
async fn an_only_target_is_never_given_up() {
    let node = node(&[free_address()], json!({})).await;
    for _ in 0..20 {
        let answer = get(&node, "/", "").await;
        assert!(answer.contains("upstream-unreachable"), "{answer}");
    }
    assert!(out(&node).is_empty());
}

#[tokio::test]
async fn a_target_that_is_back_gets_requests_again_and_not_before() {
    let back = free_address();
    let service = json!({"load_balancing": "round_robin", "outlier_detection": {"base_ejection_time": "100ms"}});
    let node = node(&[named("one").await, back, named("two").await], service).await;
    notices(&node, back).await;
    let again = support::until(|| {
        let (_, _, causes) = node.telemetry.health.troubles(1).remove(0);
        causes[0].reason.contains("takes no connection")
    });
    again.await;
    let listener = TcpListener::bind(back).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                backend::read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback").await;
            });
        }
    });
    until_out(&node, None).await;
    within(async { while !get(&node, "/", "").await.ends_with("back") {} }).await;
}

#[tokio::test]
async fn a_target_that_is_much_slower_than_the_others_goes() {
    let slow = backend::http(|_| async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        Response::new(full("slow"))
    })
    .await;
    let latency = json!({"factor": 2.0, "minimum": "100ms", "minimum_requests": 5});
    let service = json!({
        "load_balancing": "round_robin",
        "outlier_detection": {"interval": "1s", "latency": latency},
    });
    let node = node(&[named("one").await, slow, named("two").await], service).await;
    notices(&node, slow).await;
    let (_, _, causes) = node.telemetry.health.troubles(1).remove(0);
    assert!(causes[0].reason.contains("its answers take"), "{causes:?}");
}

/// A target of which checks are told what it says to be.
struct Told {
    address: SocketAddr,
    is_well: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

impl Told {
    async fn start() -> Self {
        let (is_well, served) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (well, counted) = (is_well.clone(), served.clone());
        let address = backend::http(move |request| {
            let (well, counted) = (well.clone(), counted.clone());
            async move {
                if request.uri() != "/healthz?deep=1" {
                    counted.fetch_add(1, Ordering::SeqCst);
                    return Response::new(full("served"));
                }
                assert_eq!(request.headers()["host"], "shop.internal");
                Response::new(full(if well.load(Ordering::SeqCst) { "all is well" } else { "not well" }))
            }
        })
        .await;
        Self { address, is_well, served }
    }
}

#[tokio::test]
async fn a_target_whose_checks_fail_gets_nothing_until_they_pass() {
    let (target, other) = (Told::start().await, Told::start().await);
    let check = json!({
        "http": {"path": "/healthz?deep=1", "host": "shop.internal", "expected_body": "all is well"},
        "interval": "100ms",
        "timeout": "100ms",
    });
    let service = json!({"load_balancing": "round_robin", "health_check": check});
    let mut node = node(&[target.address, other.address], service.clone()).await;
    target.is_well.store(false, Ordering::SeqCst);
    until_out(&node, Some(target.address)).await;
    let before = target.served.load(Ordering::SeqCst);
    for _ in 0..20 {
        assert!(is_fine(&get(&node, "/", "").await));
    }
    assert_eq!(target.served.load(Ordering::SeqCst), before);
    target.is_well.store(true, Ordering::SeqCst);
    until_out(&node, None).await;
    within(async {
        while target.served.load(Ordering::SeqCst) == before {
            get(&node, "/", "").await;
        }
    })
    .await;

    // Without the check nothing is known of it any more.
    target.is_well.store(false, Ordering::SeqCst);
    until_out(&node, Some(target.address)).await;
    let targets = json!([{"url": format!("http://{}", target.address)}, {"url": format!("http://{}", other.address)}]);
    node.change(vec![put(Kind::Service, "shop", json!({"targets": targets}))]).await.unwrap();
    until_out(&node, None).await;
}

/// A service over HTTP/2 whose health is `status`, by the numbers of `grpc.health.v1`.
async fn grpc_health(status: u8) -> SocketAddr {
    backend::sockets(move |stream| async move {
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            assert_eq!(&body[..], b"\0\0\0\0\x06\x0a\x04shop");
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await
}

#[tokio::test]
async fn connections_and_grpc_tell_health_too() {
    let not_serving = grpc_health(2).await;
    for (check, good, bad) in [
        (json!({"tcp": {}}), named("one").await, free_address()),
        (json!({"http": {}}), named("one").await, backend::sends("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await),
        (json!({"grpc": {"service": "shop"}}), grpc_health(1).await, not_serving),
        (json!({"grpc": {"service": "shop"}}), grpc_health(1).await, named("no gRPC").await),
    ] {
        let mut check = check;
        check["interval"] = json!("200ms");
        check["timeout"] = json!("200ms");
        let node = node(&[good, bad], json!({"health_check": check})).await;
        until_out(&node, Some(bad)).await;
    }
}

#[tokio::test]
async fn requests_of_one_key_get_one_target() {
    let targets = [named("one").await, named("two").await, named("three").await];
    for policy in ["ring_hash", "maglev"] {
        for (key, path, fields) in [
            (json!({"header": "X-User"}), "/", "x-user: NAME\r\n"),
            (json!({"cookie": "user"}), "/", "cookie: a=b; user=NAME\r\n"),
            (json!({"query": "user"}), "/?a=b&user=NAME", ""),
            (json!({"path_capture": "user"}), "/users/NAME", ""),
        ] {
            let service = json!({"load_balancing": {"policy": policy, "key": key}});
            let mut node = node(&targets, service).await;
            let route = json!({"service": "shop", "paths": ["/", {"template": "/users/{user}"}]});
            node.change(vec![put(Kind::Route, "shop", route)]).await.unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for user in 0..20 {
                let name = format!("user-{user}");
                let (path, fields) = (path.replace("NAME", &name), fields.replace("NAME", &name));
                let first = get(&node, &path, &fields).await;
                for _ in 0..3 {
                    assert_eq!(last_line(&get(&node, &path, &fields).await), last_line(&first), "{key}");
                }
                seen.insert(last_line(&first).to_owned());
            }
            assert_eq!(seen.len(), 3, "{key}");
        }
    }
}

fn last_line(answer: &str) -> &str {
    answer.rsplit("\r\n").next().expect("a line")
}

#[tokio::test]
async fn a_route_may_choose_targets_by_their_labels() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let target = |address, version| json!({"url": format!("http://{address}"), "labels": {"version": version}});
    let service = json!({"targets": [target(stable, "1"), target(canary, "2")]});
    let by_label = |version: &str| json!({"backends": [{"service": "shop", "labels": {"version": version}}]});
    let with = |route: Value, path: &str| {
        let mut route = route;
        route["paths"] = json!([path]);
        route
    };
    let node = Node::start(vec![
        put(Kind::Service, "shop", service),
        put(Kind::Route, "stable", with(by_label("1"), "/1")),
        put(Kind::Route, "canary", with(by_label("2"), "/2")),
        put(Kind::Route, "nobody", with(by_label("3"), "/3")),
    ])
    .await;
    for _ in 0..20 {
        assert!(get(&node, "/1", "").await.ends_with("stable"));
        assert!(get(&node, "/2", "").await.ends_with("canary"));
    }
    assert_eq!(support::problem(&get(&node, "/3", "").await)["code"], "no-target");
}
