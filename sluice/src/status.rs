//! `sluice status`: whether all nodes serve the newest revision.

use clap::Args;
use serde_json::Value;

use crate::client::{ClientArguments, block_on};
use crate::output::{self, Shown};
use crate::views::{self, Node};
use crate::{Outcome, problems};

/// Show whether all nodes serve the newest revision, and why those do not that do not
///
/// Ends with 3 unless all that are connected do, and at least one is.
#[derive(Args)]
pub struct Status {
    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

impl Status {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let whole: Value = block_on(self.client.connect()?.get("status"))?;
        let is_converged = match self.output {
            Shown::Json => {
                output::json(&whole)?;
                whole["is_converged"] == true
            }
            Shown::Text => {
                let status: views::Status = serde_json::from_value(whole)?;
                tell(&status)?;
                status.is_converged
            }
        };
        Ok(if is_converged { Outcome::Done } else { Outcome::NotServed })
    }
}

fn tell(status: &views::Status) -> anyhow::Result<()> {
    let views::Status { revision, published_at, total, serving, not_serving, .. } = status;
    let published = published_at.as_ref().map(|at| format!(", published at {}", output::seconds(at)));
    let published = published.unwrap_or_default();
    if *total == 0 {
        output::data(&format!("no node is connected; the newest revision is {revision}{published}"))?;
        return Ok(());
    }
    output::data(&format!("{serving}/{total} nodes serve {revision}{published}"))?;
    if not_serving.is_empty() {
        return Ok(());
    }
    let row = |node: &Node| {
        vec![node.node_id.clone(), node.hostname.clone(), serves(node), node.progress.clone(), node.lag()]
    };
    output::table(&["node", "host", "serves", "why not", "for"], not_serving.iter().map(row))?;
    not_serving.iter().for_each(tell_refusal);
    Ok(())
}

fn serves(node: &Node) -> String {
    match &node.serving {
        Some(serving) if serving.revision > 0 => format!("{} since {}", serving.revision, output::seconds(&serving.at)),
        _ => "nothing".to_owned(),
    }
}

/// Says what a node refuses and why, if it does.
pub fn tell_refusal(node: &Node) {
    if let Some(refusal) = &node.refusal {
        let reasons = problems::list(&refusal.problems);
        output::message(&format!("{} refuses revision {}:\n{reasons}", node.node_id, refusal.revision));
    }
}
