//! `sluice health`: which targets get no requests, and why.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::Value;

use crate::Outcome;
use crate::client::{ClientArguments, block_on};
use crate::output::{self, Shown};
use crate::views::{Nodes, ServiceHealth};

/// Show the health of targets, as the nodes see it
#[derive(Args)]
pub struct Health {
    /// All targets of this service. Without it: the targets of all services that some node sends no requests to
    service: Option<String>,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

/// On which nodes a target is out, and why.
#[derive(Default)]
struct Out<'n> {
    on: BTreeSet<&'n str>,
    reasons: BTreeSet<&'n str>,
}

impl Health {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let path = match &self.service {
            Some(service) => format!("services/{service}/health"),
            None => "nodes".to_owned(),
        };
        match (self.output, &self.service) {
            (Shown::Json, Some(_)) => output::json(&block_on(client.get::<Value>(&path))?)?,
            (Shown::Json, None) => output::json(&unhealthy(&block_on(client.get(&path))?))?,
            (Shown::Text, Some(_)) => of_service(&block_on(client.get(&path))?)?,
            (Shown::Text, None) => of_all(&block_on(client.get(&path))?)?,
        }
        Ok(Outcome::Done)
    }
}

fn of_service(health: &ServiceHealth) -> anyhow::Result<()> {
    let rows = health.targets.iter().map(|target| {
        let reasons: BTreeSet<&str> = target.unhealthy.iter().map(|trouble| &*trouble.reason).collect();
        let healthy = format!("{}/{}", target.healthy, health.nodes);
        let weight = target.weight.map(|weight| weight.to_string()).unwrap_or_else(|| "-".to_owned());
        let state = target.state.map_or_else(|| "from DNS".to_owned(), |state| state.to_string());
        vec![target.target.clone(), weight, state, healthy, Vec::from_iter(reasons).join("; ")]
    });
    output::table(&["target", "weight", "state", "healthy on", "why not"], rows)?;
    let is_fit = |target: &&crate::views::TargetHealth| target.healthy == health.nodes;
    let fit = health.targets.iter().filter(is_fit).count();
    let (all, nodes) = (health.targets.len(), health.nodes);
    output::message(&format!("{fit}/{all} targets are healthy on all of {nodes} nodes"));
    if !health.is_complete {
        output::message("nodes have so many targets to tell of that they left some out");
    }
    Ok(())
}

fn of_all(nodes: &Nodes) -> anyhow::Result<()> {
    let connected = nodes.items.iter().filter(|node| node.connected);
    let mut by_target: BTreeMap<(&str, &str), Out<'_>> = BTreeMap::new();
    for node in connected.clone() {
        for told in &node.unhealthy {
            let out = by_target.entry((&told.service, &told.target)).or_default();
            out.on.insert(&node.node_id);
            out.reasons.insert(&told.trouble.reason);
        }
    }
    let count = connected.count();
    let all = by_target.len();
    let rows = by_target.into_iter().map(|((service, target), Out { on, reasons })| {
        let on = format!("{}/{count}", on.len());
        vec![service.to_owned(), target.to_owned(), on, Vec::from_iter(reasons).join("; ")]
    });
    output::table(&["service", "target", "out on", "why"], rows)?;
    output::message(&format!("{all} targets get no requests from some of {count} nodes"));
    let untold: u64 = nodes.items.iter().filter(|node| node.connected).map(|node| node.untold).sum();
    if untold > 0 {
        output::message(&format!("nodes have so many targets to tell of that they left {untold} out"));
    }
    Ok(())
}

fn unhealthy(nodes: &Nodes) -> Value {
    let connected = nodes.items.iter().filter(|node| node.connected);
    let node = |node: &crate::views::Node| serde_json::json!({"node_id": node.node_id, "unhealthy": node.unhealthy});
    connected.map(node).collect()
}
