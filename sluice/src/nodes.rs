//! `sluice nodes`: which node has what, and which is let in no more.

use clap::{Args, Subcommand};
use http::Method;
use model::resource::Labels;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::client::{ClientArguments, Query, block_on};
use crate::output::{self, Shown};
use crate::views::{self, Node, RevokedNode};
use crate::{Outcome, status};

/// Show the nodes: what each serves, and why it refuses what it refuses; or revoke one
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Nodes {
    #[command(subcommand)]
    action: Option<Action>,

    /// Only those with this label, `zone=a` or `zone`; given several times, all must hold
    #[arg(short, long, value_name = "LABEL")]
    label: Vec<String>,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Subcommand)]
enum Action {
    /// Give a node that joined with a token no configuration and no certificate any more
    ///
    /// Its stream ends at once. What it serves it goes on serving: stop it where it runs.
    Revoke(Revoke),
}

#[derive(Args)]
struct Revoke {
    /// The id of the node
    node: String,

    #[command(flatten)]
    client: ClientArguments,
}

impl Nodes {
    pub fn run(self) -> anyhow::Result<Outcome> {
        match self.action {
            Some(Action::Revoke(revoke)) => revoke.run(),
            None => self.list(),
        }
    }

    fn list(&self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let what = self.label.iter().fold(Query::new("nodes"), |query, label| query.with("label", label)).into_path();
        if self.output == Shown::Json {
            output::json(&block_on(client.get::<Value>(&what))?)?;
            return Ok(Outcome::Done);
        }
        let views::Nodes { revision, items } = block_on(client.get(&what))?;
        output::table(
            &[
                "node",
                "host",
                "labels",
                "version",
                "serves",
                "since",
                "state",
                "lag",
                "started",
                "cpu",
                "memory",
                "certificate ends",
                "last seen",
            ],
            items.iter().map(row),
        )?;
        let connected = items.iter().filter(|node| node.connected).count();
        let current = items.iter().filter(|node| node.connected && node.serves() >= revision).count();
        output::message(&format!("{current}/{connected} nodes serve revision {revision}"));
        items.iter().for_each(status::tell_refusal);
        Ok(Outcome::Done)
    }
}

impl Revoke {
    fn run(self) -> anyhow::Result<Outcome> {
        let path = format!("nodes/{}:revoke", utf8_percent_encode(&self.node, NON_ALPHANUMERIC));
        let revoked: RevokedNode = block_on(self.client.connect()?.write(Method::POST, &path, None))?;
        output::message(&format!("the node `{}` is revoked; it serves on what it has", self.node));
        if let Some(token) = revoked.usable_join_token {
            output::message(&format!(
                "it joined with the join token {token}, with which nodes may still join: \
                 `sluice join-token revoke {token}` ends that"
            ));
        }
        Ok(Outcome::Done)
    }
}

fn row(node: &Node) -> Vec<String> {
    let Node {
        node_id, hostname, labels, version, serving, started_at, load, certificate_expires_at, last_seen, ..
    } = node;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let time = |at: Option<&str>| or_none(at.map(output::seconds));
    vec![
        node_id.clone(),
        hostname.clone(),
        or_none((!labels.is_empty()).then(|| shown(labels))),
        version.clone(),
        node.serves().to_string(),
        time(serving.as_ref().map(|serving| &*serving.at)),
        if node.connected { node.progress.clone() } else { "gone".to_owned() },
        node.lag(),
        time(started_at.as_deref()),
        or_none(load.map(|load| format!("{}m", load.cpu_millicores))),
        or_none(load.map(|load| format!("{} MiB", load.memory_bytes >> 20))),
        time(certificate_expires_at.as_deref()),
        output::seconds(last_seen),
    ]
}

fn shown(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
