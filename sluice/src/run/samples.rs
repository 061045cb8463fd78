//! The two small services inside `sluice run --demo`: one with orders, one that answers with what it was asked.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest body that the sample services read.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// One of the sample services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    Orders,
    Echo,
}

impl Sample {
    pub const ALL: [Self; 2] = [Self::Orders, Self::Echo];

    /// The name of its service in the example configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Echo => "echo",
        }
    }

    /// What stands for its address in the example configuration.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Orders => "SLUICE_DEMO_ORDERS",
            Self::Echo => "SLUICE_DEMO_ECHO",
        }
    }

    /// Serves until `stop`, on `preferred` if that port is free and on another one otherwise.
    pub async fn start(
        self,
        preferred: Option<u16>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<SocketAddr> {
        let loopback = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = match loopback(preferred.unwrap_or(0)).await {
            Ok(listener) => listener,
            Err(_) => loopback(0).await?,
        };
        let address = listener.local_addr()?;
        let connections = tasks.clone();
        tasks.spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => break,
                };
                let Ok((stream, _)) = stream else {
                    // Out of files, most likely: some will be closed.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let stop = stop.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| self.answer(request));
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http1().timer(TokioTimer::new());
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        Ok(address)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
            return Ok(json_response(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "the body is too large" })));
        };
        let body = body.to_bytes();
        Ok(match self {
            Self::Orders => orders(&head, &body),
            Self::Echo => echo(&head, &body),
        })
    }
}

fn orders(head: &http::request::Parts, body: &[u8]) -> Response<Full<Bytes>> {
    let order = |id: u64| json!({ "id": id, "item": ITEMS[id as usize % ITEMS.len()], "quantity": 1 + id % 3 });
    let id = head.uri.path().strip_prefix("/orders").map(|rest| rest.trim_matches('/'));
    match (&head.method, id) {
        (_, None) => json_response(StatusCode::NOT_FOUND, &json!({ "error": "only /orders is here" })),
        (&Method::GET, Some("")) => json_response(StatusCode::OK, &json!({ "orders": [order(1), order(2), order(3)] })),
        (&Method::GET, Some(id)) => match id.parse() {
            Ok(id) => json_response(StatusCode::OK, &order(id)),
            Err(_) => json_response(StatusCode::NOT_FOUND, &json!({ "error": format!("there is no order `{id}`") })),
        },
        (&Method::POST, Some("")) => {
            let mut created = serde_json::from_slice::<Map<String, Value>>(body).unwrap_or_default();
            created.insert("id".into(), Value::from(4));
            let mut response = json_response(StatusCode::CREATED, &Value::Object(created));
            response.headers_mut().insert(LOCATION, http::HeaderValue::from_static("/orders/4"));
            response
        }
        _ => {
            let mut response =
                json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "this cannot be done with an order" }));
            response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, POST"));
            response
        }
    }
}

const ITEMS: [&str; 4] = ["tea", "coffee", "sugar", "cups"];

fn echo(head: &http::request::Parts, body: &[u8]) -> Response<Full<Bytes>> {
    let mut headers = Map::new();
    for name in head.headers.keys() {
        let values = head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        headers.insert(name.to_string(), Value::from(values.collect::<Vec<_>>().join(", ")));
    }
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": String::from_utf8_lossy(body),
    });
    json_response(StatusCode::OK, &seen)
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let text = format!("{value:#}\n");
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
