//! `sluice gateways`: which there are, and new ones.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::Outcome;
use crate::client::{ClientArguments, block_on};
use crate::output::{self, Shown};
use crate::views::{Gateway, Page};

/// Show the gateways, create one, or delete one that is empty
///
/// A gateway has resources, revisions and nodes of its own. Other commands are about one of them: `--gateway edge`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Gateways {
    #[command(subcommand)]
    action: Option<Action>,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Subcommand)]
enum Action {
    /// Create a gateway, empty; its nodes are started with `--gateway` and this name
    Create(Named),
    /// Delete a gateway without resources, and its revisions with it
    Delete(Named),
}

#[derive(Args)]
struct Named {
    name: String,

    #[command(flatten)]
    client: ClientArguments,
}

impl Gateways {
    pub fn run(self) -> anyhow::Result<Outcome> {
        match &self.action {
            Some(Action::Create(Named { name, client })) => {
                block_on(client.connect()?.gateways(Method::PUT, Some(name)))?;
                output::message(&format!("the gateway `{name}` is there"));
            }
            Some(Action::Delete(Named { name, client })) => {
                block_on(client.connect()?.gateways(Method::DELETE, Some(name)))?;
                output::message(&format!("the gateway `{name}` is deleted"));
            }
            None => self.list()?,
        }
        Ok(Outcome::Done)
    }

    fn list(&self) -> anyhow::Result<()> {
        let answer = block_on(self.client.connect()?.gateways(Method::GET, None))?;
        if self.output == Shown::Json {
            let Page::<Value> { items, .. } = serde_json::from_slice(&answer.body)?;
            return output::json(&items);
        }
        let Page::<Gateway> { items, .. } = serde_json::from_slice(&answer.body)?;
        let rows = items
            .into_iter()
            .map(|Gateway { name, revision, resources }| vec![name, revision.to_string(), resources.to_string()]);
        Ok(output::table(&["name", "revision", "resources"], rows)?)
    }
}
