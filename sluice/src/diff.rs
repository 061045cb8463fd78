//! `sluice diff`: what files would change.

use clap::Args;
use http::Method;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use crate::client::{Client, ClientArguments, Query, block_on};
use crate::files::{FileArguments, Files};
use crate::output::{self, Paint, Painter, Shown};
use crate::views::{Action, Change};
use crate::{Outcome, problems};

/// Show what `apply` would change; ends with 2 if there is anything
#[derive(Args)]
pub struct Diff {
    #[command(flatten)]
    files: FileArguments,

    /// As `apply --prune`: what the files do not hold is deleted
    #[arg(long)]
    prune: bool,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

impl Diff {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let files = self.files.read()?;
        let client = self.client.connect()?;
        let found = block_on(fetch(&client, &files, self.prune, None))?;
        show(&found, self.output)?;
        Ok(if found.changes.is_empty() { Outcome::Done } else { Outcome::Different })
    }
}

/// Asks the control plane what applying the files would change.
pub async fn fetch(
    client: &Client,
    files: &Files,
    prune: bool,
    base: Option<u64>,
) -> anyhow::Result<crate::views::Diff> {
    let query = Query::new("config:diff").with("prune", prune).with_some("base", base);
    let found = client.write(Method::POST, &query.into_path(), Some(files.body())).await;
    let mut found: crate::views::Diff = found.map_err(|error| files.locate_in(error))?;
    found.warnings = found.warnings.into_iter().map(|warning| client.with_page(files.located(warning))).collect();
    Ok(found)
}

pub fn show(found: &crate::views::Diff, shown: Shown) -> anyhow::Result<()> {
    if shown == Shown::Json {
        return output::json(found);
    }
    let painter = Painter::for_stdout();
    let text: Vec<String> = found.changes.iter().map(|change| paragraph(change, &painter)).collect();
    output::data(&text.concat())?;
    problems::warn(&found.warnings);
    let count = |action| found.changes.iter().filter(|change| change.action == action).count();
    output::message(&match (count(Action::Create), count(Action::Update), count(Action::Delete)) {
        (0, 0, 0) => format!("nothing is different from revision {}", found.from),
        (created, updated, deleted) => {
            format!("against revision {}: {created} to create, {updated} to change, {deleted} to delete", found.from)
        }
    });
    Ok(())
}

/// One resource: a heading, and its lines as they were and would be.
fn paragraph(change: &Change, painter: &Painter) -> String {
    let heading = format!("{} {} {}", change.action.sign(), change.kind, change.name);
    let mut text = format!("{}\n", painter.paint(Paint::Heading, &heading));
    let (before, after) = (lines(change.before.as_ref()), lines(change.after.as_ref()));
    let difference = TextDiff::from_lines(&before, &after);
    for hunk in difference.grouped_ops(3).iter().flatten() {
        for line in difference.iter_changes(hunk) {
            let content = line.value().trim_end();
            text.push_str(&match line.tag() {
                ChangeTag::Equal => format!("    {content}"),
                ChangeTag::Insert => painter.paint(Paint::Added, &format!("  + {content}")),
                ChangeTag::Delete => painter.paint(Paint::Removed, &format!("  - {content}")),
            });
            text.push('\n');
        }
    }
    text
}

/// As in a file, without the lines that only part its lists.
fn lines(resource: Option<&Value>) -> String {
    let text = resource.map_or(String::new(), model::file::to_yaml);
    text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}
