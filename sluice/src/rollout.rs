//! `sluice rollout`: how far a revision is that goes out in steps, and what is to become of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::Outcome;
use crate::client::{Client, ClientArguments, block_on};
use crate::output::{self, Shown};
use crate::views::{Measure, Page, Rollout};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Show and steer revisions that go out in steps
///
/// Without an action: the newest rollout, and what the nodes have to show.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Rollouts {
    #[command(subcommand)]
    action: Option<Action>,

    #[command(flatten)]
    which: Which,
}

/// Which rollout.
#[derive(Args)]
struct Which {
    /// Its revision [default: that of the newest rollout]
    revision: Option<u64>,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Subcommand)]
enum Action {
    /// Show a rollout, and what the nodes have to show
    Status(Which),
    /// Follow a rollout to its end: ends with 0 if all nodes got it, with 3 if it was rolled back or passed over
    Watch(Which),
    /// Let it go no further; it is still rolled back when a gate fails
    Pause(Which),
    /// Let it go on
    Resume(Which),
    /// Give the revision to all nodes now
    Promote(Which),
    /// Publish again what was before
    Abort(Which),
    /// Show or set how changes go out unless they say otherwise
    Strategy(Strategy),
}

#[derive(Args)]
struct Strategy {
    /// A file with the strategy, YAML or JSON, for changes from now on
    #[arg(long, value_name = "FILE", conflicts_with = "remove")]
    set: Option<PathBuf>,

    /// Let changes go to all nodes at once from now on
    #[arg(long)]
    remove: bool,

    #[command(flatten)]
    client: ClientArguments,
}

/// How a change goes out.
#[derive(Args)]
pub struct RolloutArguments {
    /// `skip`: to all nodes at once, past a rollout that is under way, for emergencies. Or a file with a strategy [default: as
    /// the gateway's strategy says]
    #[arg(long, value_name = "skip|FILE")]
    rollout: Option<String>,
}

impl RolloutArguments {
    /// As the parameter of a write.
    pub fn parameter(&self) -> anyhow::Result<Option<String>> {
        match self.rollout.as_deref() {
            Some("skip") => Ok(Some("skip".to_owned())),
            Some(file) => read(Path::new(file)).map(|strategy| Some(strategy.to_string())),
            None => Ok(None),
        }
    }
}

impl Rollouts {
    pub fn run(self) -> anyhow::Result<Outcome> {
        match self.action {
            None => self.which.status(),
            Some(Action::Status(which)) => which.status(),
            Some(Action::Watch(which)) => which.watch(),
            Some(Action::Pause(which)) => which.act("pause", "is paused: it goes no further until it is resumed"),
            Some(Action::Resume(which)) => which.act("resume", "goes on"),
            Some(Action::Promote(which)) => which.act("promote", "goes to all nodes"),
            Some(Action::Abort(which)) => which.act("abort", "is rolled back; `sluice rollout watch` waits for it"),
            Some(Action::Strategy(strategy)) => strategy.run(),
        }
    }
}

impl Which {
    fn status(&self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let whole: Value = block_on(async {
            let revision = self.revision(&client).await?;
            client.get(&format!("rollouts/{revision}")).await
        })?;
        match self.output {
            Shown::Json => output::json(&whole)?,
            Shown::Text => show(&serde_json::from_value(whole)?)?,
        }
        Ok(Outcome::Done)
    }

    fn watch(&self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        block_on(async {
            let revision = self.revision(&client).await?;
            watch(&client, revision, None).await
        })
    }

    fn act(&self, action: &str, done: &str) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        block_on(async {
            let revision = self.revision(&client).await?;
            let rollout: Value = client.write(Method::POST, &format!("rollouts/{revision}/{action}"), None).await?;
            if self.output == Shown::Json {
                output::json(&rollout)?;
            }
            output::message(&format!("revision {revision} {done}"));
            Ok(Outcome::Done)
        })
    }

    async fn revision(&self, client: &Client) -> anyhow::Result<u64> {
        if let Some(revision) = self.revision {
            return Ok(revision);
        }
        let page: Page<Rollout> = client.get("rollouts?limit=1").await?;
        match page.items.first() {
            Some(newest) => Ok(newest.revision),
            None => bail!("no revision of this gateway went out in steps"),
        }
    }
}

impl Strategy {
    fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        if self.remove {
            block_on(client.send(Method::DELETE, "rollout-strategy", "application/json", None))?;
            output::message("changes go to all nodes at once");
            return Ok(Outcome::Done);
        }
        let strategy: Value = match &self.set {
            Some(file) => block_on(client.write(Method::PUT, "rollout-strategy", Some(&read(file)?)))?,
            None => block_on(client.get("rollout-strategy"))?,
        };
        output::json(&strategy)?;
        Ok(Outcome::Done)
    }
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    model::file::value(&text).map_err(|reason| anyhow::anyhow!("cannot read {}: {reason}", file.display()))
}

/// Follows a rollout to its end, or to the deadline, and says what happens.
pub async fn watch(client: &Client, revision: u64, timeout: Option<Duration>) -> anyhow::Result<Outcome> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let (mut told, mut shown) = (0, String::new());
    loop {
        let rollout: Rollout = client.get(&format!("rollouts/{revision}")).await?;
        for note in rollout.notes.iter().skip(told) {
            output::message(&format!("{} {}", output::seconds(&note.at), note.text));
        }
        told = rollout.notes.len();
        match &*rollout.state {
            "promoted" | "skipped" => return Ok(Outcome::Done),
            "rolled-back" | "superseded" => return Ok(Outcome::NotServed),
            _ => {}
        }
        let line = progress(&rollout);
        if line != shown {
            output::message(&line);
            shown = line;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            output::message(&format!("revision {revision} is still on its way out: `sluice rollout watch` goes on"));
            return Ok(Outcome::NotServed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Where it is, in a line.
fn progress(rollout: &Rollout) -> String {
    let steps = rollout.strategy["steps"].as_array().map_or(0, Vec::len);
    let at = format!("revision {}: {}, step {} of {steps}", rollout.revision, rollout.state, rollout.step + 1);
    let Some(evidence) = &rollout.evidence else { return at };
    format!("{at}, {}/{} nodes serve it", evidence.serving, evidence.reached)
}

fn show(rollout: &Rollout) -> anyhow::Result<()> {
    let mut text = match &*rollout.state {
        "running" | "paused" | "rolling-back" => progress(rollout),
        state => format!("revision {}: {state}", rollout.revision),
    };
    text.push('\n');
    if let Some(reason) = &rollout.reason {
        text.push_str(&format!("  why      {reason}\n"));
    }
    if let Some(by) = rollout.ended_by {
        text.push_str(&format!("  now      revision {by}\n"));
    }
    if let Some(evidence) = &rollout.evidence {
        let measures = [
            ("with it", Some(&evidence.new)),
            ("others", evidence.others.as_ref()),
            ("before", evidence.before.as_ref()),
        ];
        for (name, measure) in measures {
            text.push_str(&format!("  {name:<8} {}\n", measure.map_or_else(|| "nothing known".to_owned(), told)));
        }
        if let Some(left) = evidence.bake_left_seconds.filter(|_| rollout.ended_at.is_none()) {
            text.push_str(&format!("  bake     {left}s left\n"));
        }
        if !evidence.waiting_for.is_empty() {
            text.push_str(&format!("  waits    for {}\n", evidence.waiting_for.join(", ")));
        }
    }
    for note in &rollout.notes {
        text.push_str(&format!("  {} {}\n", output::seconds(&note.at), note.text));
    }
    output::data(&text)?;
    Ok(())
}

fn told(measure: &Measure) -> String {
    let p99 = measure.p99_ms.map_or_else(String::new, |p99| format!(", 99% within {p99:.1} ms"));
    format!("{} requests, {}% failed{p99}", measure.requests, measure.errors_percent)
}
