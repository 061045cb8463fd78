//! What services get and what comes back, through a whole node.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use support::backend::{self, full, read_head};
use support::{Node, problem, put, read_all, read_until, settings, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// A service at this address and a route for everything to it.
fn forward_to(address: SocketAddr) -> Vec<Edit> {
    forward_with(address, json!({}))
}

fn forward_with(address: SocketAddr, mut service: Value) -> Vec<Edit> {
    service["url"] = json!(format!("http://{address}"));
    vec![put(Kind::Service, "backend", service), put(Kind::Route, "all", json!({ "service": "backend" }))]
}

async fn node_to(address: SocketAddr) -> Node {
    Node::start(forward_to(address)).await
}

/// What the echoing service got.
fn echoed(answer: &str) -> Value {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|_| panic!("{answer}"))
}

fn field<'a>(got: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = got["headers"].as_array().unwrap().iter();
    headers.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_service_gets_the_request_and_who_sent_it() {
    let node = node_to(backend::echo().await).await;
    let answer = node
        .raw(
            "POST //a/./b?q=%20&r HTTP/1.1\r\nhost: Api.test:8080\r\nx-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\n\
             x-forwarded-proto: https\r\nx-forwarded-prefix: /x\r\nconnection: close, x-hop\r\nx-hop: 1\r\n\
             keep-alive: timeout=5\r\nte: gzip, trailers\r\nx_under: 1\r\nx-kept: 1\r\nx-kept: 2\r\n\
             content-length: 5\r\n\r\nhello",
        )
        .await;
    let got = echoed(&answer);
    assert_eq!(
        (&got["method"], &got["target"], &got["body"]),
        (&json!("POST"), &json!("/a/b?q=%20&r"), &json!("hello"))
    );
    for (name, values) in [
        ("host", vec!["Api.test:8080"]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-forwarded-host", vec!["Api.test:8080"]),
        ("x-kept", vec!["1", "2"]),
        ("te", vec!["trailers"]),
        ("forwarded", vec![]),
        ("x-forwarded-prefix", vec![]),
        ("x-hop", vec![]),
        ("keep-alive", vec![]),
        ("x_under", vec![]),
        ("via", vec![]),
    ] {
        assert_eq!(field(&got, name), values, "{name}: {got}");
    }
}

#[tokio::test]
async fn fields_of_the_connection_with_the_service_do_not_reach_the_client() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
                  proxy-connection: close\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\nok";
    let node = node_to(backend::sends(answer).await).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = read_until(&mut stream, "ok").await;
        assert!(answer.contains("x-kept: 1"), "{answer}");
        for gone in ["x-hop", "keep-alive", "connection"] {
            assert!(!answer.contains(gone), "{gone}: {answer}");
        }
    }
}

#[tokio::test]
async fn via_is_added_both_ways_when_asked_for() {
    let mut settings = settings();
    settings.via = true;
    let node = Node::start_with(settings, forward_to(backend::echo().await)).await;
    let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\nvia: 1.1 other\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("\r\nvia: 1.1 sluice\r\n"), "{answer}");
    assert_eq!(field(&echoed(&answer), "via"), ["1.1 other", "1.1 sluice"]);
}

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_both_ways() {
    let address = backend::http(|request| async move {
        let collected = request.into_body().collect().await.unwrap();
        let mut trailers = collected.trailers().cloned().unwrap_or_else(HeaderMap::new);
        trailers.insert("x-length", collected.to_bytes().len().into());
        let frames = [Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(tokio_stream::iter(frames));
        Response::builder().header("trailer", "x-length, x-sum").body(BodyExt::boxed(body)).unwrap()
    })
    .await;
    let node = node_to(address).await;
    let answer = node
        .raw(
            "POST / HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\
             trailer: x-sum\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    assert!(answer.contains("x-sum: 7\r\n") && answer.contains("x-length: 5\r\n"), "{answer}");
}

#[tokio::test]
async fn http_2_clients_get_trailers_of_http_1_services() {
    let address = backend::http(|request| async move {
        let te = request.headers().get("te").cloned();
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let frames = [Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
        let response = Response::builder().header("trailer", "grpc-status").header("x-te", te.unwrap());
        response.body(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)))).unwrap()
    })
    .await;
    let node = node_to(address).await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://a.test/").header("te", "trailers").body(full("x")).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["x-te"], "trailers");
    let collected = within(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "body");
}

#[tokio::test]
async fn a_grpc_client_hears_of_the_gateways_own_errors_in_its_own_terms() {
    let closed = support::free_address();
    let mut edits = forward_to(closed);
    edits[1] = put(Kind::Route, "all", json!({ "paths": ["/closed"], "service": "backend" }));
    let node = Node::start(edits).await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (path, status) in [("/missing/Call", "12"), ("/closed", "14")] {
        for kind in ["application/grpc", "application/grpc+proto"] {
            let request = Request::post(format!("http://a.test{path}")).header("content-type", kind);
            let response = within(sender.send_request(request.body(full("x")).unwrap())).await.unwrap();
            let headers = response.headers();
            assert_eq!(
                (response.status().as_u16(), &headers["grpc-status"]),
                (200, &status.parse().unwrap()),
                "{path}"
            );
            assert_eq!(headers["content-type"], "application/grpc");
            assert!(headers["grpc-message"].to_str().unwrap().ends_with('.'));
            assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "");
        }
    }
}

#[tokio::test]
async fn a_stream_reaches_the_client_while_it_goes_on() {
    let (send, frames) = mpsc::channel::<Bytes>(1);
    let frames = Arc::new(std::sync::Mutex::new(Some(frames)));
    let address = backend::http(move |_| {
        let frames = frames.lock().unwrap().take().unwrap();
        async move {
            let frames = ReceiverStream::new(frames).map(|bytes| Ok(Frame::data(bytes)));
            Response::new(BodyExt::boxed(StreamBody::new(frames)))
        }
    })
    .await;
    let node = node_to(address).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    for event in ["one", "two", "three"] {
        send.send(event.into()).await.unwrap();
        read_until(&mut stream, &format!("{event}\r\n")).await;
    }
    drop(send);
    read_until(&mut stream, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_service() {
    let (left, mut gone) = mpsc::unbounded_channel();
    let address = backend::sockets(move |mut stream| {
        let left = left.clone();
        async move {
            read_head(&mut stream).await;
            let _ = left.send("came");
            let _ = stream.read_u8().await;
            let _ = left.send("gone");
        }
    })
    .await;
    let node = node_to(address).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(within(gone.recv()).await, Some("came"));
    drop(stream);
    assert_eq!(within(gone.recv()).await, Some("gone"));
}

#[tokio::test]
async fn what_a_client_does_not_read_stays_at_the_service() {
    const SIZE: u64 = 256 * 1024 * 1024;
    let sent = Arc::new(AtomicU64::new(0));
    let counting = sent.clone();
    let address = backend::sockets(move |mut stream| {
        let sent = counting.clone();
        async move {
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let block = vec![b'x'; 64 * 1024];
            while sent.load(Ordering::Relaxed) < SIZE && stream.write_all(&block).await.is_ok() {
                sent.fetch_add(block.len() as u64, Ordering::Relaxed);
            }
        }
    })
    .await;
    let node = node_to(address).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    let (mut before, mut unchanged) = (0, 0);
    while unchanged < 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = sent.load(Ordering::Relaxed);
        unchanged = if now == before && now > 0 { unchanged + 1 } else { 0 };
        before = now;
    }
    // The buffers of four sockets and of the codecs lie between the service and the client.
    assert!(before < 64 * 1024 * 1024, "{before} bytes were taken from the service");
    let mut rest = SIZE;
    let mut buffer = vec![0; 256 * 1024];
    while rest > 0 {
        rest -= within(stream.read(&mut buffer)).await.unwrap() as u64;
    }
    assert_eq!(sent.load(Ordering::Relaxed), SIZE);
}

#[tokio::test]
async fn a_protocol_switch_opens_a_tunnel() {
    let address = backend::sockets(|mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("connection: upgrade") && head.contains("upgrade: websocket"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-accept: x\r\n\r\nearly";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let node = node_to(address).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\nhello";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "earlyhello").await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    for expected in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: x"] {
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    stream.write_all(b"more").await.unwrap();
    read_until(&mut stream, "more").await;
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn a_tunnel_that_idles_is_closed() {
    let address = backend::sockets(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let node = Node::start(forward_with(address, json!({ "timeouts": { "idle": "100ms" } }))).await;
    let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn nothing_is_tunnelled_unless_both_sides_want_it() {
    // The service declines: an ordinary answer on a connection that goes on.
    let node = node_to(backend::echo().await).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await.unwrap();
        read_until(&mut stream, "}").await;
    }
    // The service switches without having been asked.
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let node = node_to(backend::sends(switched).await).await;
    let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(problem(&answer)["status"], 502);
    // HTTP/2 in clear text is not to be had this way.
    let node = node_to(backend::echo().await).await;
    let upgrade = "connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    let got = echoed(&node.raw(format!("GET / HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n")).await);
    assert!(field(&got, "upgrade").is_empty() && field(&got, "http2-settings").is_empty(), "{got}");
}

#[tokio::test]
async fn failures_of_a_service_are_told_apart_and_leak_nothing() {
    let dead = support::free_address();
    let silent = backend::sockets(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let cases = [
        (forward_to(dead), 502),
        (forward_to(backend::sends("").await), 502),
        (forward_to(backend::sends("SSH-2.0-OpenSSH_9.2\r\n").await), 502),
        (forward_with(silent, json!({ "timeouts": { "request": "50ms" } })), 504),
        (forward_with(silent, json!({ "enabled": false })), 503),
    ];
    for (edits, status) in cases {
        let node = Node::start(edits).await;
        let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let problem = problem(&answer);
        assert_eq!(problem["status"], status, "{problem}");
        assert!(!answer.contains("127."), "{answer}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_taken_for_whole() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let node = node_to(backend::sends(cut).await).await;
    let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.ends_with("half"), "the connection ends with what came: {answer}");
    let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let node = node_to(backend::sends(cut).await).await;
    let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_response_that_stops_coming_is_broken_off() {
    let address = backend::sockets(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let node = Node::start(forward_with(address, json!({ "timeouts": { "idle": "100ms" } }))).await;
    assert!(node.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("half"));
}

#[tokio::test]
async fn request_bodies_are_bounded_in_size_and_slowness() {
    let limits = json!({ "body_bytes": 10, "body_grace": "1s" });
    let node = Node::start_limited(limits, forward_to(backend::echo().await)).await;
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let large = node.raw(format!("{head}transfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n")).await;
    assert_eq!(problem(&large)["status"], 413);
    let slow = node.raw(format!("{head}content-length: 10\r\n\r\n12")).await;
    assert_eq!(problem(&slow)["status"], 408);
    let whole = node.raw(format!("{head}content-length: 10\r\n\r\n1234567890")).await;
    assert_eq!(echoed(&whole)["body"], "1234567890");
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_so_when_the_service_has_waited_long_enough() {
    let address = backend::echo().await;
    let node = Node::start(forward_with(address, json!({ "timeouts": { "request": "100ms" } }))).await;
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n";
    let stalled = node.raw(format!("{head}12")).await;
    assert_eq!((&problem(&stalled)["status"], &problem(&stalled)["code"]), (&json!(408), &json!("request-timeout")));
}

#[tokio::test]
async fn what_a_client_says_to_a_proxy_of_its_own_stays_here() {
    let node = node_to(backend::echo().await).await;
    let fields = "host: x\r\nconnection: close\r\nproxy-authorization: Basic eDp5\r\n";
    let got = echoed(&node.raw(format!("GET / HTTP/1.1\r\n{fields}\r\n")).await);
    assert_eq!(field(&got, "proxy-authorization"), Vec::<&str>::new());
    for method in ["TRACE", "CONNECT"] {
        let target = if method == "CONNECT" { "x:80" } else { "/" };
        let refused = node.raw(format!("{method} {target} HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(problem(&refused)["status"], 501, "{method}: {refused}");
    }
}

#[tokio::test]
async fn requests_behind_each_other_reach_their_own_answers() {
    let node = node_to(backend::echo().await).await;
    let requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    for n in 0..20 {
        read_until(&mut stream, &format!("\"target\":\"/{n}\"")).await;
    }
}

#[tokio::test]
async fn draining_waits_for_a_response_and_says_goodbye() {
    let (release, hold) = tokio::sync::watch::channel(false);
    let (came, mut arrived) = mpsc::unbounded_channel();
    let address = backend::http(move |_| {
        let (mut hold, came) = (hold.clone(), came.clone());
        async move {
            let _ = came.send(());
            hold.wait_for(|released| *released).await.unwrap();
            Response::new(full("late"))
        }
    })
    .await;
    // One core: when it refuses connections it has asked all that it has to go.
    let mut settings = support::settings();
    settings.cores = std::num::NonZeroUsize::MIN;
    let node = Node::start_with(settings, forward_to(address)).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let stream2 = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream2)).await.unwrap();
    let connection = tokio::spawn(connection);
    let second = tokio::spawn(sender.send_request(Request::get("http://x/").body(full("")).unwrap()));
    for _ in 0..2 {
        within(arrived.recv()).await.unwrap();
    }
    let cores = node.cores.clone();
    let drained = tokio::spawn(async move { cores.drain(Duration::from_secs(20)).await });
    while TcpStream::connect(node.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!drained.is_finished());
    release.send(true).unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.contains("connection: close") && answer.ends_with("late"), "{answer}");
    assert_eq!(within(within(second).await.unwrap().unwrap().into_body().collect()).await.unwrap().to_bytes(), "late");
    within(connection).await.unwrap().unwrap();
    within(drained).await.unwrap();
}

/// A service that sends as much as is taken, and tells when it can send no more.
async fn gushes() -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let (ended, end) = mpsc::unbounded_channel();
    let address = backend::sockets(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let block = vec![b'x'; 64 * 1024];
            while stream.write_all(&block).await.is_ok() {}
            let _ = ended.send(());
        }
    })
    .await;
    (address, end)
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let (address, mut end) = gushes().await;
    let node = Node::start_limited(json!({ "idle_time": "200ms" }), forward_to(address)).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    within(end.recv()).await.unwrap();
}

#[tokio::test]
async fn an_http_2_client_that_opens_no_window_is_given_up() {
    let (address, mut end) = gushes().await;
    let node = Node::start_limited(json!({ "idle_time": "200ms" }), forward_to(address)).await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // The body is not read, so that its window stays closed.
    let _response = within(sender.send_request(Request::get("http://x/").body(full("")).unwrap())).await.unwrap();
    within(end.recv()).await.unwrap();
}
