//! What means the same over HTTP/1.1 and HTTP/2: the same request, sent both ways, gets the same answer and is the same
//! for the service (RFC 9110).

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::frames::{Client, END_STREAM, GET, Outcome, head};
use crate::support::backend::{self, full};
use crate::support::{Node, put, respond, within};

type Body = BoxBody<Bytes, std::convert::Infallible>;

fn to(address: std::net::SocketAddr) -> Vec<Edit> {
    vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}") })),
        put(Kind::Route, "all", json!({ "service": "backend" })),
        put(Kind::Route, "own", json!({ "paths": ["/own"], "respond": respond("hello")["respond"] })),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Over {
    Http1,
    Http2,
}

const BOTH: [Over; 2] = [Over::Http1, Over::Http2];

impl Over {
    /// Sends on a connection of its own.
    async fn send(self, node: &Node, mut request: Request<Body>) -> Response<Incoming> {
        let stream = TokioIo::new(TcpStream::connect(node.address).await.unwrap());
        match self {
            Self::Http1 => {
                request.headers_mut().insert("host", "x".parse().unwrap());
                let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                within(sender.send_request(request)).await.unwrap()
            }
            Self::Http2 => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                within(sender.send_request(request)).await.unwrap()
            }
        }
    }
}

fn request(method: Method, target: &str, fields: &[(&str, &str)], body: &'static str) -> Request<Body> {
    let request = Request::builder().method(method).uri(format!("http://x{target}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::from(body).boxed()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(within(response.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Section 9.3.2, of an answer of the gateway's own, of one of a service, and of a refusal.
#[tokio::test]
async fn head_is_get_without_a_body() {
    let address = backend::http(|request| async move {
        let is_head = request.method() == Method::HEAD;
        let answer = Response::builder().header("etag", "\"1\"").header("content-length", "4");
        answer.body(full(if is_head { "" } else { "body" })).unwrap()
    })
    .await;
    let node = Node::start(to(address)).await;
    for over in BOTH {
        for (path, length) in [("/own", Some("5")), ("/service", Some("4")), ("/%2e%2e/x", None)] {
            let got = over.send(&node, request(Method::GET, path, &[], "")).await;
            let (status, kind) = (got.status(), got.headers().get("content-type").cloned());
            assert!(!text(got).await.is_empty());
            let head = over.send(&node, request(Method::HEAD, path, &[], "")).await;
            assert_eq!((head.status(), head.headers().get("content-type")), (status, kind.as_ref()), "{over:?} {path}");
            let announced = head.headers()["content-length"].to_str().unwrap().to_owned();
            assert!(length.is_none_or(|length| length == announced), "{over:?} {path}: {announced}");
            assert_eq!(text(head).await, "", "{over:?} {path}");
        }
    }
}

/// Section 9.3.7: a service is asked about its resources, and the gateway about itself.
#[tokio::test]
async fn options_asks_about_a_resource_or_the_gateway() {
    let node = Node::start(to(backend::echo().await)).await;
    for over in BOTH {
        let answer = over.send(&node, request(Method::OPTIONS, "/a", &[("origin", "http://page")], "")).await;
        let got: Value = serde_json::from_str(&text(answer).await).unwrap();
        assert_eq!((&got["method"], &got["target"]), (&json!("OPTIONS"), &json!("/a")), "{over:?}");
    }
    let mut client = Client::connect(node.address).await;
    let asterisk = [(":method", "OPTIONS"), GET[1], GET[2], (":path", "*")];
    client.send(head(1, END_STREAM, &asterisk)).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    let answer = node.raw("OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for field in ["\r\nallow: GET, HEAD, ", "\r\ncontent-length: 0\r\n"] {
        assert!(answer.contains(field), "{answer}");
    }
    // Of nothing else there is a question of this form.
    for (number, target) in [(3, "*?a"), (5, "*a")] {
        client.send(head(number, END_STREAM, &[(":method", "OPTIONS"), GET[1], GET[2], (":path", target)])).await;
        assert_ne!(client.outcome(number).await, Outcome::Status(200), "{target}");
    }
    client.send(head(7, END_STREAM, &[GET[0], GET[1], GET[2], (":path", "*")])).await;
    assert_eq!(client.outcome(7).await, Outcome::Status(400));
}

/// Sections 4.2.2 and 7.4: what is to be secured does not come over a connection that is not, unless a proxy in front that
/// is known has taken its TLS off.
#[tokio::test]
async fn a_scheme_must_be_that_of_the_connection() {
    let trusting = json!({ "forwarded": { "trusted_proxies": ["127.0.0.0/8"] } });
    let told = json!({ "proxy_protocol": { "from": ["127.0.0.0/8"], "mode": "optional" } });
    const NAMED: &str = "PROXY TCP4 192.0.2.1 192.0.2.2 4000 443\r\n";
    let cases = [
        (json!({}), "", "http", 200),
        (json!({}), "", "https", 421),
        (json!({}), "", "ftp", 400),
        (trusting, "", "https", 200),
        (told.clone(), "", "https", 421),
        (told.clone(), NAMED, "https", 200),
        // By which the proxy speaks for itself.
        (told, "PROXY UNKNOWN\r\n", "https", 421),
    ];
    for (listener, ahead, scheme, status) in cases {
        let node = Node::start_on(listener, to(backend::echo().await)).await;
        let request = format!("{ahead}GET {scheme}://x/own HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = node.raw(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{ahead:?} {scheme} {answer}");
        let mut client = Client::connect_behind(node.address, ahead.as_bytes()).await;
        client.send(head(1, END_STREAM, &[GET[0], (":scheme", scheme), GET[2], (":path", "/own")])).await;
        assert_eq!(client.outcome(1).await, Outcome::Status(status), "{ahead:?} {scheme}");
    }
}

/// Sections 9.3.8 and 11.7: nothing of what is for the gateway, or added by it, comes to see the other side.
#[tokio::test]
async fn a_request_is_not_sent_back_and_credentials_for_a_proxy_go_nowhere() {
    let node = Node::start(to(backend::echo().await)).await;
    for over in BOTH {
        let fields = [("proxy-authorization", "Basic eDp5"), ("authorization", "Basic eDp5")];
        let refused = over.send(&node, request(Method::TRACE, "/a", &fields, "")).await;
        assert_eq!(refused.status(), 501, "{over:?}");
        let told = text(refused).await;
        assert!(!told.contains("Basic"), "{over:?}: {told}");
        let answer = over.send(&node, request(Method::GET, "/a", &fields, "")).await;
        let got: Value = serde_json::from_str(&text(answer).await).unwrap();
        let names: Vec<&str> =
            got["headers"].as_array().unwrap().iter().filter_map(|field| field[0].as_str()).collect();
        assert!(names.contains(&"authorization") && !names.contains(&"proxy-authorization"), "{over:?}: {names:?}");
    }
}

/// RFC 9112 section 3.2.2 and RFC 9113 section 8.3.1: whole targets; what else names a host names the same.
#[tokio::test]
async fn the_authority_of_a_target_is_the_host() {
    let node = Node::start(to(backend::echo().await)).await;
    let absolute = "GET http://X/a?b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let got: Value = serde_json::from_str(node.raw(absolute).await.split_once("\r\n\r\n").unwrap().1).unwrap();
    let answer = Over::Http2.send(&node, request(Method::GET, "/a?b", &[], "")).await;
    let too: Value = serde_json::from_str(&text(answer).await).unwrap();
    for got in [got, too] {
        assert_eq!(got["target"], "/a?b");
        let host = got["headers"].as_array().unwrap().iter().find(|field| field[0] == "host").unwrap();
        assert!(host[1].as_str().unwrap().eq_ignore_ascii_case("x"), "{got}");
    }
}

/// Server-sent events: each reaches the client before the next is sent, and the end of the client the service.
#[tokio::test]
async fn events_come_one_by_one() {
    let (send, frames) = mpsc::channel::<mpsc::Receiver<Bytes>>(2);
    let frames = Arc::new(tokio::sync::Mutex::new(frames));
    let address = backend::http(move |_| {
        let frames = frames.clone();
        async move {
            let events = frames.lock().await.recv().await.unwrap();
            let events = ReceiverStream::new(events).map(|bytes| Ok(Frame::data(bytes)));
            let answer = Response::builder().header("content-type", "text/event-stream");
            answer.body(BodyExt::boxed(StreamBody::new(events))).unwrap()
        }
    })
    .await;
    let node = Node::start(to(address)).await;
    for over in BOTH {
        let (event, events) = mpsc::channel(1);
        send.send(events).await.unwrap();
        let mut response = over.send(&node, request(Method::GET, "/", &[("accept", "text/event-stream")], "")).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        for number in 0..5 {
            let text = format!("id: {number}\ndata: {number}\n\n");
            event.send(text.clone().into()).await.unwrap();
            let frame = within(response.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), text, "{over:?}");
        }
        drop(response);
        within(event.closed()).await;
    }
}

/// RFC 9110 section 6.5.1: a service may put trailers together with the header, so what clients may not say there they
/// may not say here.
#[tokio::test]
async fn trailers_say_nothing_that_a_header_may_not() {
    let address = backend::http(|request| async move {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let names: Vec<&str> = trailers.keys().map(|name| name.as_str()).collect();
        Response::new(full(names.join(" ")))
    })
    .await;
    let node = Node::start_on(json!({ "forwarded": { "reserved": ["x-user-*"] } }), to(address)).await;
    let always = ["x-sum", "x-user-id", "x-forwarded-for", "x-real-ip", "forwarded", "x-sluice-a", "x_sum"];
    // Over HTTP/1.1 these make the message ambiguous, and it is refused.
    let by_rule = ["authorization", "content-length", "host", "cookie"];
    for over in BOTH {
        let more: &[&str] = if matches!(over, Over::Http2) { &by_rule } else { &[] };
        for (sent, expected) in [(always.iter().chain(more).collect::<Vec<_>>(), "x-sum"), (vec![&"x_sum"], "")] {
            let trailers = sent.iter().map(|name| (name.parse().unwrap(), "1".parse().unwrap()));
            let frames = [Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers.collect()))];
            let body = BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)));
            let request = Request::post("http://x/")
                .header("trailer", sent.iter().map(|name| **name).collect::<Vec<_>>().join(", "));
            let answer = over.send(&node, request.body(body).unwrap()).await;
            assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (200, expected), "{over:?}");
        }
    }
}

/// The same of what a service says.
#[tokio::test]
async fn trailers_of_an_answer_say_nothing_about_the_message() {
    let address = backend::sockets(|stream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            let sent = request.uri().path().split('/').filter(|name| !name.is_empty());
            let trailers = sent.map(|name| (name.parse().unwrap(), "1".parse().unwrap())).collect();
            let frames =
                [Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
            Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(tokio_stream::iter(frames))))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let node = Node::start(vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}"), "protocol": "http2" })),
        put(Kind::Route, "all", json!({ "service": "backend" })),
    ])
    .await;
    let raw = async |path: &str| {
        node.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close\r\n\r\n")).await
    };
    let answer = raw("/x-sum/content-length/set-cookie/host").await;
    assert!(answer.ends_with("\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n"), "{answer}");
    let answer = raw("/content-length").await;
    assert!(answer.ends_with("\r\n4\r\nbody\r\n0\r\n\r\n"), "{answer}");
    let answer = Over::Http2.send(&node, request(Method::GET, "/x-sum/set-cookie", &[("te", "trailers")], "")).await;
    let trailers = within(answer.into_body().collect()).await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-sum"]);
}
