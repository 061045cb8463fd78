//! Nodes: who serves what.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::Method;
use http::request::Parts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ApiState;
use super::error::{Error, UNKNOWN_NODE, UNKNOWN_PATH};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{Params, path_parameter};
use super::table::Operation;
use super::write::{at_revision, store_error};
use crate::nodes::{Convergence, NodeStatus, Progress, Selector};
use crate::trust::enrolment::State as TokenState;

/// The nodes of a gateway that were asked for, as far as they are connected or were within the last hour.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Nodes")]
struct NodesView {
    /// The newest revision.
    revision: u64,
    /// How far those of them that are connected are with it.
    convergence: Convergence,
    items: Vec<NodeView>,
}

/// A node, as it says itself, and where that leaves it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Node")]
struct NodeView {
    #[serde(flatten)]
    status: NodeStatus,
    progress: Progress,
    /// How many revisions it is behind the newest one.
    behind: u64,
    /// For how long it has been behind, in milliseconds: since the revision after its own was published, by the clocks of the
    /// control planes. 0 if it serves the newest one, or the one at which a rollout leaves it. At least so long, where its own is older than what is remembered.
    lag_ms: u64,
    /// When the newest certificate of the node ends; absent for nodes that have none, and while the database is away.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    certificate_expires_at: Option<OffsetDateTime>,
}

/// Whether the nodes serve the newest revision.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Status")]
struct StatusView {
    /// The newest revision.
    revision: u64,
    /// Digest of the whole configuration.
    digest: String,
    /// When it was published; absent before the first one, and while the database is away.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    published_at: Option<OffsetDateTime>,
    /// Whether a node is connected, and all that are serve it, number and content.
    is_converged: bool,
    /// How many nodes are connected.
    total: usize,
    /// How many of these serve it.
    serving: usize,
    /// The others of these, by their ids.
    not_serving: Vec<NodeView>,
}

/// A node that was revoked.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RevokedNode")]
struct RevokedView {
    node_id: String,
    /// The id of the token that it joined with, if nodes may still join with that one: whoever has it can join as another
    /// node.
    #[serde(skip_serializing_if = "Option::is_none")]
    usable_join_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Only nodes with this label, `key=value` or `key`. Given several times, all must hold.
    #[serde(default)]
    label: Selector,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/gateways/{gateway}/status", "getStatus", status)
            .about("nodes", "Whether all nodes serve the newest revision, and why those do not that do not")
            .description("Nodes that are not connected do not count; `nodes` lists them for an hour.")
            .answers::<StatusView>(200, "how far the connected nodes are"),
        Operation::new(Method::GET, "/v1/gateways/{gateway}/nodes", "listNodes", list)
            .about("nodes", "All nodes: what each serves, and what it refused and why")
            .description(
                "Where several control planes share a database, each lists all nodes, whichever they are connected to.",
            )
            .query::<ListParams>()
            .answers::<NodesView>(200, "the nodes by their ids"),
        Operation::new(Method::POST, "/v1/gateways/{gateway}/nodes/{name}:revoke", "revokeNode", revoke)
            .routed_at("/v1/gateways/{gateway}/nodes/{name}")
            .about("nodes", "Revoke a node")
            .description(
                "It gets no configuration and no certificate any more; its stream ends at once, on every control plane. What \
                 it serves it goes on serving. Only a node that has joined with a token can be revoked.",
            )
            .answers::<RevokedView>(200, "it is revoked")
            .errors(&[&UNKNOWN_NODE]),
    ]
}

async fn list(State(state): State<ApiState>, gateway: AtGateway, Params(params): Params<ListParams>) -> Response {
    let revision = gateway.head.revision;
    let convergence = state.nodes.convergence(&gateway.name, revision, &params.label);
    let mut items = views(&state, &gateway).await;
    items.retain(|node| params.label.matches(&node.status.labels));
    at_revision(revision, Json(NodesView { revision, convergence, items }))
}

async fn status(State(state): State<ApiState>, gateway: AtGateway) -> Response {
    let revision = gateway.head.revision;
    let mut not_serving = views(&state, &gateway).await;
    not_serving.retain(|node| node.status.connected);
    let total = not_serving.len();
    not_serving.retain(|node| node.progress != Progress::Serving);
    let view = StatusView {
        revision,
        digest: gateway.head.config.digest().to_string(),
        published_at: published_at(&state, &gateway).await,
        is_converged: total > 0 && not_serving.is_empty(),
        total,
        serving: total - not_serving.len(),
        not_serving,
    };
    at_revision(revision, Json(view))
}

async fn published_at(state: &ApiState, gateway: &AtGateway) -> Option<OffsetDateTime> {
    let head = gateway.head.revision;
    let newest = state.store.revisions(&gateway.name, Some(head + 1), 1).await.unwrap_or_else(|error| {
        tracing::warn!(gateway = gateway.name, "cannot read when revision {head} was published: {error}");
        Vec::new()
    });
    newest.into_iter().find(|revision| revision.number == head).map(|revision| revision.created_at)
}

/// Who serves what is wanted most when the database is away: then the certificates are left out.
async fn views(state: &ApiState, gateway: &AtGateway) -> Vec<NodeView> {
    let identities = state.store.node_identities(&gateway.name).await.unwrap_or_else(|error| {
        tracing::warn!(gateway = gateway.name, "cannot read when the certificates of nodes end: {error}");
        Vec::new()
    });
    let ends: HashMap<String, OffsetDateTime> =
        identities.into_iter().map(|node| (node.node_id, node.expires_at)).collect();
    let (digest, now) = (gateway.head.config.digest(), OffsetDateTime::now_utc());
    let offer = state.publisher.watch(&gateway.name).map(|offers| offers.borrow().clone());
    let view = |status: NodeStatus| {
        let serves = status.serving.as_ref().map_or(0, |serving| serving.revision);
        let certificate_expires_at = ends.get(&status.node_id).copied();
        let wanted = offer.as_ref().map_or(&gateway.head, |offer| offer.for_status(&status));
        let progress = match status.progress(gateway.head.revision, digest) {
            Progress::Behind if serves == wanted.revision => Progress::HeldBack,
            progress => progress,
        };
        let lag = status.lag(wanted, now, |old| state.publisher.superseded_at(&gateway.name, old));
        NodeView {
            progress,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            behind: gateway.head.revision.saturating_sub(serves),
            certificate_expires_at,
            status,
        }
    };
    state.nodes.list(&gateway.name).into_iter().map(view).collect()
}

/// The id of a node in a path that ends with `:revoke`.
struct ToRevoke(String);

impl FromRequestParts<ApiState> for ToRevoke {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        let text = path_parameter(parts, state, "name").await?;
        let node = text.strip_suffix(":revoke").map(str::to_owned);
        node.map(Self).ok_or_else(|| Error::new(&UNKNOWN_PATH, format!("a node is revoked at `nodes/{text}:revoke`")))
    }
}

async fn revoke(
    State(state): State<ApiState>,
    gateway: AtGateway,
    ToRevoke(node_id): ToRevoke,
) -> Result<Json<RevokedView>, Error> {
    let now = OffsetDateTime::now_utc();
    if !state.trust.revoke_node(&gateway.name, &node_id, now).await.map_err(store_error)? {
        let text = format!("no node `{node_id}` has joined the gateway `{}` with a token", gateway.name);
        return Err(Error::new(&UNKNOWN_NODE, text));
    }
    let node = state.store.node_identity(&gateway.name, &node_id).await.map_err(store_error)?;
    let tokens = state.store.join_tokens(&gateway.name).await.map_err(store_error)?;
    let its_own = tokens.into_iter().find(|token| node.as_ref().is_some_and(|node| node.join_token == token.id));
    let usable = its_own.filter(|token| TokenState::of(token, now) == TokenState::Usable);
    Ok(Json(RevokedView { node_id, usable_join_token: usable.map(|token| token.id) }))
}
