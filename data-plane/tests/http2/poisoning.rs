//! No answer reaches another request: clients and services of both protocols, where every answer carries the number of
//! its request, among requests that are given up, answers that break off, and services that answer before they have
//! read.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::resource::Kind;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::backend::{self, ResponseBody, full};
use crate::support::{Node, put, within};

const CLIENTS: u32 = 8;
const REQUESTS: u32 = 60;

/// What the path asks for, with its number in a field and in the body.
async fn tagged(request: Request<Incoming>) -> Response<ResponseBody> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/').skip(1);
    let (what, number) = (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>().join("/"));
    match what {
        // It answers without having read.
        "early" => {}
        "late" => {
            let _ = request.into_body().collect().await;
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        _ => {
            let sent = request.into_body().collect().await;
            if let Ok(sent) = sent {
                let sent = sent.to_bytes();
                let is_own = sent.is_empty() || sent.starts_with(format!("{number};").as_bytes());
                assert!(is_own, "{number} got the body of another: {sent:?}");
            }
        }
    }
    let body = match what {
        "long" => number.repeat(20_000),
        _ => number.clone(),
    };
    let answer = Response::builder().header("number", number);
    let answer = if what == "announced" { answer.header("content-length", body.len()) } else { answer };
    answer.body(full(body)).unwrap()
}

async fn http2_service() -> SocketAddr {
    backend::sockets(|stream| async move {
        let service = service_fn(|request| async { Ok::<_, Infallible>(tagged(request).await) });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn connect(node: &Node, is_http2: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(node.address).await.unwrap());
        if is_http2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// One client: its requests one after the other, some of them given up. Whether each got its own answer is checked; how
/// many got one is returned.
async fn client(node: &Node, number: u32, is_http2: bool) -> u32 {
    const WHATS: [&str; 6] = ["plain", "plain", "announced", "long", "early", "late"];
    let mut sender = Sender::connect(node, is_http2).await;
    let mut answered = 0;
    for request in 0..REQUESTS {
        let tag = format!("{number}/{request}");
        let service = ["one", "two"][fastrand::usize(..2)];
        let what = WHATS[fastrand::usize(..WHATS.len())];
        let (path, is_early) = (format!("http://x/{service}/{what}/{tag}"), what == "early");
        let body =
            if fastrand::bool() { format!("{tag};{}", "x".repeat(fastrand::usize(..40_000))) } else { String::new() };
        let sent = Request::post(path).header("host", "x").body(Full::from(body)).unwrap();
        let is_given_up = fastrand::u8(..8) == 0;
        let answer = async {
            let response = sender.send(sent).await?;
            if is_early && response.status() == 502 {
                // It closed with a part of the request unread, which may cost its answer on the way.
                assert!(!response.headers().contains_key("number"), "{tag}");
                return Ok(false);
            }
            assert_eq!(response.status(), 200, "{what} {tag}");
            assert_eq!(response.headers()["number"], tag.as_str());
            // Sometimes only the head is taken.
            if is_given_up {
                return Ok(false);
            }
            let body = response.into_body().collect().await?.to_bytes();
            let text = std::str::from_utf8(&body).unwrap();
            assert!(!text.is_empty() && text.split(&tag).all(str::is_empty), "{tag}: {} bytes", text.len());
            Ok::<_, hyper::Error>(true)
        };
        let outcome = if is_given_up {
            tokio::select! {
                outcome = answer => outcome,
                () = tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(..3000))) => Ok(false),
            }
        } else {
            within(answer).await
        };
        match outcome {
            Ok(is_whole) => answered += u32::from(is_whole),
            // A service that answers before it has read may end the connection of HTTP/1.1.
            Err(_) => sender = Sender::connect(node, is_http2).await,
        }
        if is_given_up && !is_http2 {
            sender = Sender::connect(node, is_http2).await;
        }
    }
    answered
}

#[tokio::test]
async fn every_answer_is_that_of_its_request() {
    let (one, two) = (backend::http(tagged).await, http2_service().await);
    let node = Node::start(vec![
        put(Kind::Service, "one", json!({ "url": format!("http://{one}") })),
        put(Kind::Service, "two", json!({ "url": format!("http://{two}"), "protocol": "http2" })),
        put(Kind::Route, "one", json!({ "paths": ["/one"], "service": "one" })),
        put(Kind::Route, "two", json!({ "paths": ["/two"], "service": "two" })),
    ])
    .await;
    let answered = join_all((0..CLIENTS).map(|number| client(&node, number, number % 2 == 0))).await;
    // Most are not given up.
    assert!(answered.iter().sum::<u32>() > CLIENTS * REQUESTS / 2, "{answered:?}");
    node.until_counted(|shard| shard.requests_started == shard.requests_ended).await;
    // What is left in the pools is good.
    for is_http2 in [false, true] {
        assert!(client(&node, CLIENTS, is_http2).await > REQUESTS / 2);
    }
}
