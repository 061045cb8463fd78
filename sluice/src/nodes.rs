//! `sluice nodes`: which node has what.

use clap::Args;
use serde_json::Value;

use crate::client::{ClientArguments, block_on};
use crate::output::{self, Shown};
use crate::views::{Node, Nodes};
use crate::{Outcome, problems};

/// Show the nodes: what each serves, and why it refuses what it refuses
#[derive(Args)]
pub struct ListNodes {
    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

impl ListNodes {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        if self.output == Shown::Json {
            output::json(&block_on(client.get::<Value>("nodes"))?)?;
            return Ok(Outcome::Done);
        }
        let Nodes { revision, items } = block_on(client.get("nodes"))?;
        output::table(
            &["node", "host", "version", "serves", "state", "last seen"],
            items.iter().map(|node| {
                let (serves, state) = (node.serves().to_string(), state(node, revision).to_owned());
                let Node { node_id, hostname, version, last_seen, .. } = node;
                vec![node_id.clone(), hostname.clone(), version.clone(), serves, state, output::seconds(last_seen)]
            }),
        )?;
        let connected = items.iter().filter(|node| node.connected).count();
        let current = items.iter().filter(|node| node.connected && node.serves() >= revision).count();
        output::message(&format!("{current}/{connected} nodes serve revision {revision}"));
        for node in &items {
            if let Some(refusal) = &node.refusal {
                let reasons = problems::list(&refusal.problems);
                output::message(&format!("{} refuses revision {}:\n{reasons}", node.node_id, refusal.revision));
            }
        }
        Ok(Outcome::Done)
    }
}

fn state(node: &Node, head: u64) -> &'static str {
    let has_refused = node.refusal.as_ref().is_some_and(|refusal| refusal.revision > node.serves());
    let has_received = node.received.as_ref().is_some_and(|received| received.revision >= head);
    if !node.connected {
        "gone"
    } else if has_refused {
        "refused"
    } else if node.serves() >= head {
        "current"
    } else if has_received {
        "preparing"
    } else {
        "behind"
    }
}
