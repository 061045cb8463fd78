//! What clients get for well-formed and malformed requests, on the wire.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::resource::Kind;
use serde_json::json;
use support::{Node, problem, put, read_until, respond, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn node() -> Node {
    Node::start(vec![
        put(Kind::Route, "hello", json!({ "paths": ["/hello"], "respond": { "body": "hello" } })),
        put(Kind::Route, "host", json!({ "hosts": ["a.test"], "paths": ["/host"], "respond": { "body": "a" } })),
    ])
    .await
}

#[tokio::test]
async fn a_kept_connection_answers_several_requests() {
    let node = node().await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("content-length: 5"), "{answer}");
    }
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_until(&mut stream, "hello").await + &read_until(&mut stream, "hello").await;
    assert_eq!(answer.matches("200 OK").count(), 2);
}

#[tokio::test]
async fn a_head_request_gets_the_length_and_no_body() {
    let node = node().await;
    let answer = node.raw("HEAD /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = node.raw("HEAD /missing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn http_1_0_needs_no_host_and_is_closed() {
    let node = node().await;
    let answer = node.raw("GET /hello HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn refusals_are_problems_with_a_stable_code() {
    let node = node().await;
    let cases = [
        ("GET /missing HTTP/1.1\r\nhost: x\r\n", 404, "no-route"),
        ("GET /hello HTTP/1.1\r\n", 400, "host-missing"),
        ("GET /hello HTTP/1.1\r\nhost: x\r\nhost: y\r\n", 400, "several-hosts"),
        ("GET /hello HTTP/1.1\r\nhost: user@x\r\n", 400, "host-user-info"),
        ("GET /a%2fb HTTP/1.1\r\nhost: x\r\n", 400, "path-encoded-slash"),
        ("GET /../hello HTTP/1.1\r\nhost: x\r\n", 400, "path-above-root"),
        ("CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n", 501, "method-not-implemented"),
        ("GET ftp://x/hello HTTP/1.1\r\nhost: x\r\n", 400, "scheme-unknown"),
        ("GET https://x/hello HTTP/1.1\r\nhost: x\r\n", 421, "misdirected-request"),
        ("POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n", 413, "request-too-large"),
    ];
    for (request, status, code) in cases {
        let answer = node.raw(format!("{request}connection: close\r\n\r\n")).await;
        let problem = problem(&answer);
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{request:?}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn heads_are_bounded_in_size_number_of_fields_and_target() {
    let node = node().await;
    let long = "x".repeat(33 * 1024);
    let many = (0..130).map(|n| format!("f{n}: x\r\n")).collect::<String>();
    let far = "x".repeat(8 * 1024);
    let cases = [
        (format!("GET /hello HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n"), 431, "header-too-large"),
        (format!("GET /hello HTTP/1.1\r\nhost: x\r\n{many}"), 431, "too-many-header-fields"),
        (format!("GET /{far} HTTP/1.1\r\nhost: x\r\n"), 414, "uri-too-long"),
    ];
    for (request, status, code) in cases {
        let problem = problem(&node.raw(format!("{request}connection: close\r\n\r\n")).await);
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
    }
    // More than the codec itself takes. What it leaves unread may cost the client the answer.
    let huge = "x".repeat(1024 * 1024);
    let answer = node.raw(format!("GET /hello HTTP/1.1\r\nhost: x\r\nhuge: {huge}\r\n\r\n")).await;
    assert!(answer.is_empty() || problem(&answer)["status"] == 431, "{answer}");
    let many = (0..500).map(|n| format!("f{n}: x\r\n")).collect::<String>();
    assert_eq!(problem(&node.raw(format!("GET /hello HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await)["status"], 431);
}

#[tokio::test]
async fn a_target_in_absolute_form_names_the_host_that_the_field_names() {
    let node = node().await;
    let answer = node.raw("GET http://A.test/host HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('a'), "{answer}");
    for (target, host) in [("a.test", "b.test"), ("b.test", "a.test")] {
        let request = format!("GET http://{target}/host HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let problem = problem(&node.raw(request).await);
        assert_eq!((&problem["status"], &problem["code"]), (&json!(400), &json!("host-mismatch")));
    }
}

#[tokio::test]
async fn a_path_is_matched_in_its_canonical_form() {
    let node = node().await;
    for path in ["/%68ello", "//hello", "/x/../hello", "/./hello"] {
        let answer = node.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.ends_with("hello"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_answered_and_the_connection_closed() {
    let node =
        Node::start_limited(json!({ "header_time": "100ms" }), vec![put(Kind::Route, "hello", respond("hello"))]).await;
    let problem = problem(&node.raw("GET /hello HTTP/1.1\r\nhost: x\r\nslow: ").await);
    assert_eq!((&problem["status"], &problem["code"]), (&json!(408), &json!("header-too-slow")));
}

#[tokio::test]
async fn a_connection_that_idles_is_closed() {
    let node =
        Node::start_limited(json!({ "idle_time": "100ms" }), vec![put(Kind::Route, "hello", respond("hello"))]).await;
    assert_eq!(node.raw("").await, "");
    let answer = node.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn http_2_is_served_by_prior_knowledge() {
    let node = node().await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    for (uri, status) in [("http://a.test/host", 200), ("http://b.test/host", 404), ("http://b.test/hello", 200)] {
        let request = Request::get(uri).body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (status, hyper::Version::HTTP_2), "{uri}");
        within(response.into_body().collect()).await.unwrap();
    }
    let contradicting = Request::get("http://a.test/host").header("host", "b.test").body(Empty::new()).unwrap();
    assert_eq!(within(sender.send_request(contradicting)).await.unwrap().status(), 400);
    drop(sender);
    within(driver).await.unwrap().unwrap();
}

/// RFC 9112 sections 2.2, 3.2, 5, 6.1 to 6.3 and 7.1: what can be read in two ways is refused, and nothing behind it is
/// taken for a request.
#[tokio::test]
async fn framing_that_two_servers_could_read_differently_is_refused() {
    let node = node().await;
    let smuggled = "0\r\n\r\nGET /missing HTTP/1.1\r\nhost: x\r\n\r\n";
    for (fields, status) in [
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", 400),
        ("content-length: 5\r\ncontent-length: 6\r\n", 400),
        ("content-length: 5\r\ncontent-length: 5\r\n", 400),
        ("content-length: 5, 5\r\n", 400),
        ("content-length: +5\r\n", 400),
        ("content-length: -5\r\n", 400),
        ("content-length: 0x5\r\n", 400),
        ("content-length:\r\n", 400),
        ("content-length: 99999999999999999999\r\n", 400),
        ("transfer-encoding: chunked, identity\r\n", 400),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: xchunked\r\n", 400),
        ("transfer-encoding: \u{b}chunked\r\n", 400),
        ("transfer-encoding: gzip, chunked\r\n", 501),
        ("transfer-encoding : chunked\r\n", 400),
        (" transfer-encoding: chunked\r\n", 400),
        ("folded: a\r\n b\r\n", 400),
        ("bare: a\rb\r\n", 400),
        ("bare: a\nb: c\r\n", 400),
        ("bare: a\n", 400),
        ("nul: a\0b\r\n", 400),
        ("na me: x\r\n", 400),
        (": x\r\n", 400),
        ("no colon\r\n", 400),
    ] {
        let answer = node.raw(format!("POST /hello HTTP/1.1\r\nhost: x\r\n{fields}\r\n{smuggled}")).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        assert_eq!((&problem(&answer)["status"], answers), (&json!(status), 1), "{fields:?}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{fields:?}: {answer}");
    }
    let old = node.raw(format!("POST /hello HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}")).await;
    assert_eq!((&problem(&old)["status"], old.matches("HTTP/1.1 ").count()), (&json!(400), 1));
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_behind_what_could() {
    let node = node().await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "hello").await;
    stream.write_all(b"\0\r\n\r\n").await.unwrap();
    assert_eq!(problem(&support::read_all(&mut stream).await)["code"], "bad-request");
}

#[tokio::test]
async fn garbage_ends_its_connection_and_nothing_else() {
    let node = node().await;
    let seeds: [&[u8]; 8] = [
        b"\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost: \xff\xfe\r\n\r\n",
        b"POST /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ];
    for seed in seeds {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(seed).await.unwrap();
        stream.shutdown().await.unwrap();
        support::read_all(&mut stream).await;
    }
    let answer = node.raw("GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn no_bytes_whatever_make_a_node_panic() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|_| {
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    let node = node().await;
    let seeds = [
        "GET /hello?q=1 HTTP/1.1\r\nhost: a.test\r\nconnection: keep-alive, upgrade\r\nupgrade: x\r\nte: trailers\r\n\r\n",
        "POST http://a.test/%41/../hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\ncontent-length: 3\r\nx_y: z\r\nforwarded: for=x\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d\0\0\x05\x01\x05\0\0\0\x01\u{2}\u{4}\u{6}\u{1}\u{3}",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut inputs = Vec::new();
    for _ in 0..400 {
        let mut bytes = random.choice(seeds).unwrap().as_bytes().to_vec();
        for _ in 0..random.usize(1..6) {
            let place = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[place] = random.u8(..),
                1 => bytes.insert(place, *random.choice(b"\r\n\0 :,;%/.\x80\xff").unwrap()),
                2 => drop(bytes.drain(place..(place + 3).min(bytes.len()))),
                _ => bytes.truncate(place.max(1)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        inputs.push(bytes);
    }
    for input in &inputs {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let _ = stream.write_all(input).await;
        let _ = stream.shutdown().await;
        support::read_all(&mut stream).await;
    }
    let answer = node.raw("GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}
