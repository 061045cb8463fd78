//! WebSockets over HTTP/2 (RFC 8441) to services of HTTP/1.1 (RFC 6455).

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::resource::Kind;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::frames::*;
use crate::support::{Node, backend, put, within};

/// A service that tells the head of each request and switches, echoing until `bye`; `/wrong` does not show that it has
/// understood, `/no` does not want to, and `/page` answers as if nobody had asked.
async fn service() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (told, tells) = mpsc::unbounded_channel();
    let address = backend::sockets(move |mut stream| {
        let told = told.clone();
        async move {
            let head = backend::read_head(&mut stream).await;
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
            let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
            let accept = if head.starts_with("GET /wrong") { "wrong".into() } else { STANDARD.encode(digest) };
            let other = match &head {
                head if head.starts_with("GET /no") => Some("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
                head if head.starts_with("GET /page") => Some("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npage"),
                _ => None,
            };
            let _ = told.send(head);
            if let Some(other) = other {
                let _ = stream.write_all(other.as_bytes()).await;
                return;
            }
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\nhello "
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let _ = stream.write_all(&buffer[..count]).await;
                if buffer[..count].ends_with(b"bye") {
                    break;
                }
            }
            let _ = told.send("closed".into());
        }
    })
    .await;
    (address, tells)
}

async fn node(address: SocketAddr) -> Node {
    let edits = vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}") })),
        put(Kind::Route, "all", json!({ "methods": ["GET"], "service": "backend" })),
    ];
    Node::start(edits).await
}

type Sender = SendRequest<Empty<Bytes>>;

async fn client(node: &Node) -> Sender {
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // A client waits for the setting before it uses it; an answer comes behind the settings.
    let plain = Request::post("http://x/").body(Empty::new()).unwrap();
    assert_eq!(within(sender.send_request(plain)).await.unwrap().status(), 404);
    sender
}

async fn open(sender: &mut Sender, path: &str, protocol: &'static str) -> Response<Incoming> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://x{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(Empty::new())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    within(sender.send_request(request)).await.unwrap()
}

async fn expect(stream: &mut TokioIo<Upgraded>, text: &str) {
    let mut got = vec![0; text.len()];
    within(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), text);
}

#[tokio::test]
async fn a_web_socket_opens_on_a_stream_and_others_go_on_beside_it() {
    let (address, mut tells) = service().await;
    let node = node(address).await;
    let mut sender = client(&node).await;
    let response = open(&mut sender, "/chat?room=1", "websocket").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let head = within(tells.recv()).await.unwrap();
    assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
    for line in ["host: x", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert!(head.lines().any(|found| found == line), "{line}: {head}");
    }
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    assert_eq!(STANDARD.decode(key).unwrap().len(), 16);
    assert!(!head.contains(":protocol") && !head.contains("transfer-encoding"), "{head}");

    let mut one = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    // What came behind the consent of the service.
    expect(&mut one, "hello ").await;
    let two = open(&mut sender, "/", "websocket").await;
    let mut two = TokioIo::new(hyper::upgrade::on(two).await.unwrap());
    expect(&mut two, "hello ").await;
    // More than any window or buffer on the way, in both directions at once.
    let large = "x".repeat(300_000);
    for (socket, text) in [(&mut one, "one"), (&mut two, &*large)] {
        let (mut read, mut write) = tokio::io::split(socket);
        let mut got = vec![0; text.len()];
        let (written, read) =
            within(async { tokio::join!(write.write_all(text.as_bytes()), read.read_exact(&mut got)) }).await;
        written.unwrap();
        read.unwrap();
        assert_eq!(got, text.as_bytes());
    }
    let plain = Request::post("http://x/").body(Empty::new()).unwrap();
    assert_eq!(within(sender.send_request(plain)).await.unwrap().status(), 404);

    // The service ends one, the client the other.
    one.write_all(b"bye").await.unwrap();
    expect(&mut one, "bye").await;
    assert_eq!(within(one.read(&mut [0; 8])).await.unwrap(), 0);
    drop((one, two));
    while within(tells.recv()).await.unwrap() != "closed" {}
    while within(tells.recv()).await.unwrap() != "closed" {}
    node.until_counted(|shard| shard.requests_started == shard.requests_ended).await;
    let echoed = 2 * 6 + 3 + 300_000 + 3;
    assert!(node.telemetry.gather().await.bytes_out >= echoed);
}

#[tokio::test]
async fn a_service_that_refuses_or_does_not_understand_opens_nothing() {
    let (address, _tells) = service().await;
    let node = node(address).await;
    let mut sender = client(&node).await;
    let refused = open(&mut sender, "/no", "websocket").await;
    assert_eq!(refused.status(), 403);
    assert_eq!(within(refused.into_body().collect()).await.unwrap().to_bytes(), "no");
    let wrong = open(&mut sender, "/wrong", "websocket").await;
    assert_eq!(wrong.status(), 502);
    let problem = within(wrong.into_body().collect()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&problem).contains("upstream-bad-response"), "{problem:?}");
    // A 2xx would open it.
    let page = open(&mut sender, "/page", "websocket").await;
    assert_eq!(page.status(), 502);
    let problem = within(page.into_body().collect()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&problem).contains("websocket-unopened"), "{problem:?}");
    // Other protocols, and tunnels to anywhere, are not to be had.
    assert_eq!(open(&mut sender, "/", "connect-udp").await.status(), 501);
    let anywhere = Request::connect("y:443").body(Empty::new()).unwrap();
    assert!(!within(sender.send_request(anywhere)).await.unwrap().status().is_success());
    node.until_counted(|shard| shard.requests_started == shard.requests_ended).await;
}

#[tokio::test]
async fn a_web_socket_ends_with_its_client() {
    let (address, mut tells) = service().await;
    let node = node(address).await;
    let mut client = Client::connect(node.address).await;
    let connect = [(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]];
    client.send(head(1, 0, &connect)).await;
    within(tells.recv()).await.unwrap();
    client.send(reset(1, CANCEL)).await;
    assert_eq!(within(tells.recv()).await.unwrap(), "closed");
    client.send(head(3, 0, &connect)).await;
    within(tells.recv()).await.unwrap();
    drop(client);
    assert_eq!(within(tells.recv()).await.unwrap(), "closed");
    node.until_counted(|shard| shard.requests_started == shard.requests_ended).await;
}

/// RFC 8441 sections 3 and 4.
#[tokio::test]
async fn the_node_says_that_it_knows_extended_connect_and_wants_it_whole() {
    let (address, _tells) = service().await;
    let node = node(address).await;
    let mut client = Client::connect(node.address).await;
    let told = client.read().await.unwrap();
    assert!(told.kind == SETTINGS && told.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{told:?}");
    let malformed = [
        (1, with(GET, &[(":protocol", "websocket")])),
        (3, vec![(":method", "CONNECT"), (":protocol", "websocket"), GET[2]]),
    ];
    for (stream, fields) in malformed {
        client.send(head(stream, END_STREAM, &fields)).await;
        let outcome = client.outcome(stream).await;
        assert!([Outcome::Reset(PROTOCOL_ERROR), Outcome::Status(400)].contains(&outcome), "{fields:?}: {outcome:?}");
    }
}
