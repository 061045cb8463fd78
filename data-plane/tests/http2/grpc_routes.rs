//! GRPCRoute, by a real client of gRPC: which calls a route is for, and the status that each of the gateway's own errors
//! is for who calls.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use serde_json::{Value, json};
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::support::{Node, backend, free_address, put, within};

/// A service of gRPC whose methods all answer with what they are given, at once.
async fn service() -> SocketAddr {
    backend::sockets(|stream| async move {
        let service = service_fn(|request: Request<Incoming>| async {
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let end = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let frames = [Ok::<_, Infallible>(Frame::data(sent)), Ok(Frame::trailers(end))];
            let answer = Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(answer.body(StreamBody::new(tokio_stream::iter(frames))).unwrap())
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

fn http2(address: SocketAddr) -> Value {
    json!({ "url": format!("http://{address}"), "protocol": "http2" })
}

/// A node with the service and these routes to it, each of which says its name in its answers.
async fn node(routes: &[(&str, Value)], mut edits: Vec<Edit>) -> Node {
    edits.insert(0, put(Kind::Service, "backend", http2(service().await)));
    for (name, spec) in routes {
        let mut spec = spec.clone();
        spec["service"] = json!("backend");
        spec["response_headers"] = json!({"set": {"x-route": name}});
        edits.push(put(Kind::Route, name, spec));
    }
    Node::start_limited(json!({"body_bytes": 10_000, "header_bytes": 10_000}), edits).await
}

async fn client(node: &Node) -> tonic::client::Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{}", node.address)).unwrap();
    tonic::client::Grpc::new(within(channel.connect()).await.unwrap())
}

/// What a call of a method comes to: the name of the route, or a status.
async fn call(node: &Node, method: &'static str, metadata: &[(&str, &str)], text: &str) -> Result<String, Status> {
    let mut client = client(node).await;
    within(client.ready()).await.unwrap();
    let mut request = tonic::Request::new(text.to_owned());
    for (name, value) in metadata {
        let name: AsciiMetadataKey = name.parse().unwrap();
        request.metadata_mut().append(name, value.parse().unwrap());
    }
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    let codec = ProstCodec::<String, String>::default();
    let answer = within(client.unary(request, path, codec)).await?;
    assert_eq!(answer.get_ref(), text);
    let said = |metadata: &MetadataMap| metadata.get("x-route").map(|name| name.to_str().unwrap().to_owned());
    Ok(said(answer.metadata()).unwrap_or_default())
}

/// GRPCMethodMatch: service and method, each exactly or by regular expression, are a path.
#[tokio::test]
async fn a_route_is_for_services_and_methods() {
    let routes = [
        ("method", json!({"paths": [{"exact": "/shop.Orders/Get"}]})),
        ("service", json!({"paths": ["/shop.Orders"]})),
        ("any-service", json!({"paths": [{"template": "/{service}/Check"}]})),
        ("regex", json!({"paths": [{"regex": "/shop\\.(Carts|Stock)/(Get|List)[A-Z][a-z]*"}]})),
    ];
    let node = node(&routes, vec![]).await;
    for (method, route) in [
        ("/shop.Orders/Get", Some("method")),
        ("/shop.Orders/List", Some("service")),
        ("/shop.Orders/get", Some("service")),
        ("/shop.OrdersV2/Get", None),
        ("/shop.Carts/GetAll", Some("regex")),
        ("/shop.Stock/ListOne", Some("regex")),
        ("/shop.Carts/Get", None),
        ("/shop.Carts/DropAll", None),
        ("/shopXCarts/GetAll", None),
        ("/health.v1.Health/Check", Some("any-service")),
        ("/shop.Orders/Check", Some("service")),
    ] {
        let found = call(&node, method, &[], "hello").await.map_err(|status| status.code());
        assert_eq!(found, route.map(str::to_owned).ok_or(Code::Unimplemented), "{method}");
    }
}

/// GRPCHeaderMatch: of metadata, exactly or by regular expression; more of it is more specific.
#[tokio::test]
async fn a_route_is_for_metadata() {
    let header = |name: &str, how: &str, value: &str| json!({"name": name, how: value});
    let paths = json!(["/shop.Orders"]);
    let routes = [
        ("plain", json!({"paths": paths})),
        ("canary", json!({"paths": paths, "headers": [header("X-Version", "exact", "2")]})),
        ("beta", json!({"paths": paths, "headers": [header("x-version", "regex", "[3-9]|[1-9][0-9]+")]})),
        (
            "tenant",
            json!({"paths": paths, "headers": [header("x-version", "exact", "2"), header("x-tenant", "exact", "a")]}),
        ),
    ];
    let node = node(&routes, vec![]).await;
    for (metadata, route) in [
        (&[][..], "plain"),
        (&[("x-version", "2")], "canary"),
        (&[("x-version", "1"), ("x-version", "2")], "canary"),
        (&[("x-version", "12")], "beta"),
        (&[("x-version", "2"), ("x-tenant", "a")], "tenant"),
        (&[("x-tenant", "a")], "plain"),
    ] {
        assert_eq!(call(&node, "/shop.Orders/Get", metadata, "hello").await.unwrap(), route, "{metadata:?}");
    }
}

/// Every error of the gateway's own is a status that says to a client of gRPC what it says to others, in place of what its
/// library would have made of a status of HTTP (http-grpc-status-mapping), and nothing internal.
#[tokio::test]
async fn errors_of_the_gateway_have_a_status() {
    let mute = backend::sockets(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let garbage = backend::sends("HTTP/1.1 200 OK\r\n\r\n").await;
    let mut edits = vec![
        put(Kind::Policy, "keys", json!({"type": "key-auth"})),
        put(Kind::Policy, "once", json!({"type": "rate-limit", "config": {"limit": 1, "per": "1h"}})),
        put(Kind::Service, "gone", http2(free_address())),
        put(Kind::Service, "mute", http2(mute)),
        put(Kind::Service, "garbage", http2(garbage)),
    ];
    let mut off = http2(mute);
    off["enabled"] = json!(false);
    edits.push(put(Kind::Service, "off", off));
    for (path, spec) in [
        ("/s/None", json!({"backends": []})),
        ("/s/Gone", json!({"service": "gone"})),
        ("/s/Off", json!({"service": "off"})),
        ("/s/Mute", json!({"service": "mute", "timeouts": {"request": "50ms"}})),
        ("/s/Garbage", json!({"service": "garbage"})),
    ] {
        let mut spec = spec;
        spec["paths"] = json!([{ "exact": path }]);
        edits.push(put(Kind::Route, &path[3..].to_lowercase(), spec));
    }
    let routes = [
        ("locked", json!({"paths": ["/s/Locked"], "policies": ["keys"]})),
        ("limited", json!({"paths": ["/s/Limited"], "policies": ["once"]})),
        ("open", json!({"paths": ["/s/Open"]})),
    ];
    let node = node(&routes, edits).await;
    assert_eq!(call(&node, "/s/Limited", &[], "hello").await.unwrap(), "limited");
    let large = "x".repeat(11_000);
    for (method, metadata, text, code) in [
        // 404
        ("/s/Nowhere", &[][..], "", Code::Unimplemented),
        // 400
        ("/s/Open%2F", &[], "", Code::InvalidArgument),
        ("/s/Open", &[("x-large", &*large)], "", Code::ResourceExhausted),
        // 401, 413, 429
        ("/s/Locked", &[], "", Code::Unauthenticated),
        ("/s/Open", &[], &large, Code::ResourceExhausted),
        ("/s/Limited", &[], "", Code::ResourceExhausted),
        // 500 for want of a backend, 502, 503
        ("/s/None", &[], "", Code::Unavailable),
        ("/s/Gone", &[], "", Code::Unavailable),
        ("/s/Garbage", &[], "", Code::Unavailable),
        ("/s/Off", &[], "", Code::Unavailable),
        // 504
        ("/s/Mute", &[], "", Code::DeadlineExceeded),
    ] {
        let status = call(&node, method, metadata, text).await.expect_err(method);
        assert_eq!(status.code(), code, "{method}: {status:?}");
        let message = status.message();
        assert!(message.ends_with('.') && !message.contains("127."), "{method}: {message}");
    }
}

/// A call that no route is for ends in its head, as clients of gRPC take it: HTTP says that all went well.
#[tokio::test]
async fn a_call_without_a_route_is_answered_in_its_head() {
    let node = node(&[], vec![]).await;
    let stream = TokioIo::new(tokio::net::TcpStream::connect(node.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request =
        Request::post("http://x/s/Nowhere").header("content-type", "application/grpc").header("te", "trailers");
    let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/grpc".parse().unwrap())
    );
    assert_eq!((&answer.headers()["grpc-status"]), (&"12".parse::<http::HeaderValue>().unwrap()));
    assert!(within(answer.into_body().collect()).await.unwrap().to_bytes().is_empty());
}
