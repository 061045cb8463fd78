//! Health of targets: to which of them which nodes send no requests, and why.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use http::Method;
use model::membership::{TargetState, effective};
use model::resource::Kind;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::error::{Error, UNKNOWN_RESOURCE};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::WrittenName;
use super::table::Operation;
use super::targets::written;
use super::write::{at_revision, store_error, unknown_resource};
use crate::nodes::Trouble;

/// The targets of a service as the connected nodes see them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ServiceHealth")]
struct HealthView {
    /// How many nodes are connected.
    nodes: usize,
    /// Those that the service says in their order, those that were added beside it, then those that nodes found in DNS.
    targets: Vec<TargetView>,
    /// `false` if a node has so many unhealthy targets, or found so many, that it left some out: of those nothing is said
    /// here, or too little.
    is_complete: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TargetHealth")]
struct TargetView {
    target: String,
    /// Absent for a target from DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// What it gets where it is healthy. Absent for a target from DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<TargetState>,
    /// How many nodes have it among the targets and find it fit for requests.
    healthy: usize,
    /// What the others say.
    unhealthy: Vec<Opinion>,
}

/// Why one node sends no requests to a target.
#[derive(Clone, Serialize, JsonSchema)]
#[schemars(rename = "TargetTrouble")]
struct Opinion {
    node_id: String,
    #[serde(flatten)]
    trouble: Trouble,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/gateways/{gateway}/services/{name}/health", "getServiceHealth", get)
            .about("services", "The health of a service's targets, as the nodes see it")
            .description(
                "Each node judges for itself, by checks and by what its requests come to, and tells it every few seconds. While too \
                 few targets are healthy, all of them get requests nevertheless (`panic_threshold`).",
            )
            .answers::<HealthView>(200, "the targets, in the order of the service")
            .errors(&[&UNKNOWN_RESOURCE]),
    ]
}

async fn get(State(state): State<ApiState>, gateway: AtGateway, name: WrittenName) -> Result<Response, Error> {
    let key = name.key(Kind::Service)?;
    if gateway.head.services.slot(&key.name).is_none() {
        return Err(unknown_resource(&key));
    }
    let said = state.lanes.now(&gateway.name).await.map_err(store_error)?;
    let known = effective(&written(&gateway.head, &key.name), said.membership.of(&key.name));
    let nodes: Vec<_> = state.nodes.list(&gateway.name).into_iter().filter(|node| node.connected).collect();
    let mut others: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
    for node in &nodes {
        let of_service = node.report.found.iter().filter(|found| *found.service == *key.name);
        for target in of_service.flat_map(|found| &found.targets) {
            others.entry(target).or_default().by.insert(&node.node_id);
        }
        for told in node.report.unhealthy.iter().filter(|told| *told.service == *key.name) {
            let opinion = Opinion { node_id: node.node_id.clone(), trouble: told.trouble.clone() };
            others.entry(&told.target).or_default().unhealthy.push(opinion);
        }
    }
    let known = known.into_iter().map(|target| {
        let seen = others.remove(&*target.url.to_string()).unwrap_or_default();
        let by = nodes.iter().map(|node| &*node.node_id).collect();
        Seen { by, ..seen }.view(target.url.to_string(), Some((target.weight, target.state)))
    });
    let mut targets: Vec<TargetView> = known.collect();
    targets.extend(others.into_iter().map(|(target, seen)| seen.view(target.to_owned(), None)));
    let is_complete = nodes.iter().all(|node| node.report.untold == 0);
    Ok(at_revision(gateway.head.revision, Json(HealthView { nodes: nodes.len(), targets, is_complete })))
}

/// A target as the nodes see it.
#[derive(Default)]
struct Seen<'n> {
    /// Who has it among the targets.
    by: BTreeSet<&'n str>,
    unhealthy: Vec<Opinion>,
}

impl Seen<'_> {
    fn view(self, target: String, gets: Option<(u32, TargetState)>) -> TargetView {
        let is_out = |node: &&&str| self.unhealthy.iter().any(|opinion| opinion.node_id == ***node);
        let healthy = self.by.len() - self.by.iter().filter(is_out).count();
        let (weight, state) = gets.unzip();
        TargetView { target, weight, state, healthy, unhealthy: self.unhealthy }
    }
}
