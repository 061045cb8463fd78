//! Nodes: who serves what.

use axum::extract::State;
use axum::response::Response;
use http::Method;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::gateways::AtGateway;
use super::json::Json;
use super::table::Operation;
use super::write::at_revision;
use crate::nodes::{Convergence, NodeStatus};

/// The nodes of a gateway, as far as they are connected or were within the last hour.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Nodes")]
struct NodesView {
    /// The newest revision.
    revision: u64,
    /// How far the connected nodes are with it.
    convergence: Convergence,
    items: Vec<NodeStatus>,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/gateways/{gateway}/nodes", "listNodes", list)
            .about("nodes", "All nodes: what each serves, and what it refused and why")
            .description(
                "Where several control planes share a database, each lists all nodes, whichever they are connected to.",
            )
            .answers::<NodesView>(200, "the nodes by their ids"),
    ]
}

async fn list(State(state): State<ApiState>, gateway: AtGateway) -> Response {
    let revision = gateway.head.revision;
    let convergence = state.nodes.convergence(&gateway.name, revision);
    at_revision(revision, Json(NodesView { revision, convergence, items: state.nodes.list(&gateway.name) }))
}
