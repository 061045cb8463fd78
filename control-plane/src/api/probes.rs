//! What load balancers and monitors ask: is it alive, can it work, what is it. No token is needed.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::json::Json;
use super::table::Operation;

const FAMILY: &str = "health";
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
    ]
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
