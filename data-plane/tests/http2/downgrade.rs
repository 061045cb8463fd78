//! What a request of HTTP/2 becomes for a service of HTTP/1.1: octet for octet what it should, or nothing.

use model::resource::Kind;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::frames::*;
use crate::support::{Node, backend, put, within};

/// A service that tells all that it gets on a connection when that ends, and answers what looks like a request.
async fn node() -> (Node, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (told, tells) = mpsc::unbounded_channel();
    let address = backend::sockets(move |mut stream| {
        let told = told.clone();
        async move {
            let mut got = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                got.extend_from_slice(&buffer[..count]);
                if is_whole(&got) {
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
                    break;
                }
            }
            let _ = told.send(got);
        }
    })
    .await;
    let node = Node::start(vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}") })),
        put(Kind::Route, "all", json!({ "service": "backend" })),
        put(Kind::Route, "closed", json!({ "paths": ["/closed"], "respond": { "status": 403 } })),
    ])
    .await;
    (node, tells)
}

fn is_whole(got: &[u8]) -> bool {
    let text = String::from_utf8_lossy(got);
    match text.split_once("\r\n\r\n") {
        None => false,
        Some((head, body)) if head.contains("transfer-encoding: chunked") => {
            body.contains("0\r\n") && body.ends_with("\r\n\r\n")
        }
        Some((head, body)) => {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            body.len() >= length.map_or(0, |length| length.parse().unwrap())
        }
    }
}

#[tokio::test]
async fn a_request_is_framed_anew() {
    let (node, mut tells) = node().await;
    let mut client = Client::connect(node.address).await;
    let mut ask = async |stream, request: Vec<u8>| {
        client.send(request).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(200));
        String::from_utf8(within(tells.recv()).await.unwrap()).unwrap()
    };
    let got = ask(1, head(1, END_STREAM, &with(GET, &[("x-a", "1"), ("te", "trailers")]))).await;
    assert!(got.starts_with("GET / HTTP/1.1\r\n") && got.contains("host: x\r\n"), "{got}");
    assert!(got.contains("x-a: 1\r\n") && !got.contains("\r\n:"), "{got}");
    assert!(!got.contains("content-length") && !got.contains("transfer-encoding"), "{got}");

    let known = [head(3, 0, &with(POST, &[("content-length", "3")])), frame(DATA, END_STREAM, 3, b"abc")].concat();
    let got = ask(3, known).await;
    assert!(got.contains("content-length: 3\r\n") && got.ends_with("\r\n\r\nabc"), "{got}");
    assert!(!got.contains("transfer-encoding"), "{got}");

    let unknown = [head(5, 0, POST), frame(DATA, 0, 5, b"abc"), head(5, END_STREAM, &[("t", "1")])].concat();
    let got = ask(5, unknown).await;
    assert!(got.contains("transfer-encoding: chunked\r\n") && got.contains("\r\n3\r\nabc\r\n0\r\n"), "{got}");
    assert!(!got.contains("content-length"), "{got}");

    // Crumbs of a cookie become one field again (RFC 9113 section 8.2.3).
    let got = ask(7, head(7, END_STREAM, &with(GET, &[("cookie", "a=1"), ("cookie", "b=2")]))).await;
    assert!(got.contains("cookie: a=1; b=2\r\n"), "{got}");
}

/// The codec drops two things that RFC 9113 calls malformed, before the gateway sees them: a fragment in a path (section
/// 8.3.1) and a pseudo-header among trailers (section 8.1). Routes and services are then shown the same, without them.
#[tokio::test]
async fn what_the_codec_drops_is_seen_by_nobody() {
    let (node, mut tells) = node().await;
    let mut client = Client::connect(node.address).await;
    let path = |path| [GET[0], GET[1], GET[2], (":path", path)];
    for (stream, asked, expected) in [(1, "/a#b", "/a"), (3, "/a#/../closed", "/a"), (5, "/a?b#?c", "/a?b")] {
        client.send(head(stream, END_STREAM, &path(asked))).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(200), "{asked}");
        let got = String::from_utf8(within(tells.recv()).await.unwrap()).unwrap();
        assert!(got.starts_with(&format!("GET {expected} HTTP/1.1\r\n")) && !got.contains('#'), "{asked}: {got}");
    }
    for (stream, asked) in [(7, "/closed#"), (9, "/closed#/a"), (11, "/a/../closed#b")] {
        client.send(head(stream, END_STREAM, &path(asked))).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(403), "{asked}");
    }
    for (stream, name) in [(13, ":path"), (15, ":authority"), (17, ":method"), (19, ":status")] {
        let trailers = head(stream, END_STREAM, &[(name, "/closed"), ("t", "1")]);
        client.send([head(stream, 0, POST), frame(DATA, 0, stream, b"abc"), trailers].concat()).await;
        let outcome = client.outcome(stream).await;
        if outcome != Outcome::Status(200) {
            assert_eq!(outcome, Outcome::Goaway(PROTOCOL_ERROR), "{name}");
            client = Client::connect(node.address).await;
            continue;
        }
        let got = String::from_utf8(within(tells.recv()).await.unwrap()).unwrap();
        assert!(got.starts_with("POST / HTTP/1.1\r\n") && !got.contains("closed"), "{name}: {got}");
    }
}

/// A body that is shorter or longer than announced never becomes a whole request of another length.
#[tokio::test]
async fn a_length_that_is_wrong_breaks_off() {
    let (node, mut tells) = node().await;
    for (announced, sent) in [("5", "abc"), ("2", "abc"), ("0", "GET / HTTP/1.1\r\n\r\n")] {
        let mut client = Client::connect(node.address).await;
        let request = [head(1, 0, &with(POST, &[("content-length", announced)])), frame(DATA, 0, 1, sent.as_bytes())];
        client.send([request.concat(), frame(DATA, END_STREAM, 1, b"")].concat()).await;
        let outcome = client.outcome(1).await;
        assert!([Outcome::Reset(PROTOCOL_ERROR), Outcome::Status(400)].contains(&outcome), "{announced}: {outcome:?}");
        if let Ok(got) = tells.try_recv() {
            assert!(!is_whole(&got), "{announced}: {}", String::from_utf8_lossy(&got));
        }
    }
}

/// Whatever stands in a field or a pseudo-header: what reaches the service is one request with the fields that were
/// sent, or nothing does.
#[test]
fn no_field_becomes_anything_but_itself() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (node, tells) = runtime.block_on(node());
    let tells = std::cell::RefCell::new(tells);
    // Octets that would matter in HTTP/1.1, among some that do not.
    let text = "[a-z:/ .,;=%#?@\\\\\r\n\t\0\u{7f}\u{80}\u{ff}-]{0,12}";
    let mut runner = TestRunner::new(Config { cases: 512, failure_persistence: None, ..Config::default() });
    let fields = (text, text, text, text, "(GET|POST|[A-Z \r\n]{1,5})");
    let tested = runner.run(&fields, |(name, value, path, authority, method)| {
        let (path, authority) = (format!("/{path}"), format!("x{authority}"));
        let fields = [
            (":method", &*method),
            (":scheme", "http"),
            (":authority", &authority),
            (":path", &path),
            (&name, &value),
            ("x-last", "1"),
        ];
        let request = head(1, END_STREAM, &fields);
        let outcome = runtime.block_on(async {
            let mut client = Client::connect(node.address).await;
            client.send(request).await;
            client.outcome(1).await
        });
        if outcome != Outcome::Status(200) {
            let is_told = !matches!(outcome, Outcome::Closed) && outcome != Outcome::Status(500);
            prop_assert!(is_told, "{:?}: {:?}", fields, outcome);
            return Ok(());
        }
        let got = runtime.block_on(within(tells.borrow_mut().recv())).unwrap();
        let latin: String = got.iter().map(|octet| char::from(*octet)).collect();
        let (start, rest) = latin.split_once("\r\n").unwrap();
        let parts: Vec<&str> = start.split(' ').collect();
        prop_assert!(parts.len() == 3 && parts[0] == method && parts[2] == "HTTP/1.1", "{:?}: {:?}", fields, start);
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        prop_assert_eq!(body, "");
        let lines: Vec<&str> = head.split("\r\n").collect();
        let known = ["host", "x-last", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "content-length"];
        for line in &lines {
            let (found, content) = line.split_once(": ").unwrap_or((line, ""));
            prop_assert!(!content.contains(['\r', '\n', '\0']), "{:?}: {:?}", fields, line);
            let is_sent = found == name && content == value.trim_matches([' ', '\t']);
            prop_assert!(is_sent || known.contains(&found), "{:?}: {:?}", fields, line);
        }
        prop_assert_eq!(lines.iter().filter(|line| **line == "x-last: 1").count(), 1);
        Ok(())
    });
    tested.unwrap();
}
