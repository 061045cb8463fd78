//! Health of targets: to which of them which nodes send no requests, and why.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::Method;
use model::resource::service::TargetUrl;
use model::resource::{Key, Kind, Resource};
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::error::{Error, UNKNOWN_RESOURCE};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::WrittenName;
use super::table::Operation;
use super::write::{at_revision, unknown_resource};
use crate::nodes::Trouble;

/// The targets of a service as the connected nodes see them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ServiceHealth")]
struct HealthView {
    /// How many nodes are connected.
    nodes: usize,
    /// Those of the service in their order, and others that some node has trouble with.
    targets: Vec<TargetView>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TargetHealth")]
struct TargetView {
    target: String,
    /// Absent for a target that is not written in the service, but said beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// How many of the nodes find it fit for requests.
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
    let targets = targets(&gateway, &key).ok_or_else(|| unknown_resource(&key))?;
    let mut nodes = 0;
    let mut troubles: BTreeMap<String, Vec<Opinion>> = BTreeMap::new();
    for node in state.nodes.list(&gateway.name).into_iter().filter(|node| node.connected) {
        nodes += 1;
        for told in node.unhealthy.into_iter().filter(|told| *told.service == *key.name) {
            let opinion = Opinion { node_id: node.node_id.clone(), trouble: told.trouble };
            troubles.entry(told.target).or_default().push(opinion);
        }
    }
    let view = |target: String, weight: Option<u32>, unhealthy: Vec<Opinion>| {
        let mut ids: Vec<&str> = unhealthy.iter().map(|opinion| &*opinion.node_id).collect();
        ids.dedup();
        TargetView { target, weight, healthy: nodes - ids.len(), unhealthy }
    };
    let written = targets.into_iter().map(|(target, weight)| {
        let unhealthy = troubles.remove(&target.to_string()).unwrap_or_default();
        view(target.to_string(), Some(weight), unhealthy)
    });
    let mut targets: Vec<TargetView> = written.collect();
    targets.extend(troubles.into_iter().map(|(target, unhealthy)| view(target, None, unhealthy)));
    Ok(at_revision(gateway.head.revision, Json(HealthView { nodes, targets })))
}

fn targets(gateway: &AtGateway, key: &Key) -> Option<Vec<(TargetUrl, u32)>> {
    match gateway.head.config.get(key)?.parse(Kind::Service) {
        Ok(Resource::Service(service)) => {
            Some(service.targets.into_iter().map(|target| (target.url, target.weight)).collect())
        }
        _ => None,
    }
}
