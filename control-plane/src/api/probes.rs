//! What load balancers and monitors ask: is it alive, can it work, what is it. No token is needed.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use schemars::{JsonSchema, json_schema};
use serde::Serialize;

use super::ApiState;
use super::events::MAX_WATCHERS;
use super::json::Json;
use super::table::Operation;

const FAMILY: &str = "health";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A database that takes longer does not count as there.
const PING_WITHIN: Duration = Duration::from_secs(1);

/// The state of the process.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
struct HealthView {
    status: &'static str,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// What this process is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Version")]
struct VersionView {
    name: &'static str,
    version: &'static str,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/livez", "getLiveness", || async {
            Json(HealthView { status: "ok", reason: None })
        })
        .about(FAMILY, "Whether the process runs")
        .answers::<HealthView>(200, "it runs"),
        Operation::new(Method::GET, "/readyz", "getReadiness", ready)
            .about(FAMILY, "Whether it can read and write: the database answers")
            .answers::<HealthView>(200, "it can")
            .answers::<HealthView>(503, "it cannot"),
        Operation::new(Method::GET, "/version", "getVersion", || async {
            Json(VersionView { name: "sluice", version: env!("CARGO_PKG_VERSION") })
        })
        .about(FAMILY, "The version of the control plane")
        .answers::<VersionView>(200, "the version"),
        Operation::new(Method::GET, "/metrics", "getMetrics", metrics)
            .about(FAMILY, "What the control plane counts, for Prometheus")
            .description(
                "No token is needed: counts and names of gateways are told, and the only token that there is would let whoever \
                 scrapes change everything. Where the admin API is open to other machines, its network decides who may ask. \
                 What is said of `nodes` is the same from every replica; what is said of `streams`, and all counts, is of one.",
            )
            .answers_with(200, "the metrics", &[OPEN_METRICS], |_| json_schema!({ "type": "string" })),
    ]
}

async fn metrics(State(state): State<ApiState>) -> Response {
    let event_streams = MAX_WATCHERS - state.watchers.available_permits();
    let text = crate::metrics::render(&state.publisher, &state.nodes, event_streams);
    ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}

async fn ready(State(state): State<ApiState>) -> Response {
    let reason = match tokio::time::timeout(PING_WITHIN, state.store.ping()).await {
        Ok(Ok(())) => return Json(HealthView { status: "ok", reason: None }).into_response(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the database refuses");
            "the database refuses"
        }
        Err(_) => "the database does not answer",
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(HealthView { status: "unavailable", reason: Some(reason) })).into_response()
}
