//! What a node gives up when its memory is short, and that it has it again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::num::NonZeroUsize;

use data_plane::memory::Pressure;
use model::resource::Kind;
use serde_json::json;
use support::{Node, backend, problem, put, read_all, read_until, respond, settings, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// A node of one core: `/` answers at once, `/silent` never.
async fn node() -> Node {
    let silent = backend::sockets(|mut stream| async move {
        let mut all = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all).await;
    })
    .await;
    let mut settings = settings();
    settings.cores = NonZeroUsize::MIN;
    let edits = vec![
        put(Kind::Service, "silent", json!({ "url": format!("http://{silent}") })),
        put(Kind::Route, "silent", json!({ "paths": ["/silent"], "service": "silent" })),
        put(Kind::Route, "all", respond("ok")),
    ];
    Node::start_with(settings, edits).await
}

async fn served(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    read_until(&mut stream, "ok").await;
    stream
}

#[tokio::test]
async fn first_connections_that_wait_are_closed_and_requests_still_answered() {
    let node = node().await;
    let mut waiting = served(&node).await;
    node.cores.press(Pressure::NoKeepAlive);
    assert_eq!(read_all(&mut waiting).await, "");
    served(&node).await;
}

#[tokio::test]
async fn then_nothing_new_is_taken_until_there_is_memory_again() {
    let node = node().await;
    let mut begun = TcpStream::connect(node.address).await.unwrap();
    begun.write_all(&REQUEST.as_bytes()[..10]).await.unwrap();
    support::taken(&begun).await;
    node.cores.press(Pressure::NothingNew);
    // The order is obeyed before what is said next is read.
    node.telemetry.gather().await;
    begun.write_all(&REQUEST.as_bytes()[10..]).await.unwrap();
    begun.shutdown().await.unwrap();
    let problem = problem(&read_all(&mut begun).await);
    assert_eq!((&problem["status"], &problem["code"]), (&json!(503), &json!("memory-short")));
    assert_eq!(node.raw(REQUEST).await, "");
    node.cores.press(Pressure::None);
    node.until_counted(|counts| counts.refusals.get("memory-short") == Some(&1)).await;
    served(&node).await;
}

#[tokio::test]
async fn at_last_the_largest_connections_are_reset_and_smaller_ones_go_on() {
    let node = node().await;
    let begin = async |fields: String| {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(format!("GET /silent HTTP/1.1\r\nhost: x\r\n{fields}\r\n").as_bytes()).await.unwrap();
        stream
    };
    let mut small = begin(String::new()).await;
    let mut large = begin(format!("large: {}\r\n", "x".repeat(20_000))).await;
    node.until_counted(|counts| counts.requests_started == 2).await;
    node.cores.press(Pressure::ResetLargest);
    assert_eq!(read_all(&mut large).await, "");
    node.until_counted(|counts| counts.refusals.get("memory-short-reset") == Some(&1)).await;
    node.cores.press(Pressure::None);
    // It still waits for its answer.
    let mut byte = [0];
    let wait = std::time::Duration::from_millis(50);
    let read = tokio::time::timeout(wait, tokio::io::AsyncReadExt::read(&mut small, &mut byte)).await;
    assert!(read.is_err(), "{read:?}");
    within(served(&node)).await;
}

/// Other protocols have no answer to wait for, and go with the rest.
#[tokio::test]
async fn a_tunnel_is_reset_like_a_request() {
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let service = backend::sockets(move |mut stream| {
        let told = told.clone();
        async move {
            backend::read_head(&mut stream).await;
            let consent = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
            stream.write_all(consent).await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = told.send(());
        }
    })
    .await;
    let mut node = node().await;
    node.change(vec![
        put(Kind::Service, "chat", json!({ "url": format!("http://{service}") })),
        put(Kind::Route, "chat", json!({ "paths": ["/chat"], "service": "chat" })),
    ])
    .await
    .unwrap();
    let mut small = TcpStream::connect(node.address).await.unwrap();
    small.write_all(b"GET /silent HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut tunnel = TcpStream::connect(node.address).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
    tunnel.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut tunnel, "\r\n\r\n").await;
    tunnel.write_all(b"hello").await.unwrap();
    read_until(&mut tunnel, "hello").await;
    // It may stay while only connections that wait are closed.
    node.cores.press(Pressure::NothingNew);
    tunnel.write_all(b"again").await.unwrap();
    read_until(&mut tunnel, "again").await;
    node.until_counted(|counts| counts.requests_started == 2).await;
    node.cores.press(Pressure::ResetLargest);
    assert_eq!(read_all(&mut tunnel).await, "");
    within(ended.recv()).await.unwrap();
    node.until_counted(|counts| counts.refusals.get("memory-short-reset") == Some(&1)).await;
}
