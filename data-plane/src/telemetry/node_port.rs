//! The node's own port: metrics and health, for operators, probes and Prometheus. Not for clients.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::resource::Name;
use model::resource::service::TargetUrl;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Telemetry, exposition};
use crate::health::Trouble;
use crate::sync::Status;

/// Who asks for metrics and health are few.
const MAX_CONNECTIONS: usize = 64;

/// For the head of a request, and for the time between two requests.
const HEADER_WITHIN: Duration = Duration::from_secs(10);

/// A connection that takes its answers slowly ends after this.
const CONNECTION_WITHIN: Duration = Duration::from_secs(120);

/// A closed listener or a lack of file descriptors must not make a busy loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// No more targets than this are told of at once.
const MAX_TROUBLES: usize = 10_000;

type Answer = Response<Full<Bytes>>;

/// Serves the port until `shutdown`; answers that are on their way are finished.
pub async fn serve(listener: TcpListener, telemetry: Telemetry, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the node port could not accept a connection");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        };
        let (telemetry, shutdown) = (telemetry.clone(), shutdown.clone());
        connections.spawn(async move {
            // How a single connection ends is of no interest to anybody.
            drop(tokio::time::timeout(CONNECTION_WITHIN, connection(stream, telemetry, shutdown)).await);
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, telemetry: Telemetry, shutdown: CancellationToken) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let telemetry = &telemetry;
        async move { Ok::<_, Infallible>(answer(&request, telemetry).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn answer(request: &Request<Incoming>, telemetry: &Telemetry) -> Answer {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/readyz" | "/livez" | "/health" | "/version") {
        let detail = "Here are /metrics, /readyz, /livez, /health and /version.";
        return problem(StatusCode::NOT_FOUND, "not-found", detail);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Only GET and HEAD work here.");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/metrics" => {
            let text = exposition::render(telemetry).await;
            respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        }
        "/readyz" => readiness(telemetry),
        "/health" => health(telemetry),
        "/livez" => json(StatusCode::OK, &json!({"status": "live"})),
        _ => json(StatusCode::OK, &json!({"name": "sluice", "version": env!("CARGO_PKG_VERSION")})),
    }
}

fn readiness(telemetry: &Telemetry) -> Answer {
    let node = &telemetry.node;
    let Status { connected, serving, head, last_heard, error, refused, .. } = node.configuration();
    let (code, status) = match &serving {
        _ if node.is_draining() => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "waiting for a configuration"),
        Some(_) => (StatusCode::OK, "ready"),
    };
    let now = Instant::now();
    let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
    json(
        code,
        &json!({
            "status": status,
            "revision": serving.map(|serving| serving.revision),
            "digest": serving.map(|serving| serving.digest.to_string()),
            "age_seconds": serving.map(|serving| ago(serving.since)),
            "from_disk": serving.map(|serving| serving.from_disk),
            "newest_revision": head.map(|(revision, _)| revision),
            "refused_revision": refused.as_ref().map(|(revision, _)| revision),
            "problems": refused.as_ref().map(|(_, problems)| problems),
            "connected": connected,
            "error": error,
            "synced_seconds_ago": last_heard.map(ago),
        }),
    )
}

/// The targets that get no requests, and why; all others do.
fn health(telemetry: &Telemetry) -> Answer {
    let troubles = telemetry.health.troubles(MAX_TROUBLES);
    let is_all = troubles.len() < MAX_TROUBLES;
    let target = |(service, target, causes): (Name, TargetUrl, Vec<Trouble>)| json!({"service": service, "target": target, "causes": causes});
    let targets: Vec<Value> = troubles.into_iter().map(target).collect();
    json(StatusCode::OK, &json!({"unhealthy": targets, "is_complete": is_all}))
}

fn json(status: StatusCode, value: &Value) -> Answer {
    respond(status, "application/json", format!("{value}\n"))
}

fn problem(status: StatusCode, code: &'static str, detail: &str) -> Answer {
    let value = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    respond(status, "application/problem+json", format!("{value}\n"))
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
