//! The admin API: HTTP in, changes and views out. The only place that knows HTTP status codes.
//!
//! [`table`] holds every operation; the router and the OpenAPI document are made from it. Errors of all sorts are
//! [`error::Error`]. Nothing here decides whether a configuration holds: that is [`crate::publish`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use model::problem::did_you_mean;
use model::resource::KINDS;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

use crate::nodes::Nodes;
use crate::publish::Publisher;
use crate::store::Store;
use crate::targets::Lanes;
use crate::token::Tokens;
use crate::trust::Trust;

mod authority;
mod conditions;
mod config;
mod docs;
mod envelope;
pub mod error;
mod events;
mod explain;
mod gateways;
mod health;
mod join_tokens;
mod json;
mod merge_patch;
mod nodes;
mod openapi;
mod probes;
mod request;
mod resources;
mod revisions;
mod rollouts;
mod table;
mod targets;
#[cfg(test)]
mod tests;
pub mod view;
mod write;

use error::{Error, METHOD_NOT_ALLOWED, UNKNOWN_PATH};

/// Connections at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// A client that sends its header fields more slowly is cut off.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long requests in flight may take after a shutdown began.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    publisher: Arc<Publisher>,
    store: Arc<dyn Store>,
    tokens: Arc<Tokens>,
    nodes: Arc<Nodes>,
    lanes: Arc<Lanes>,
    trust: Arc<Trust>,
    /// Writes in flight: they are finished also when their client goes away.
    writes: TaskTracker,
    /// Room for streams of events.
    watchers: Arc<Semaphore>,
    /// Ends streams of events, which do not end by themselves.
    ending: CancellationToken,
}

impl ApiState {
    #[must_use]
    pub fn new(
        publisher: Arc<Publisher>,
        store: Arc<dyn Store>,
        tokens: Arc<Tokens>,
        nodes: Arc<Nodes>,
        lanes: Arc<Lanes>,
        trust: Arc<Trust>,
    ) -> Self {
        let (writes, ending) = (TaskTracker::new(), CancellationToken::new());
        let watchers = Arc::new(Semaphore::new(events::MAX_WATCHERS));
        Self { publisher, store, tokens, nodes, lanes, trust, writes, watchers, ending }
    }
}

/// Answers on `listener` until `shutdown`, and then until what is in flight is done, within a bound.
pub async fn serve(listener: TcpListener, mut state: ApiState, shutdown: CancellationToken) {
    state.ending = shutdown.clone();
    let connections = TaskTracker::new();
    let writes = state.writes.clone();
    let router = router(state);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&room).acquire_owned();
        let accepted = async { (permit.await, listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would only spin.
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    writes.close();
    if tokio::time::timeout(DRAIN_WITHIN, async { tokio::join!(connections.wait(), writes.wait()) }).await.is_err() {
        tracing::warn!("the admin API stops with requests still in flight");
    }
}

/// HTTP/1.1 alone: its clients come one by one, and a connection that says nothing is closed before long.
async fn serve_connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

/// The whole API as a service.
pub fn router(state: ApiState) -> Router {
    table::router(table::operations())
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(envelope::panicked))
        .layer(axum::middleware::from_fn_with_state(state.clone(), envelope::surround))
        .with_state(state)
}

async fn nothing_here(request: Request) -> Error {
    let path = request.uri().path();
    let meant = path.strip_prefix("/v1/gateways/").and_then(|rest| {
        let collection = rest.split('/').nth(1)?;
        let actions = [
            "config",
            "config:apply",
            "config:diff",
            "config:validate",
            "explain",
            "revisions",
            "rollouts",
            "rollout-strategy",
            "nodes",
            "status",
            "events",
            "join-tokens",
            "target-changes",
        ];
        let known = KINDS.iter().map(|info| info.plural).chain(actions);
        did_you_mean(collection, known.filter(|known| *known != collection))
    });
    let hint = meant.unwrap_or_else(|| "`/openapi.json` lists all addresses".to_owned());
    Error::new(&UNKNOWN_PATH, format!("there is nothing at `{path}`: {hint}"))
}

async fn wrong_method(request: Request) -> Error {
    let (method, path) = (request.method(), request.uri().path());
    Error::new(&METHOD_NOT_ALLOWED, format!("`{path}` cannot be used with {method}"))
}
