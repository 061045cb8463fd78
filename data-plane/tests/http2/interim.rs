//! What is said before an answer (RFC 9110 section 15.2), and clients that wait for leave to send the body (section
//! 10.1.1), over every pair of protocols.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::backend::{read_head, sockets};
use crate::support::{Node, put, read_all, read_until, within};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Http1,
    Http2,
}

const BOTH: [Over; 2] = [Over::Http1, Over::Http2];

/// A request as a service has got it, to be answered by the test.
enum Got {
    Http1 { stream: TcpStream, head: String },
    Http2 { request: Request<RecvStream>, respond: h2::server::SendResponse<Bytes> },
}

/// A service, and what it gets.
struct Service {
    over: Over,
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Got>,
}

impl Service {
    async fn start(over: Over) -> Self {
        let (got, requests) = mpsc::unbounded_channel();
        let address = sockets(move |mut stream| {
            let got = got.clone();
            async move {
                if over == Over::Http1 {
                    let head = read_head(&mut stream).await;
                    let _ = got.send(Got::Http1 { stream, head });
                    return;
                }
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let _ = got.send(Got::Http2 { request, respond });
                }
            }
        })
        .await;
        Self { over, address, requests }
    }

    fn edits(&self, mut service: Value) -> Vec<Edit> {
        service["url"] = json!(format!("http://{}", self.address));
        service["protocol"] = json!(if self.over == Over::Http2 { "http2" } else { "http1" });
        vec![put(Kind::Service, "backend", service), put(Kind::Route, "all", json!({ "service": "backend" }))]
    }

    async fn next(&mut self) -> Got {
        within(self.requests.recv()).await.unwrap()
    }
}

impl Got {
    fn expects(&self) -> bool {
        match self {
            Self::Http1 { head, .. } => head.contains("\r\nexpect: 100-continue\r\n"),
            Self::Http2 { request, .. } => request.headers().get("expect").is_some_and(|what| what == "100-continue"),
        }
    }

    async fn say(&mut self, status: u16, fields: &[(&'static str, &'static str)]) {
        match self {
            Self::Http1 { stream, .. } => {
                let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                stream.write_all(format!("HTTP/1.1 {status} X\r\n{fields}\r\n").as_bytes()).await.unwrap();
            }
            Self::Http2 { respond, .. } => {
                let mut response = Response::builder().status(status);
                for (name, value) in fields {
                    response = response.header(*name, *value);
                }
                respond.send_informational(response.body(()).unwrap()).unwrap();
            }
        }
    }

    /// Reads four bytes of body.
    async fn body(&mut self) -> String {
        match self {
            Self::Http1 { stream, .. } => {
                let mut body = [0; 4];
                within(stream.read_exact(&mut body)).await.unwrap();
                String::from_utf8(body.to_vec()).unwrap()
            }
            Self::Http2 { request, .. } => {
                let data = within(request.body_mut().data()).await.unwrap().unwrap();
                String::from_utf8(data.to_vec()).unwrap()
            }
        }
    }

    async fn answer(self, status: u16, body: &'static str) {
        match self {
            Self::Http1 { mut stream, .. } => {
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // Closing with something unread would reset the connection.
                tokio::spawn(async move { read_all(&mut stream).await });
            }
            Self::Http2 { mut respond, .. } => {
                let response = Response::builder().status(status).header("content-length", body.len());
                respond.send_response(response.body(()).unwrap(), false).unwrap().send_data(body.into(), true).unwrap();
            }
        }
    }
}

/// A request of a client, whose body is sent by the test.
enum Call {
    Http1(TcpStream),
    Http2 { response: h2::client::ResponseFuture, body: SendStream<Bytes> },
}

impl Call {
    async fn begin(over: Over, node: &Node, method: Method, fields: &[(&str, &str)]) -> Self {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        match over {
            Over::Http1 => {
                let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                stream.write_all(format!("{method} / HTTP/1.1\r\nhost: x\r\n{fields}\r\n").as_bytes()).await.unwrap();
                Self::Http1(stream)
            }
            Over::Http2 => {
                let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                let has_body = method == Method::POST;
                let mut request = Request::builder().method(method).uri("http://x/");
                for (name, value) in fields {
                    request = request.header(*name, *value);
                }
                let (response, body) = sender.send_request(request.body(()).unwrap(), !has_body).unwrap();
                Self::Http2 { response, body }
            }
        }
    }

    /// The next thing that is said, which must be an interim answer.
    async fn hears(&mut self) -> (u16, HeaderMap) {
        match self {
            Self::Http1(stream) => head(&read_until(stream, "\r\n\r\n").await),
            Self::Http2 { response, .. } => {
                let said = within(poll_fn(|context| response.poll_informational(context))).await;
                let said = said.expect("not the answer yet").unwrap();
                (said.status().as_u16(), said.headers().clone())
            }
        }
    }

    async fn send(&mut self, data: &'static str) {
        match self {
            Self::Http1(stream) => stream.write_all(data.as_bytes()).await.unwrap(),
            Self::Http2 { body, .. } => body.send_data(data.into(), true).unwrap(),
        }
    }

    /// The answer; nothing must be said before it.
    async fn ends(self) -> (u16, HeaderMap, String) {
        match self {
            Self::Http1(mut stream) => {
                let (status, headers) = head(&read_until(&mut stream, "\r\n\r\n").await);
                let mut body = vec![0; headers["content-length"].to_str().unwrap().parse().unwrap()];
                within(stream.read_exact(&mut body)).await.unwrap();
                (status, headers, String::from_utf8(body).unwrap())
            }
            Self::Http2 { mut response, body } => {
                let before = within(poll_fn(|context| response.poll_informational(context))).await;
                assert!(before.is_none(), "{before:?}");
                let (parts, mut incoming) = within(response).await.unwrap().into_parts();
                let mut text = String::new();
                while let Some(data) = within(incoming.data()).await {
                    text.push_str(std::str::from_utf8(&data.unwrap()).unwrap());
                }
                drop(body);
                (parts.status.as_u16(), parts.headers, text)
            }
        }
    }
}

fn head(text: &str) -> (u16, HeaderMap) {
    let mut lines = text.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    (status, fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>())
}

const EXPECTING: &[(&str, &str)] = &[("expect", "100-continue"), ("content-length", "4")];

#[tokio::test]
async fn what_a_service_says_before_its_answer_reaches_the_client_before_it() {
    for (client, service) in BOTH.map(|client| BOTH.map(|service| (client, service))).concat() {
        let mut service = Service::start(service).await;
        let node = Node::start(service.edits(json!({}))).await;
        let mut call = Call::begin(client, &node, Method::GET, &[]).await;
        let mut got = service.next().await;
        // Nobody waits for leave.
        got.say(100, &[]).await;
        got.say(103, &[("link", "</a.css>")]).await;
        let (status, headers) = call.hears().await;
        assert_eq!((status, headers.len(), &headers["link"]), (103, 1, &"</a.css>".parse().unwrap()), "{client:?}");
        // In one piece with the answer.
        got.say(103, &[("link", "</b.css>")]).await;
        got.answer(200, "ok").await;
        assert_eq!(call.hears().await.1["link"], "</b.css>");
        let (status, _, body) = call.ends().await;
        assert_eq!((status, body.as_str()), (200, "ok"), "{client:?} {:?}", service.over);
    }
}

#[tokio::test]
async fn leave_to_send_the_body_comes_from_the_service() {
    for (client, service) in BOTH.map(|client| BOTH.map(|service| (client, service))).concat() {
        let mut service = Service::start(service).await;
        let node = Node::start(service.edits(json!({}))).await;
        let mut call = Call::begin(client, &node, Method::POST, EXPECTING).await;
        let mut got = service.next().await;
        assert!(got.expects(), "{client:?} {:?}", service.over);
        // What is heard first is what the service said first: the gateway has given no leave of its own.
        got.say(103, &[("link", "</a.css>")]).await;
        assert_eq!(call.hears().await.0, 103);
        got.say(100, &[]).await;
        assert_eq!(call.hears().await.0, 100);
        call.send("body").await;
        assert_eq!(got.body().await, "body");
        got.answer(200, "ok").await;
        let (status, _, body) = call.ends().await;
        assert_eq!((status, body.as_str()), (200, "ok"), "{client:?} {:?}", service.over);
    }
}

/// A client need not wait for ever, and services exist that never give leave.
#[tokio::test]
async fn a_client_that_sends_without_leave_is_served() {
    for (client, service) in BOTH.map(|client| BOTH.map(|service| (client, service))).concat() {
        let mut service = Service::start(service).await;
        let node = Node::start(service.edits(json!({}))).await;
        let mut call = Call::begin(client, &node, Method::POST, EXPECTING).await;
        let mut got = service.next().await;
        call.send("body").await;
        assert_eq!(got.body().await, "body");
        // Too late to be of use to anybody.
        got.say(100, &[]).await;
        got.answer(200, "ok").await;
        let (status, _, body) = call.ends().await;
        assert_eq!((status, body.as_str()), (200, "ok"), "{client:?} {:?}", service.over);
    }
}

/// Whether the body comes now, nobody can tell: over HTTP/1.1 the client is told that the connection ends, and that to the
/// service serves nobody else.
#[tokio::test]
async fn a_final_answer_without_leave_ends_the_request() {
    for (client, service) in BOTH.map(|client| BOTH.map(|service| (client, service))).concat() {
        let mut service = Service::start(service).await;
        let node = Node::start(service.edits(json!({}))).await;
        let call = Call::begin(client, &node, Method::POST, EXPECTING).await;
        service.next().await.answer(417, "no").await;
        let (status, headers, body) = call.ends().await;
        assert_eq!((status, body.as_str()), (417, "no"), "{client:?} {:?}", service.over);
        let says_close = headers.get("connection").is_some_and(|value| value == "close");
        assert_eq!(says_close, client == Over::Http1, "{headers:?}");
        // Over HTTP/1.1 this service takes one request for each connection.
        let call = Call::begin(client, &node, Method::GET, &[]).await;
        service.next().await.answer(200, "ok").await;
        assert_eq!(call.ends().await.0, 200);
    }
}

#[tokio::test]
async fn the_gateway_refuses_without_leave() {
    let service = Service::start(Over::Http1).await;
    let mut edits = service.edits(json!({}));
    edits.push(put(Kind::Policy, "key", json!({ "type": "key-auth" })));
    edits.push(put(Kind::Route, "closed", json!({ "paths": ["/closed"], "service": "backend", "policies": ["key"] })));
    let node = Node::start_limited(json!({ "body_bytes": 4 }), edits).await;
    for client in BOTH {
        let call =
            Call::begin(client, &node, Method::POST, &[("expect", "100-continue"), ("content-length", "5")]).await;
        let (status, headers, _) = call.ends().await;
        assert_eq!(status, 413, "{headers:?}");
    }
    let head = "POST /closed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

/// A target that is lost before it gave leave has taken nothing of the body.
#[tokio::test]
async fn another_target_is_asked_for_leave() {
    let mut service = Service::start(Over::Http1).await;
    let node = Node::start(service.edits(json!({ "retries": { "methods": ["POST"] } }))).await;
    let mut call = Call::begin(Over::Http1, &node, Method::POST, EXPECTING).await;
    drop(service.next().await);
    let mut got = service.next().await;
    assert!(got.expects());
    got.say(100, &[]).await;
    assert_eq!(call.hears().await.0, 100);
    call.send("body").await;
    assert_eq!(got.body().await, "body");
    // This one is lost as well, but the client does not wait any more.
    drop(got);
    let (status, _, _) = call.ends().await;
    assert_eq!(status, 502);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_is_not_slow() {
    let limits = json!({ "body_grace": "50ms", "body_rate": 1000 });
    for client in BOTH {
        let mut service = Service::start(Over::Http1).await;
        let node = Node::start_limited(limits.clone(), service.edits(json!({}))).await;
        let mut call = Call::begin(client, &node, Method::POST, EXPECTING).await;
        let mut got = service.next().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        got.say(100, &[]).await;
        assert_eq!(call.hears().await.0, 100);
        call.send("body").await;
        assert_eq!(got.body().await, "body");
        got.answer(200, "ok").await;
        assert_eq!(call.ends().await.0, 200);
    }
}

#[tokio::test]
async fn a_service_that_says_nothing_is_late_and_not_the_client_that_waits() {
    for (client, service) in BOTH.map(|client| BOTH.map(|service| (client, service))).concat() {
        let mut service = Service::start(service).await;
        let node = Node::start(service.edits(json!({ "timeouts": { "request": "100ms" } }))).await;
        let call = Call::begin(client, &node, Method::POST, EXPECTING).await;
        let got = service.next().await;
        assert_eq!(call.ends().await.0, StatusCode::GATEWAY_TIMEOUT.as_u16(), "{client:?} {:?}", service.over);
        drop(got);
    }
}

/// It knows of one answer alone, and what it expects is not looked at (RFC 9110 section 10.1.1).
#[tokio::test]
async fn a_client_of_http_1_0_hears_the_answer_alone() {
    let mut service = Service::start(Over::Http1).await;
    let node = Node::start(service.edits(json!({}))).await;
    let mut client = TcpStream::connect(node.address).await.unwrap();
    let request = "POST / HTTP/1.0\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = service.next().await;
    assert!(!got.expects());
    got.say(103, &[("link", "</a.css>")]).await;
    assert_eq!(got.body().await, "body");
    got.answer(200, "ok").await;
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

/// A service may say only so much before its answer.
#[tokio::test]
async fn a_service_that_says_too_much_before_its_answer_has_none() {
    for (client, service) in BOTH.map(|client| BOTH.map(|service| (client, service))).concat() {
        let mut service = Service::start(service).await;
        let node = Node::start(service.edits(json!({ "retries": { "attempts": 0 } }))).await;
        let mut call = Call::begin(client, &node, Method::GET, &[]).await;
        let mut got = service.next().await;
        for _ in 0..17 {
            got.say(103, &[]).await;
        }
        for _ in 0..16 {
            assert_eq!(call.hears().await.0, 103);
        }
        assert_eq!(call.ends().await.0, 502, "{client:?} {:?}", service.over);
    }
}
