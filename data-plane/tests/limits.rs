//! What a listener allows its clients, by its own limits.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use support::{Node, backend, free_address, problem, put, raw, read_all, read_until, respond, within};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

async fn node(limits: Value) -> Node {
    Node::start_limited(limits, vec![put(Kind::Route, "all", respond("ok"))]).await
}

fn forward_to(address: SocketAddr) -> Vec<Edit> {
    vec![
        put(Kind::Service, "service", json!({ "url": format!("http://{address}") })),
        put(Kind::Route, "all", json!({ "service": "service" })),
    ]
}

/// A connection from this address of the loopback network.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether a request on it is answered; it was closed otherwise.
async fn is_served(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(REQUEST.as_bytes()).await;
    let mut answer = [0; 1024];
    let read = within(tokio::io::AsyncReadExt::read(stream, &mut answer)).await;
    read.is_ok_and(|count| answer[..count].starts_with(b"HTTP/1.1 200"))
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_there_is_room_again_when_others_go() {
    let node = node(json!({ "connections": 2 })).await;
    let mut kept = TcpStream::connect(node.address).await.unwrap();
    let mut given_up = TcpStream::connect(node.address).await.unwrap();
    assert!(is_served(&mut kept).await && is_served(&mut given_up).await);
    for _ in 0..4 {
        assert!(!is_served(&mut TcpStream::connect(node.address).await.unwrap()).await);
    }
    assert!(is_served(&mut kept).await, "those that are there go on");
    drop(given_up);
    node.until_counted(|counts| counts.connections_closed == 1).await;
    assert!(is_served(&mut TcpStream::connect(node.address).await.unwrap()).await);
    assert_eq!(node.telemetry.gather().await.refusals["too-many-connections"], 4);
}

#[tokio::test]
async fn one_client_cannot_take_the_places_of_others() {
    let node = node(json!({ "connections_per_client": 1 })).await;
    let mut first = connect_from(1, node.address).await;
    assert!(is_served(&mut first).await);
    assert!(!is_served(&mut connect_from(1, node.address).await).await);
    assert!(is_served(&mut connect_from(2, node.address).await).await);
    assert_eq!(node.telemetry.gather().await.refusals["too-many-connections-of-client"], 1);
}

#[tokio::test]
async fn each_listener_has_its_own_limits_for_heads() {
    let mut node = node(json!({ "header_fields": 3, "header_bytes": 256, "target_bytes": 16 })).await;
    let wide = free_address();
    node.change(vec![put(Kind::Listener, "wide", json!({ "bind": wide.to_string() }))]).await.unwrap();
    let cases = [
        ("/", "a: 1\r\nb: 2\r\nc: 3\r\n".to_owned(), 431, "too-many-header-fields"),
        ("/", format!("a: {}\r\n", "x".repeat(200)), 431, "header-too-large"),
        ("/0123456789abcdef", String::new(), 414, "uri-too-long"),
    ];
    for (target, fields, status, code) in cases {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        let problem = problem(&node.raw(&request).await);
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
        assert!(raw(wide, &request).await.ends_with("ok"), "{code}");
    }
}

#[tokio::test]
async fn a_body_that_takes_too_long_in_all_is_given_up_however_steadily_it_comes() {
    let limits = json!({ "body_time": "300ms", "body_rate": 0 });
    let node = Node::start_limited(limits, forward_to(backend::echo().await)).await;
    let (mut read, mut write) = TcpStream::connect(node.address).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        let head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut sent = write.write_all(head).await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sent = write.write_all(b"1\r\nx\r\n").await;
        }
    });
    let mut answer = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answer)).await;
    let problem = problem(&String::from_utf8(answer).unwrap());
    assert_eq!((&problem["status"], &problem["code"]), (&json!(408), &json!("request-timeout")));
    drop(read);
    within(sending).await.unwrap();
}

#[tokio::test]
async fn a_connection_of_some_age_is_told_to_go() {
    let node = node(json!({ "connection_age": "100ms", "idle_time": "100ms" })).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    // Each request keeps it from idling, and none fails.
    while is_served(&mut stream).await {}
    assert!(is_served(&mut TcpStream::connect(node.address).await.unwrap()).await);
}

#[tokio::test]
async fn a_change_of_limits_is_for_new_connections() {
    let mut node = node(json!({})).await;
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "x".repeat(400));
    let mut before = TcpStream::connect(node.address).await.unwrap();
    assert!(is_served(&mut before).await);
    node.change_listener(json!({ "limits": { "header_bytes": 256 } })).await;
    before.write_all(request.as_bytes()).await.unwrap();
    assert!(read_until(&mut before, "ok").await.starts_with("HTTP/1.1 200"));
    let mut after = TcpStream::connect(node.address).await.unwrap();
    after.write_all(request.as_bytes()).await.unwrap();
    after.shutdown().await.unwrap();
    assert!(read_all(&mut after).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn an_http_2_client_is_told_how_many_streams_it_may_have() {
    let node = Node::start_limited(json!({ "streams": 1 }), forward_to(backend::echo().await)).await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = std::pin::pin!(connection);
    let requests = async {
        let send = |path: &str| {
            let request = Request::get(format!("http://x{path}")).body(support::backend::full("")).unwrap();
            sender.clone().send_request(request)
        };
        let first = send("/1").await.unwrap();
        let (rest, second) = within(async { tokio::join!(first.into_body().collect(), send("/2")) }).await;
        (rest.unwrap().to_bytes(), second.unwrap().status())
    };
    let (first, second) = tokio::select! {
        done = requests => done,
        ended = connection => panic!("the connection ended: {ended:?}"),
    };
    assert!(first.starts_with(b"{") && second == 200);
}

#[tokio::test]
async fn a_call_of_grpc_may_pause_longer_than_a_body() {
    let limits = json!({ "body_grace": "50ms", "body_time": "50ms" });
    let node = Node::start_limited(limits, forward_to(backend::echo().await)).await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Both begin at once and pause behind the first message: the call of gRPC until the other request was given up.
    let mut send = |content_type: &str| {
        let (message, messages) = mpsc::unbounded_channel();
        message.send("one").unwrap();
        let messages = UnboundedReceiverStream::new(messages)
            .map(|message: &str| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(message.as_bytes()))));
        let request = Request::post("http://x/").header("content-type", content_type);
        let request = request.body(BodyExt::boxed_unsync(StreamBody::new(messages))).unwrap();
        (message, sender.send_request(request))
    };
    let (call, answer_to_call) = send("application/grpc");
    let (_upload, answer_to_upload) = send("application/json");
    assert_eq!(within(answer_to_upload).await.unwrap().status(), 408);
    call.send("two").unwrap();
    drop(call);
    let answer = within(answer_to_call).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["body"], json!("onetwo"));
}
