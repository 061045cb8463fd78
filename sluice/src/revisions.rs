//! `sluice revisions` and `sluice rollback`: the history, and going back in it.

use std::num::NonZeroU64;

use clap::Args;
use http::Method;
use serde_json::Value;

use crate::client::{ClientArguments, Query, block_on};
use crate::files::Files;
use crate::output::{self, Shown};
use crate::rollout::RolloutArguments;
use crate::views::{Applied, Page, Revision};
use crate::{Outcome, apply};

/// Show the history: who changed what, when and why
#[derive(Args)]
pub struct Revisions {
    /// How many, from the newest on
    #[arg(long, default_value = "20", value_name = "N")]
    limit: NonZeroU64,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

impl Revisions {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let path = format!("revisions?limit={}", self.limit);
        if self.output == Shown::Json {
            let page: Page<Value> = block_on(client.get(&path))?;
            output::json(&page.items)?;
            return Ok(Outcome::Done);
        }
        let page: Page<Revision> = block_on(client.get(&path))?;
        output::table(
            &["revision", "created", "author", "changes", "rollout", "message"],
            page.items.into_iter().map(|revision| {
                let Revision { number, author, message, created_at, change_count, rollout } = revision;
                let message = message.lines().next().unwrap_or_default().to_owned();
                vec![
                    number.to_string(),
                    output::seconds(&created_at),
                    author,
                    change_count.to_string(),
                    rollout.unwrap_or_else(|| "-".to_owned()),
                    message,
                ]
            }),
        )?;
        Ok(Outcome::Done)
    }
}

/// Go back to an earlier revision, by a new one with the same content
#[derive(Args)]
pub struct Rollback {
    /// Number of the revision to go back to
    revision: u64,

    #[command(flatten)]
    rollout: RolloutArguments,

    #[command(flatten)]
    waiting: apply::Waiting,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

impl Rollback {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        block_on(async {
            let path = Query::new(&format!("revisions/{}:rollback", self.revision));
            let path = path.with_some("rollout", self.rollout.parameter()?).into_path();
            let applied: Applied = client.write(Method::POST, &path, None).await?;
            apply::report(&applied, self.output)?;
            self.waiting.wait_for(&client, &applied, &Files::none()).await
        })
    }
}
