//! `sluice authority`: by whom nodes know the control planes, and how another takes its place.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::Outcome;
use crate::client::{ClientArguments, block_on};
use crate::output::{self, Shown};
use crate::views::Authorities as View;

/// Show the authority by which nodes know the control planes, or have another take its place
///
/// First `rotate`: a new authority certifies from then on, and nodes move on to it when they renew their certificates. When all
/// have, `retire` ends the trust in the one before.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Authority {
    #[command(subcommand)]
    action: Option<Action>,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Subcommand)]
enum Action {
    /// Make an authority that certifies from now on; the one before is trusted until it is retired
    Rotate(Rotate),
    /// Trust the authority before no more
    Retire(Retire),
}

#[derive(Args)]
struct Rotate {
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Args)]
struct Retire {
    /// Now, although nodes may have certificates of it: those must join again
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    client: ClientArguments,
}

impl Authority {
    pub fn run(self) -> anyhow::Result<Outcome> {
        match &self.action {
            Some(Action::Rotate(Rotate { client })) => {
                let View { items, retirable_at } = block_on(client.connect()?.authority(Method::POST, ":rotate"))?;
                let pin = items.first().map_or("", |first| &first.pin);
                let at = retirable_at.map_or_else(String::new, |at| output::seconds(&at));
                output::message(&format!(
                    "the authority with the pin {pin} certifies from now on; the one before can be retired at {at}"
                ));
            }
            Some(Action::Retire(Retire { force, client })) => {
                let path = if *force { ":retire?force=true" } else { ":retire" };
                let View { items, .. } = block_on(client.connect()?.authority(Method::POST, path))?;
                let pin = items.first().map_or("", |first| &first.pin);
                output::message(&format!("only the authority with the pin {pin} counts from now on"));
            }
            None => self.show()?,
        }
        Ok(Outcome::Done)
    }

    fn show(&self) -> anyhow::Result<()> {
        let client = self.client.connect()?;
        if self.output == Shown::Json {
            let shown: Value = block_on(client.authority(Method::GET, ""))?;
            return output::json(&shown);
        }
        let View { items, retirable_at } = block_on(client.authority(Method::GET, ""))?;
        let rows = items.into_iter().map(|authority| {
            let role = match (authority.certifies, &retirable_at) {
                (true, _) => "certifies".to_owned(),
                (false, Some(at)) => format!("trusted, can be retired at {}", output::seconds(at)),
                (false, None) => "trusted".to_owned(),
            };
            vec![authority.pin, output::seconds(&authority.made_at), role]
        });
        Ok(output::table(&["pin", "made", "role"], rows)?)
    }
}
