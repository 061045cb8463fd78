//! The two small services inside `sluice run --demo`: one with orders, one that answers with what it was asked, sends back
//! what comes over a WebSocket, and streams events.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, LOCATION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod events;
mod websocket;

use events::Events;

/// Largest body, or frame of a WebSocket, that the sample services read.
const MAX_BODY_BYTES: usize = 64 * 1024;

type Answer = Response<Either<Full<Bytes>, Events>>;

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
                    let stopping = stop.clone();
                    let service = service_fn(move |request| self.answer(request, stopping.clone()));
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http1().timer(TokioTimer::new());
                    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        Ok(address)
    }

    async fn answer(self, mut request: Request<Incoming>, stop: CancellationToken) -> Result<Answer, Infallible> {
        if self == Self::Echo {
            if let Some(accept) = websocket::accept(request.headers()) {
                return Ok(open_websocket(&mut request, &accept, stop));
            }
            if request.uri().path().ends_with("/events") {
                return Ok(events());
            }
        }
        let (head, body) = request.into_parts();
        let response = match Limited::new(body, MAX_BODY_BYTES).collect().await.map(|body| body.to_bytes()) {
            Err(_) => json_response(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "the body is too large" })),
            Ok(body) if self == Self::Orders => orders(&head, &body),
            Ok(body) => echo(&head, &body),
        };
        Ok(response.map(Either::Left))
    }
}

fn open_websocket(request: &mut Request<Incoming>, accept: &str, stop: CancellationToken) -> Answer {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        if let Ok(stream) = upgrade.await {
            // However it ends, there is nobody to tell.
            let _ = websocket::echo(TokioIo::new(stream)).await;
        }
    }));
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(accept).expect("base64 is a field value"));
    response
}

fn events() -> Answer {
    let mut response = Response::new(Either::Right(Events::new()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
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
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/orders/4"));
            response
        }
        _ => {
            let mut response =
                json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "this cannot be done with an order" }));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
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
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
