//! gRPC-Web through a node to a service of gRPC: both forms, over HTTP/1.1 and HTTP/2, message by message.

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::json;
use tokio::net::TcpStream;

use crate::grpc::{message, service, to};
use crate::support::{self, Node, backend, put, within};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

fn with_policy(mut edits: Vec<Edit>) -> Vec<Edit> {
    edits.push(put(Kind::Policy, "browsers", json!({ "type": "grpc-web", "apply_to": "everything" })));
    edits
}

#[derive(Clone, Copy, Debug)]
enum Version {
    One,
    Two,
}

/// Sends a call on a connection of its own.
async fn call(
    node: &Node,
    version: Version,
    path: &str,
    kind: &str,
    more: &[(&str, &str)],
    pieces: Vec<Vec<u8>>,
) -> Response<Incoming> {
    let request = Request::post(format!("http://x{path}")).header("host", "x").header("content-type", kind);
    let request = more.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
    let body = BoxBody::new(StreamBody::new(tokio_stream::iter(frames)));
    let request = request.body(body).unwrap();
    let stream = TokioIo::new(TcpStream::connect(node.address).await.unwrap());
    match version {
        Version::One => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            within(sender.send_request(request)).await.unwrap()
        }
        Version::Two => {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            within(sender.send_request(request)).await.unwrap()
        }
    }
}

/// What a body says: its bytes, or in base64 whose pieces may end in padding.
fn said(kind: &str, body: &[u8]) -> Vec<u8> {
    match kind {
        TEXT => body.chunks(4).flat_map(|group| STANDARD.decode(group).unwrap()).collect(),
        _ => body.to_vec(),
    }
}

/// The messages of an answer and the lines of its trailers.
fn frames(mut bytes: &[u8]) -> (Vec<String>, String) {
    let mut messages = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = bytes {
        let (content, behind) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        let content = String::from_utf8(content.to_vec()).unwrap();
        if *flag == 0x80 {
            assert!(behind.is_empty(), "trailers are the last frame");
            return (messages, content);
        }
        messages.push(content);
        bytes = behind;
    }
    panic!("no trailers behind {messages:?}");
}

#[tokio::test]
async fn calls_go_to_a_service_of_grpc_and_back_in_both_forms() {
    let (address, _tells) = service().await;
    let node = Node::start(with_policy(to(address, json!({})))).await;
    let sent = [message("one"), message("a longer one")].concat();
    for version in [Version::One, Version::Two] {
        for kind in [BINARY, TEXT] {
            let body = if kind == TEXT { STANDARD.encode(&sent).into_bytes() } else { sent.clone() };
            // In pieces that respect no border.
            let pieces = body.chunks(7).map(<[u8]>::to_vec).collect();
            let response = call(&node, version, "/echo", kind, &[("x-grpc-web", "1")], pieces).await;
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-type"]),
                (200, &kind.parse().unwrap())
            );
            assert!(!response.headers().contains_key("grpc-status"));
            let collected = within(response.into_body().collect()).await.unwrap();
            assert!(collected.trailers().is_none(), "browsers do not see them");
            let (messages, trailers) = frames(&said(kind, &collected.to_bytes()));
            assert_eq!(messages, ["one", "a longer one"], "{version:?} {kind}");
            assert_eq!(trailers, "grpc-status:0\r\ngrpc-message:all of it\r\nx-more:1\r\n");
        }
    }
}

#[tokio::test]
async fn a_message_does_not_wait_for_the_next_and_a_call_ends_in_time() {
    let (address, mut tells) = service().await;
    let node = Node::start(with_policy(to(address, json!({})))).await;
    for (version, kind) in [(Version::One, BINARY), (Version::One, TEXT), (Version::Two, TEXT)] {
        let mut response = call(&node, version, "/forever", kind, &[("grpc-timeout", "1500m")], vec![]).await;
        assert_eq!(within(tells.recv()).await.unwrap(), "began");
        let first = within(response.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(said(kind, &first), message("first"), "{version:?} {kind}");
        let rest = within(response.into_body().collect()).await.unwrap().to_bytes();
        let (messages, trailers) = frames(&said(kind, &rest));
        assert!(messages.is_empty() && trailers.starts_with("grpc-status:4\r\n"), "{trailers}");
        assert_eq!(within(tells.recv()).await.unwrap(), "ended");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_call_at_the_service() {
    let (address, mut tells) = service().await;
    let node = Node::start(with_policy(to(address, json!({})))).await;
    for version in [Version::One, Version::Two] {
        let response = call(&node, version, "/forever", TEXT, &[], vec![]).await;
        assert_eq!(within(tells.recv()).await.unwrap(), "began");
        drop(response);
        assert_eq!(within(tells.recv()).await.unwrap(), "ended");
    }
}

/// From the service, from a policy that runs after this one, and from the gateway for want of a service.
#[tokio::test]
async fn errors_are_told_in_the_way_of_the_client() {
    let (address, _tells) = service().await;
    let mut edits = with_policy(to(address, json!({ "paths": ["/fail", "/echo"] })));
    edits.extend([
        put(Kind::Service, "gone", json!({ "url": format!("http://{}", support::free_address()) })),
        put(Kind::Route, "gone", json!({ "paths": ["/gone"], "service": "gone" })),
        put(Kind::Policy, "keys", json!({ "type": "key-auth" })),
        put(Kind::Route, "locked", json!({ "paths": ["/locked"], "service": "backend", "policies": ["keys"] })),
    ]);
    let node = Node::start(edits).await;
    for version in [Version::One, Version::Two] {
        for kind in [BINARY, TEXT] {
            for (path, status) in [("/fail", "5"), ("/gone", "14"), ("/locked", "16"), ("/nowhere", "12")] {
                let response = call(&node, version, path, kind, &[], vec![]).await;
                let headers = response.headers();
                let found = (response.status().as_u16(), headers["grpc-status"].to_str().unwrap());
                assert_eq!(found, (200, status), "{version:?} {kind} {path}");
                let found = headers["content-type"].to_str().unwrap();
                assert!(kind.starts_with(found.trim_end_matches("+proto")), "{found}");
                assert_eq!(found.contains("-text"), kind == TEXT, "{found}");
                assert!(within(response.into_body().collect()).await.unwrap().to_bytes().is_empty());
            }
        }
        let broken = call(&node, version, "/echo", TEXT, &[], vec![b"AAAA!!!!".to_vec()]).await;
        let status = broken.headers().get("grpc-status").cloned();
        let body = within(broken.into_body().collect()).await.unwrap().to_bytes();
        // The service may have begun to answer.
        let is_refused =
            status.is_some_and(|status| status == "3") || !frames(&said(TEXT, &body)).1.contains("status:0");
        assert!(is_refused, "{version:?}");
    }
}

#[tokio::test]
async fn what_is_no_call_of_grpc_web_passes_as_it_is() {
    let (address, _tells) = service().await;
    let node = Node::start(with_policy(to(address, json!({})))).await;
    let response = call(&node, Version::One, "/echo", "text/plain", &[("te", "trailers")], vec![b"x".to_vec()]).await;
    assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (415, &"text/html".parse().unwrap()));
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "no gRPC");
    // And an answer that is none of gRPC, to a call that is.
    let address = backend::http(|_| async { Response::new(backend::full("<html>")) }).await;
    let mut edits = to(address, json!({}));
    edits[0] = put(Kind::Service, "backend", json!({ "url": format!("http://{address}") }));
    let node = Node::start(with_policy(edits)).await;
    let response = call(&node, Version::Two, "/echo", TEXT, &[], vec![]).await;
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "<html>");
}
