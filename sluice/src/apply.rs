//! `sluice apply`: makes the gateway what files say, and waits until the nodes serve it.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use http::Method;
use model::problem::Problem;
use model::value::Span;
use tokio::time::Instant;

use crate::client::{Client, ClientArguments, Query, block_on};
use crate::files::{FileArguments, Files};
use crate::output::{self, Shown};
use crate::rollout::RolloutArguments;
use crate::views::{Action, Applied, Node, Nodes};
use crate::{Outcome, diff, problems, rollout};

/// How often nodes are looked at while waiting for them.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Create and change what files say; delete nothing unless told
///
/// All of it is one change: every file holds, or nothing happens.
#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    files: FileArguments,

    /// Also delete what the files do not hold; every deletion is listed
    #[arg(long)]
    prune: bool,

    /// Go on also where --prune deletes more than half of ten resources or more
    #[arg(long, requires = "prune")]
    allow_mass_delete: bool,

    /// Check everything, show the differences, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Refuse if a revision other than N is the newest by now
    #[arg(long, value_name = "N")]
    base: Option<u64>,

    /// Why: kept with the revision
    #[arg(short, long)]
    message: Option<String>,

    #[command(flatten)]
    rollout: RolloutArguments,

    #[command(flatten)]
    waiting: Waiting,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

/// Whether and how long to wait for the nodes.
#[derive(Args)]
pub struct Waiting {
    /// Wait until this share of the connected nodes serves the change; `--wait=80%` [default: 100%]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_name = "SHARE")]
    wait: Option<Share>,

    /// Wait only for nodes with this label, `zone=a` or `zone`; given several times, all must hold
    #[arg(long, requires = "wait", value_name = "LABEL")]
    wait_label: Vec<String>,

    /// How long to wait for them at most
    #[arg(long, default_value = "60s", value_name = "TIME")]
    timeout: Span,
}

/// A share of the nodes, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(usize);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.strip_suffix('%').unwrap_or(text).parse().ok();
        percent.filter(|percent| (1..=100).contains(percent)).map(Self).ok_or_else(|| "write 1% to 100%".to_owned())
    }
}

impl Share {
    pub const ALL: Self = Self(100);

    /// How many of so many nodes that are.
    fn of(self, total: usize) -> usize {
        (total * self.0).div_ceil(100)
    }
}

impl Apply {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let files = self.files.read()?;
        let rollout = self.rollout.parameter()?;
        let client = self.client.connect()?;
        block_on(async {
            if self.dry_run {
                let found = diff::fetch(&client, &files, self.prune, self.base).await?;
                diff::show(&found, self.output)?;
                return Ok(Outcome::Done);
            }
            let base = if self.prune && self.base.is_none() {
                Some(announce_deletions(&client, &files).await?)
            } else {
                self.base
            };
            let Self { prune, allow_mass_delete, .. } = self;
            let change = Change { prune, allow_mass_delete, base, message: self.message.as_deref(), rollout };
            let applied = send(&client, &files, &change).await?;
            report(&applied, self.output)?;
            self.waiting.wait_for(&client, &applied, &files).await
        })
    }
}

/// How files are applied.
pub struct Change<'a> {
    pub prune: bool,
    pub allow_mass_delete: bool,
    pub base: Option<u64>,
    pub message: Option<&'a str>,
    /// The parameter `rollout` of the write.
    pub rollout: Option<String>,
}

/// Applies files in one change.
pub async fn send(client: &Client, files: &Files, change: &Change<'_>) -> anyhow::Result<Applied> {
    let query = Query::new("config:apply")
        .with("prune", change.prune)
        .with_some("allow_mass_delete", change.allow_mass_delete.then_some(true))
        .with_some("base", change.base)
        .with_some("message", change.message)
        .with_some("rollout", change.rollout.as_deref());
    let applied = client.write(Method::POST, &query.into_path(), Some(files.body())).await;
    let mut applied: Applied = applied.map_err(|error| files.locate_in(error))?;
    applied.warnings = applied.warnings.into_iter().map(|warning| client.with_page(files.located(warning))).collect();
    Ok(applied)
}

/// Says what is about to be deleted, and which revision that was found in: the change then holds for that one alone.
async fn announce_deletions(client: &Client, files: &Files) -> anyhow::Result<u64> {
    let found = diff::fetch(client, files, true, None).await?;
    for change in found.changes.iter().filter(|change| change.action == Action::Delete) {
        output::message(&format!("deletes {} `{}`", change.kind, change.name));
    }
    Ok(found.from)
}

/// Says what a write did.
pub fn report(applied: &Applied, shown: Shown) -> anyhow::Result<()> {
    if shown == Shown::Json {
        return output::json(applied);
    }
    let text: String = applied
        .changes
        .iter()
        .map(|touched| format!("{} {} {}\n", touched.action.sign(), touched.kind, touched.name))
        .collect();
    output::data(&text)?;
    problems::warn(&applied.warnings);
    output::message(&match (applied.is_new, applied.changes.len()) {
        (false, _) => format!("nothing is different from revision {}", applied.revision),
        (true, 1) => format!("revision {}: 1 change", applied.revision),
        (true, count) => format!("revision {}: {count} changes", applied.revision),
    });
    if applied.is_staged {
        output::message("it goes out in steps: `sluice rollout watch` follows it");
    }
    Ok(())
}

impl Waiting {
    /// Waits, if that was asked for, and says how the nodes get on.
    pub async fn wait_for(&self, client: &Client, applied: &Applied, files: &Files) -> anyhow::Result<Outcome> {
        let Some(share) = self.wait else { return Ok(Outcome::Done) };
        let revision = applied.revision;
        if applied.is_staged {
            return rollout::watch(client, revision, Some(self.timeout.get())).await;
        }
        let mut said = BTreeSet::new();
        let awaited = Awaited { revision, share, labels: &self.wait_label };
        let verdict = watch(client, awaited, self.timeout.get(), |nodes| {
            for node in nodes.iter().filter(|node| node.serves() >= revision) {
                if said.insert(node.node_id.clone()) {
                    let (so_far, total) = (said.len(), nodes.len());
                    output::message(&format!("{so_far}/{total} {} on {} serves it", node.node_id, node.hostname));
                }
            }
        });
        let outcome = match verdict.await? {
            Verdict::Served => return Ok(Outcome::Done),
            Verdict::Refused(refusals) => {
                output::message(&refused(&refusals, files));
                format!("the nodes serve on with what they had; `sluice rollback {}` goes back", revision - 1)
            }
            Verdict::TooLate { total: 0, .. } => {
                format!("no node that was asked for is connected, after {}", self.timeout)
            }
            Verdict::TooLate { serving, total } => {
                format!("{serving} of {total} nodes serve revision {revision}, after {}", self.timeout)
            }
        };
        output::message(&outcome);
        Ok(Outcome::NotServed)
    }
}

/// How waiting for the nodes ended.
pub enum Verdict {
    Served,
    /// So many nodes refuse it that the share cannot be reached.
    Refused(Vec<Node>),
    TooLate {
        serving: usize,
        total: usize,
    },
}

/// What is waited for.
#[derive(Clone, Copy)]
pub struct Awaited<'a> {
    pub revision: u64,
    /// Of the connected nodes with all of `labels`.
    pub share: Share,
    pub labels: &'a [String],
}

/// Looks at the nodes until the share of them serves the revision, or will not.
pub async fn watch(
    client: &Client,
    Awaited { revision, share, labels }: Awaited<'_>,
    timeout: Duration,
    mut look: impl FnMut(&[Node]),
) -> anyhow::Result<Verdict> {
    let deadline = Instant::now() + timeout;
    let nodes = labels.iter().fold(Query::new("nodes"), |query, label| query.with("label", label)).into_path();
    loop {
        let Nodes { mut items, .. } = client.get(&nodes).await?;
        items.retain(|node| node.connected);
        look(&items);
        let total = items.len();
        let serving = items.iter().filter(|node| node.serves() >= revision).count();
        if total > 0 && serving >= share.of(total) {
            return Ok(Verdict::Served);
        }
        items.retain(|node| refuses(node, revision));
        if !items.is_empty() && total - items.len() < share.of(total) {
            return Ok(Verdict::Refused(items));
        }
        if Instant::now() >= deadline {
            return Ok(Verdict::TooLate { serving, total });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why nodes refuse a revision.
pub fn refused(nodes: &[Node], files: &Files) -> String {
    let of_node = |node: &Node| {
        let refusal = node.refusal.as_ref().expect("only nodes that refuse are shown");
        let reasons: Vec<Problem> = refusal.problems.iter().map(|problem| files.located(problem.clone())).collect();
        format!("{} refuses revision {}:\n{}", node.node_id, refusal.revision, problems::list(&reasons))
    };
    nodes.iter().map(of_node).collect::<Vec<_>>().join("\n")
}

fn refuses(node: &Node, revision: u64) -> bool {
    node.refusal.as_ref().is_some_and(|refusal| refusal.revision >= revision) && node.serves() < revision
}
