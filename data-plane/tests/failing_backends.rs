//! Services that fail, through a whole node: what clients, services and the log get to see of it.

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_plane::telemetry::Telemetry;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use support::backend::{self, full, read_head};
use support::{Log, Node, free_address, problem, put, read_until, settings, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A service and a route for everything to it.
fn forward(service: Value, mut route: Value) -> Vec<Edit> {
    route["service"] = json!("backend");
    vec![put(Kind::Service, "backend", service), put(Kind::Route, "all", route)]
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[tokio::test]
async fn the_log_and_the_counts_tell_of_retries() {
    let (good, log) = (backend::http(|_| async { Response::new(full("ok")) }).await, Log::default());
    let targets = json!([{"url": url(free_address()), "weight": 1000}, {"url": url(good)}]);
    let telemetry = Telemetry::with_log_to(Box::new(log.clone())).unwrap();
    let service = json!({"targets": targets, "load_balancing": "round_robin"});
    let node = Node::start_telling(settings(), telemetry, forward(service, json!({}))).await;
    for _ in 0..4 {
        assert!(node.raw(GET).await.starts_with("HTTP/1.1 200"));
    }
    until(|| log.lines().len() == 4).await;
    let lines = log.lines();
    assert!(lines.iter().any(|line| line["attempts"] == 2), "{lines:?}");
    assert!(lines.iter().all(|line| line["target"] == json!(good.to_string())), "{lines:?}");
    node.until_counted(|shard| shard.services["backend"].retries["connect-failure"] > 0).await;
}

#[tokio::test]
async fn targets_are_told_how_long_they_have_and_clients_do_not_say_so() {
    let service =
        json!({"url": url(backend::echo().await), "deadline_header": "X-Left", "timeouts": {"request": "7s"}});
    let mut node = Node::start(forward(service.clone(), json!({}))).await;
    let left = |answer: String| {
        let got: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let fields = got["headers"].as_array().unwrap().iter().filter(|field| field[0] == "x-left");
        let fields: Vec<u64> = fields.map(|field| field[1].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(fields.len(), 1, "{got}");
        fields[0]
    };
    let lying = "GET /a HTTP/1.1\r\nhost: x\r\nx-left: 1\r\nx-left: 2\r\nconnection: close\r\n\r\n";
    assert_eq!(left(node.raw(lying).await), 7000);
    node.change(forward(service, json!({"timeouts": {"request": "5s"}}))).await.unwrap();
    assert!((1..=5000).contains(&left(node.raw(lying).await)));
}

/// A service over HTTP/2 that tells what was in the field `grpc-timeout`.
async fn tells_grpc_timeout() -> SocketAddr {
    backend::sockets(|stream| async move {
        let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
            let told = request.headers().get("grpc-timeout").cloned();
            let mut response = Response::new(full(""));
            response.headers_mut().insert("grpc-status", 0.into());
            if let Some(told) = told {
                response.headers_mut().insert("told", told);
            }
            Ok::<_, Infallible>(response)
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

#[tokio::test]
async fn a_call_of_grpc_goes_on_with_what_is_left_of_its_time() {
    let service = json!({"url": url(tells_grpc_timeout().await), "protocol": "http2"});
    let mut node = Node::start(forward(service.clone(), json!({}))).await;
    let call = async |address: SocketAddr, timeout: Option<&'static str>| {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::post("http://x/service/method").header("content-type", "application/grpc");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let answer = within(sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap())).await.unwrap();
        answer.headers().get("told").map(|told| told.to_str().unwrap().to_owned())
    };
    let millis = |told: Option<String>| told.unwrap().strip_suffix('m').unwrap().parse::<u64>().unwrap();
    assert_eq!(call(node.address, None).await, None);
    assert!((1..=10_000).contains(&millis(call(node.address, Some("10S")).await)));
    node.change(forward(service, json!({"timeouts": {"request": "4s"}}))).await.unwrap();
    for asked in [None, Some("1H")] {
        assert!(
            (1..=4000).contains(&millis(call(node.address, asked).await)),
            "the route has less time than the client"
        );
    }
    assert!((1..=2000).contains(&millis(call(node.address, Some("2S")).await)));
}

/// A service that never answers, and counts the connections whose other end has gone.
async fn waits_for_the_end(gone: Arc<AtomicU64>, seen: Arc<AtomicU64>) -> SocketAddr {
    backend::sockets(move |mut stream| {
        let (gone, seen) = (gone.clone(), seen.clone());
        async move {
            read_head(&mut stream).await;
            seen.fetch_add(1, Ordering::Relaxed);
            while stream.read_u8().await.is_ok() {}
            gone.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along_over_http1_and_http2() {
    let (gone, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let address = waits_for_the_end(gone.clone(), seen.clone()).await;
    // Nothing is tried again for nobody.
    let service = json!({"url": url(address), "retries": {"attempts": 5}});
    let node = Node::start(forward(service, json!({}))).await;
    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    until(|| seen.load(Ordering::Relaxed) == 1).await;
    drop(client);
    until(|| gone.load(Ordering::Relaxed) == 1).await;

    let stream = TokioIo::new(TcpStream::connect(node.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/").body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    until(|| seen.load(Ordering::Relaxed) == 2).await;
    // The stream alone: the connection of the client stays.
    answer.abort();
    until(|| gone.load(Ordering::Relaxed) == 2).await;
    assert!(!sender.is_closed());
    node.until_counted(|shard| shard.services["backend"].in_flight == 0).await;
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_service_that_is_full_is_told_to_clients_as_such() {
    let (gone, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let address = waits_for_the_end(gone, seen.clone()).await;
    let service = json!({"url": url(address), "limits": {"requests": 1, "pending": 0}});
    let node = Node::start(forward(service, json!({}))).await;
    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    until(|| seen.load(Ordering::Relaxed) == 1).await;
    let answer = node.raw(GET).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert_eq!(problem(&answer)["code"], "upstream-full");
}

#[tokio::test]
async fn what_has_begun_to_reach_a_client_is_never_replaced() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let address = backend::sockets(move |mut stream| {
        let count = count.clone();
        async move {
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf.").await;
            stream.set_zero_linger().unwrap();
        }
    })
    .await;
    let service =
        json!({"url": url(address), "retries": {"attempts": 5, "on": ["connect_failure", "reset", "timeout"]}});
    let node = Node::start(forward(service, json!({}))).await;
    let answer = node.raw(GET).await;
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(!answer.contains("half.half."), "{answer}");
    let attempts = seen.load(Ordering::Relaxed);
    assert!(attempts == 1 || !answer.contains("half."), "{attempts} {answer}");
}

#[tokio::test]
async fn requests_go_on_while_a_service_restarts() {
    let answer = || async { Response::new(full("ok")) };
    let (first, second) = (backend::http(move |_| answer()).await, backend::http(move |_| answer()).await);
    // One that takes connections and closes them, as what is about to end does.
    let leaving = backend::sockets(|stream| async move { drop(stream) }).await;
    let targets = [first, leaving, second].map(|address| json!({"url": url(address)}));
    let node = Node::start(forward(json!({"targets": targets, "load_balancing": "round_robin"}), json!({}))).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    for _ in 0..12 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(read_until(&mut stream, "ok").await.starts_with("HTTP/1.1 200"));
    }
}
