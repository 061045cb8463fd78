//! `sluice join-token`: what lets nodes into a gateway.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use http::Method;
use model::value::Span;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::Outcome;
use crate::client::{ClientArguments, Query, block_on};
use crate::output::{self, Shown};
use crate::views::{JoinToken, MadeJoinToken, Page};

/// Make, show and revoke the tokens with which nodes join a gateway
///
/// A node that is started with `--join-token-file` makes a key and gets a certificate for it. From then on it needs the
/// token no more.
#[derive(Args)]
pub struct JoinTokens {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token; it is written to stdout, and nowhere else
    Create(Create),
    /// Show the tokens, without their secrets
    List(List),
    /// Let no node join with a token any more
    Revoke(Revoke),
}

#[derive(Args)]
struct Create {
    /// How long nodes may join with it
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    ttl: Span,

    /// How many nodes may join with it
    #[arg(long, default_value_t = 1, value_name = "N")]
    uses: u32,

    /// Write it into this file, which nobody else may read, instead of stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Args)]
struct List {
    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Args)]
struct Revoke {
    /// The id of the token, as `join-token list` shows it
    id: String,

    /// Revoke the nodes too that joined with it
    #[arg(long)]
    nodes: bool,

    #[command(flatten)]
    client: ClientArguments,
}

impl JoinTokens {
    pub fn run(self) -> anyhow::Result<Outcome> {
        match self.action {
            Action::Create(create) => create.run(),
            Action::List(list) => list.run(),
            Action::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<Outcome> {
        let body = json!({ "ttl": self.ttl.to_string(), "uses": self.uses });
        let client = self.client.connect()?;
        let made: MadeJoinToken = block_on(client.write(Method::POST, "join-tokens", Some(&body)))?;
        let MadeJoinToken { token, known: JoinToken { id, uses, expires_at, .. } } = made;
        match &self.to {
            Some(path) => write_private(path, &token).with_context(|| format!("cannot write {}", path.display()))?,
            None => output::data(&token)?,
        }
        let nodes = if uses == 1 { "1 node".to_owned() } else { format!("{uses} nodes") };
        output::message(&format!("the join token {id} lets {nodes} in until {}", output::seconds(&expires_at)));
        Ok(Outcome::Done)
    }
}

impl List {
    fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        if self.output == Shown::Json {
            let Page::<Value> { items, .. } = block_on(client.get("join-tokens"))?;
            output::json(&items)?;
            return Ok(Outcome::Done);
        }
        let Page::<JoinToken> { items, .. } = block_on(client.get("join-tokens"))?;
        let rows = items.into_iter().map(|token| {
            let JoinToken { id, state, uses, uses_left, author, expires_at } = token;
            vec![id, state, format!("{uses_left}/{uses}"), author, output::seconds(&expires_at)]
        });
        output::table(&["id", "state", "uses left", "made by", "ends"], rows)?;
        Ok(Outcome::Done)
    }
}

impl Revoke {
    fn run(self) -> anyhow::Result<Outcome> {
        let path = format!("join-tokens/{}", utf8_percent_encode(&self.id, NON_ALPHANUMERIC));
        let path = Query::new(&path);
        let path = if self.nodes { path.with("nodes", true) } else { path };
        let client = self.client.connect()?;
        block_on(client.send(Method::DELETE, &path.into_path(), "application/json", None))?;
        let who = if self.nodes { "nobody joins with it, and who did is revoked" } else { "nobody joins with it" };
        output::message(&format!("the join token {} is revoked: {who}", self.id));
        Ok(Outcome::Done)
    }
}

fn write_private(path: &Path, token: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")
}
