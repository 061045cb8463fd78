//! `sluice targets`: the targets of a service, and what is said about them beside the configuration.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use http::Method;
use model::membership::EffectiveTarget;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::client::{ClientArguments, Query, block_on};
use crate::output::{self, Format};
use crate::{Outcome, labels};

/// How long a change waits for the nodes with `--wait`.
const WAIT: &str = "30s";

/// Show the targets of a service, or change them without a revision
#[derive(Args)]
pub struct Targets {
    service: String,

    #[command(subcommand)]
    action: Option<Action>,

    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Format,

    /// Wait until all connected nodes go by the change
    #[arg(short, long, global = true)]
    wait: bool,

    /// Only have the change checked; nothing is written
    #[arg(long, global = true, conflicts_with = "wait")]
    dry_run: bool,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Subcommand)]
enum Action {
    /// Show the targets as they are in effect: what is done without an action
    List,
    /// Add a target, or say anew what holds for one
    Set {
        /// `10.0.0.11:9000`, or the whole URL
        target: String,

        /// Share of the requests [default: what the service says, or 1]
        #[arg(long)]
        weight: Option<u32>,

        /// `zone=a`; may be given several times [default: what the service says]
        #[arg(short, long, value_name = "KEY=VALUE", value_parser = labels::parse)]
        label: Vec<(String, String)>,
    },
    /// Send no new requests to a target, and let it finish what it serves; `set` or `remove` ends that
    Drain { target: String },
    /// Take back what was said about a target: one that was added is gone
    Remove { target: String },
}

impl Targets {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let service = &self.service;
        let all = format!("services/{}/targets", utf8_percent_encode(service, NON_ALPHANUMERIC));
        let (method, target, body, done) = match &self.action {
            None | Some(Action::List) => {
                let targets: Vec<EffectiveTarget> = block_on(client.list(Query::new(&all)))?;
                show(&targets, self.output)?;
                if targets.is_empty() {
                    output::message(&format!(
                        "service `{service}` says no targets, and none were added; `sluice health {service}` shows those from DNS"
                    ));
                }
                return Ok(Outcome::Done);
            }
            Some(Action::Set { target, weight, label }) => {
                let labels: BTreeMap<_, _> = label.iter().cloned().collect();
                let mut body = json!({});
                if let Some(weight) = weight {
                    body["weight"] = json!(weight);
                }
                if !labels.is_empty() {
                    body["labels"] = json!(labels);
                }
                (Method::PUT, target, Some(body), "is set")
            }
            Some(Action::Drain { target }) => (Method::PATCH, target, Some(json!({"draining": true})), "drains"),
            Some(Action::Remove { target }) => {
                (Method::DELETE, target, None, "is again what the service says, or gone")
            }
        };
        let path = Query::new(&format!("{all}/{}", utf8_percent_encode(target, NON_ALPHANUMERIC)));
        let path = match (self.wait, self.dry_run) {
            (true, _) => path.with("wait", "serving").with("timeout", WAIT),
            (_, true) => path.with("dry_run", "true"),
            _ => path,
        };
        let body = body.map(|body: Value| body.to_string().into());
        let answer = block_on(client.send(method, &path.into_path(), "application/json", body))?;
        if answer.status == http::StatusCode::ACCEPTED {
            output::message(&format!("target `{target}` of service `{service}` {done}, but not on all nodes yet"));
            return Ok(Outcome::NotServed);
        }
        let done = if self.dry_run { "may be changed so; nothing was written" } else { done };
        output::message(&format!("target `{target}` of service `{service}` {done}"));
        Ok(Outcome::Done)
    }
}

fn show(targets: &[EffectiveTarget], output: Format) -> anyhow::Result<()> {
    match output {
        Format::Json => output::json(&targets),
        Format::Yaml => Ok(output::data(&model::file::to_yaml(&serde_json::to_value(targets)?))?),
        Format::Name => {
            Ok(output::data(&targets.iter().map(|target| format!("{}\n", target.url)).collect::<String>())?)
        }
        Format::Table => {
            let row = |target: &EffectiveTarget| {
                let labels: Vec<String> = target.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                vec![
                    target.url.to_string(),
                    target.state.to_string(),
                    target.weight.to_string(),
                    target.origin.to_string(),
                    if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
                ]
            };
            Ok(output::table(&["target", "state", "weight", "origin", "labels"], targets.iter().map(row))?)
        }
    }
}
