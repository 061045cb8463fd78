//! gRPC through a node: all kinds of calls, deadlines, and calls that are given up on either side.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Node, backend, put, within};

type Answer = BoxBody<Bytes, Infallible>;
type Frames = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// Tells when it is dropped.
struct Guard(mpsc::UnboundedSender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send("ended");
    }
}

fn trailers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// A message with its prefix.
pub fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

/// A service of gRPC over HTTP/2. `/echo` gives back what comes as it comes; `/silent` never answers; `/forever` begins
/// to; `/fail` is over with its head.
pub async fn service() -> (SocketAddr, mpsc::UnboundedReceiver<&'static str>) {
    let (told, tells) = mpsc::unbounded_channel();
    let address = backend::sockets(move |stream| {
        let told = told.clone();
        async move {
            let service = service_fn(move |request| call(request, told.clone()));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (address, tells)
}

async fn call(
    request: Request<Incoming>,
    told: mpsc::UnboundedSender<&'static str>,
) -> Result<Response<Answer>, &'static str> {
    let head = Response::builder().header("content-type", "application/grpc+proto");
    let asked = request.headers();
    let is_grpc = asked["content-type"] == "application/grpc+proto" && asked["te"] == "trailers";
    if !is_grpc {
        let head = Response::builder().status(415).header("content-type", "text/html");
        return Ok(head.body(Full::from("no gRPC").boxed()).unwrap());
    }
    let guard = Guard(told.clone());
    let _ = told.send("began");
    let (frames, answer) = mpsc::channel(4);
    match request.uri().path() {
        "/silent" => {
            std::future::pending::<()>().await;
            drop(guard);
        }
        "/fail" => return Ok(head.header("grpc-status", "5").header("grpc-message", "no such").body(empty()).unwrap()),
        "/forever" => {
            tokio::spawn(async move {
                let _ = frames.send(Ok(Frame::data(message("first")))).await;
                frames.closed().await;
                drop(guard);
            });
        }
        _ => {
            tokio::spawn(async move {
                echo(request.into_body(), &frames).await;
                drop(guard);
            });
        }
    }
    Ok(head.body(StreamBody::new(ReceiverStream::new(answer)).boxed()).unwrap())
}

fn empty() -> Answer {
    Full::default().boxed()
}

async fn echo(mut body: Incoming, frames: &Frames) {
    while let Some(Ok(frame)) = body.frame().await {
        if frame.is_data() && frames.send(Ok(frame)).await.is_err() {
            return;
        }
    }
    let end = trailers(&[("grpc-status", "0"), ("grpc-message", "all of it"), ("x-more", "1")]);
    let _ = frames.send(Ok(Frame::trailers(end))).await;
}

pub fn to(address: SocketAddr, mut route: Value) -> Vec<Edit> {
    route["service"] = json!("backend");
    vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}"), "protocol": "http2" })),
        put(Kind::Route, "all", route),
    ]
}

type Sender = SendRequest<Answer>;

async fn client(node: &Node) -> Sender {
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str, timeout: Option<&str>, body: Answer) -> Request<Answer> {
    let request = Request::post(format!("http://x{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    let request = timeout.into_iter().fold(request, |request, timeout| request.header("grpc-timeout", timeout));
    request.body(body).unwrap()
}

/// Status of a call that ends in trailers.
async fn status(response: Response<impl Body<Data = Bytes, Error = hyper::Error>>) -> (String, Bytes) {
    let in_head = response.headers().get("grpc-status").cloned();
    let collected = within(response.into_body().collect()).await.unwrap();
    let in_trailers = collected.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
    let status = in_head.or(in_trailers).expect("a status");
    (status.to_str().unwrap().to_owned(), collected.to_bytes())
}

#[tokio::test]
async fn messages_pass_both_ways_while_a_call_goes_on() {
    let (address, _tells) = service().await;
    let node = Node::start(to(address, json!({}))).await;
    let mut sender = client(&node).await;
    let (frames, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    let body = StreamBody::new(ReceiverStream::new(body)).boxed();
    let mut response = within(sender.send_request(request("/echo", Some("1M"), body))).await.unwrap();
    for text in ["one", "two", "three"] {
        frames.send(Ok(Frame::data(message(text)))).await.unwrap();
        let frame = within(response.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message(text));
    }
    drop(frames);
    let end = within(response.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!((&end["grpc-status"], &end["x-more"]), (&"0".parse().unwrap(), &"1".parse().unwrap()));
}

#[tokio::test]
async fn a_deadline_ends_a_call_in_its_own_terms_and_at_the_service() {
    let (address, mut tells) = service().await;
    let node = Node::start(to(address, json!({}))).await;
    let mut sender = client(&node).await;
    // Long enough for what comes before it to come on any machine.
    for (path, got) in [("/silent", Bytes::new()), ("/forever", message("first"))] {
        let response = within(sender.send_request(request(path, Some("1500m"), empty()))).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(status(response).await, ("4".into(), got), "{path}");
        assert_eq!(within(tells.recv()).await.unwrap(), "began");
        assert_eq!(within(tells.recv()).await.unwrap(), "ended", "{path}");
    }
    // Clients ask for as little as they like: that is no fault of the service.
    node.until_counted(|shard| shard.rejections.get("client-deadline") == Some(&1)).await;
    assert!(node.telemetry.gather().await.services["backend"].failures.is_empty());
    // It bounds a call whose client goes on sending as well.
    let (_frames, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(ReceiverStream::new(body)).boxed();
    let response = within(sender.send_request(request("/echo", Some("100m"), body))).await.unwrap();
    assert_eq!(status(response).await.0, "4");
    let nonsense = within(sender.send_request(request("/echo", Some("soon"), empty()))).await.unwrap();
    assert_eq!(status(nonsense).await.0, "3");
}

#[tokio::test]
async fn the_shorter_of_the_deadlines_of_route_and_client_holds() {
    let (address, _tells) = service().await;
    let node = Node::start(to(address, json!({ "timeouts": { "request": "100ms" } }))).await;
    let mut sender = client(&node).await;
    for path in ["/silent", "/forever"] {
        let response = within(sender.send_request(request(path, Some("1H"), empty()))).await.unwrap();
        assert_eq!(status(response).await.0, "4", "{path}");
    }
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_is_given_up_at_the_service() {
    let (address, mut tells) = service().await;
    let node = Node::start(to(address, json!({}))).await;
    let mut sender = client(&node).await;
    for path in ["/silent", "/forever"] {
        let call = tokio::spawn(sender.send_request(request(path, None, empty())));
        assert_eq!(within(tells.recv()).await.unwrap(), "began");
        if path == "/silent" {
            call.abort();
        } else {
            drop(within(call).await.unwrap().unwrap());
        }
        assert_eq!(within(tells.recv()).await.unwrap(), "ended", "{path}");
    }
    // The connection serves on.
    let response = within(sender.send_request(request("/echo", None, empty()))).await.unwrap();
    assert_eq!(status(response).await.0, "0");
}

#[tokio::test]
async fn a_service_that_ends_early_is_told_as_it_is() {
    let (address, _tells) = service().await;
    let node = Node::start(to(address, json!({}))).await;
    let mut sender = client(&node).await;
    let response = within(sender.send_request(request("/fail", None, empty()))).await.unwrap();
    assert_eq!(response.headers()["grpc-message"], "no such");
    assert_eq!(status(response).await, ("5".into(), Bytes::new()));
}

/// What breaks off has no status of the service; the client gets one of the gateway's.
#[tokio::test]
async fn an_answer_that_breaks_off_ends_in_a_status() {
    let address = backend::sockets(|stream| async move {
        let service = service_fn(|_: Request<Incoming>| async {
            let frames = [Ok(Frame::data(message("half"))), Err("it broke")];
            let body = StreamBody::new(tokio_stream::iter(frames));
            Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let node = Node::start(to(address, json!({}))).await;
    let mut sender = client(&node).await;
    let response = within(sender.send_request(request("/any", None, empty()))).await.unwrap();
    assert_eq!(status(response).await.0, "14");
}
