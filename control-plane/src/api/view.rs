//! What this API shows: the types of its answers. None of them holds a secret.

use model::config::Changed;
use model::problem::Problem;
use model::resource::{Document, Key, Kind};
use model::snapshot::Snapshot;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::publish::Published;
use crate::rollout::State;
use crate::store::{ResourceChange, Revision};

/// A resource as people see it: its name, its written form, and marks where secrets are.
#[must_use]
pub fn shown(key: &Key, document: &Document) -> Value {
    let mut value = document.to_value(&key.name);
    model::secret::redact(key.kind, &mut value);
    value
}

/// A page of a list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct PageView<T> {
    pub items: Vec<T>,
    /// Send it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A gateway: a named fleet with its own resources and revisions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Gateway")]
pub struct GatewayView {
    pub name: String,
    /// Number of the newest revision; 0 while nothing was ever configured.
    pub revision: u64,
    /// Digest of the whole configuration.
    pub digest: String,
    /// How many resources it has.
    pub resources: usize,
}

/// A revision: one step in the history of a gateway.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Revision")]
pub struct RevisionView {
    /// Counted from 1 without gaps.
    pub number: u64,
    pub parent: u64,
    /// Name of the token that made it.
    pub author: String,
    pub message: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: OffsetDateTime,
    /// Digest of the whole configuration.
    pub digest: String,
    /// How many resources it changed.
    pub change_count: u64,
    /// What became of its rollout; absent if it had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<State>,
}

/// The difference between two revisions, or between the newest one and what a change would make of it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Diff")]
pub struct DiffView {
    /// The revision that `before` shows.
    pub from: u64,
    /// The revision that `after` shows; absent when there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// In the order of kinds and names; empty when nothing is different.
    pub changes: Vec<ChangeView>,
    /// What is possible and hardly meant; `/docs/lints/{code}` explains each. They keep nothing from being applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

/// The difference in one resource.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Change")]
pub struct ChangeView {
    pub action: Action,
    pub kind: Kind,
    pub name: String,
    /// Absent when it did not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Absent when it does not exist any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Action")]
pub enum Action {
    Create,
    Update,
    Delete,
}

/// What a write did.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Applied")]
pub struct AppliedView {
    /// The revision that holds it: a new one, or the newest if nothing was different.
    pub revision: u64,
    /// Digest of the whole configuration.
    pub digest: String,
    /// Whether a revision was made.
    pub is_new: bool,
    /// `true`: it goes out in steps; `rollouts/{n}` tells how far it is. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_staged: bool,
    /// What was changed, without the contents.
    pub changes: Vec<TouchedView>,
    /// What is possible and hardly meant; `/docs/lints/{code}` explains each. They keep nothing from being applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
    /// How far the nodes are; only when it was asked to wait for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitView>,
}

/// A resource that was changed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Touched")]
pub struct TouchedView {
    pub action: Action,
    pub kind: Kind,
    pub name: String,
}

/// How waiting for the nodes ended.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Wait")]
pub struct WaitView {
    pub state: WaitState,
    /// How many nodes serve the revision or a newer one.
    pub serving: usize,
    /// How many of the nodes that are meant are connected.
    pub total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "WaitState")]
pub enum WaitState {
    /// The asked share of the nodes serves it.
    Serving,
    /// The time was over before that.
    TimedOut,
    /// No node was connected until the time was over.
    NoNodes,
}

impl GatewayView {
    #[must_use]
    pub fn new(name: &str, head: &Snapshot) -> Self {
        Self {
            name: name.to_owned(),
            revision: head.revision,
            digest: head.config.digest().to_string(),
            resources: head.config.len(),
        }
    }
}

impl From<Revision> for RevisionView {
    fn from(revision: Revision) -> Self {
        let Revision { number, parent, author, message, created_at, digest, change_count } = revision;
        Self { number, parent, author, message, created_at, digest: digest.to_string(), change_count, rollout: None }
    }
}

impl ChangeView {
    #[must_use]
    pub fn new(key: &Key, before: Option<&Document>, after: Option<&Document>) -> Self {
        Self {
            action: Action::of(before, after),
            kind: key.kind,
            name: key.name.to_string(),
            before: before.map(|document| shown(key, document)),
            after: after.map(|document| shown(key, document)),
        }
    }
}

impl From<&ResourceChange> for ChangeView {
    fn from(change: &ResourceChange) -> Self {
        Self::new(&change.key, change.before.as_ref(), change.after.as_ref())
    }
}

impl Action {
    fn of(before: Option<&Document>, after: Option<&Document>) -> Self {
        match (before, after) {
            (None, _) => Self::Create,
            (Some(_), Some(_)) => Self::Update,
            (Some(_), None) => Self::Delete,
        }
    }
}

impl DiffView {
    /// What publishing would change.
    #[must_use]
    pub fn of_check(checked: &Published, base: u64) -> Self {
        let mut changes: Vec<&Changed> = checked.changes.iter().collect();
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        let shown = changes
            .into_iter()
            .map(|change| ChangeView::new(&change.key, change.before.as_ref(), change.after.as_ref()));
        Self { from: base, to: None, changes: shown.collect(), warnings: checked.warnings.clone() }
    }
}

impl AppliedView {
    #[must_use]
    pub fn new(published: &Published, wait: Option<WaitView>) -> Self {
        let mut changes: Vec<&Changed> = published.changes.iter().collect();
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        let touched = changes.into_iter().map(|change| TouchedView {
            action: Action::of(change.before.as_ref(), change.after.as_ref()),
            kind: change.key.kind,
            name: change.key.name.to_string(),
        });
        Self {
            revision: published.revision,
            digest: published.snapshot.config.digest().to_string(),
            is_new: published.is_new,
            is_staged: published.is_staged,
            changes: touched.collect(),
            warnings: published.warnings.clone(),
            wait,
        }
    }
}
