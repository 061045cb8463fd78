//! Revisions that go out in steps: what is kept of a rollout, and which nodes it has reached.
//!
//! A rollout goes on only while its revision is the head of its gateway, so whatever is published ends it: rolling back is
//! publishing. It is stored with its revision in one transaction. Every change of it is made on the version that was seen
//! ([`crate::store::Rollouts::change_rollout`]), so of two replicas that act on one rollout one finds that it came too late.

use model::digest::sha256;
use model::resource::Labels;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::{RolloutRow, StoreError};

pub mod driver;
pub mod gates;
pub mod strategy;
pub mod watch;

use gates::Evidence;
use strategy::{Cohort, Strategy};

/// How many remarks are kept.
const MAX_NOTES: usize = 50;

/// One revision on its way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    #[serde(skip)]
    pub gateway: String,
    pub revision: u64,
    /// What the nodes serve that it has not reached.
    pub base: u64,
    /// Counts changes of this.
    #[serde(default)]
    pub version: u64,
    pub state: State,
    /// The step that it is at, counted from 0; as many as there are steps when all nodes have it.
    pub step: usize,
    pub strategy: Strategy,
    /// Which nodes each step that has begun added.
    pub cohorts: Vec<Cohort>,
    /// Name of the token that published the revision.
    pub author: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub created_at: OffsetDateTime,
    /// When the present step began.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub since: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<OffsetDateTime>,
    /// The revision that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<u64>,
    /// Why it was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the nodes had to show, when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What was done to it and when, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// The control plane that looks after it.
    #[serde(default)]
    pub owner: String,
}

/// How a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "RolloutState")]
pub enum State {
    /// It goes on by itself.
    Running,
    /// It goes no further until it is resumed; its gates still hold.
    Paused,
    /// It has failed, and what was before is about to be published.
    RollingBack,
    /// All nodes have it.
    Promoted,
    /// What was before is there again, as a new revision.
    RolledBack,
    /// Another revision was published past it.
    Superseded,
    /// Its revision went to all nodes at once, because its author said so.
    Skipped,
}

/// A remark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutNote")]
pub struct Note {
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub at: OffsetDateTime,
    pub text: String,
}

impl State {
    /// Whether something is still to come.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::RollingBack)
    }
}

impl Rollout {
    /// A revision that is about to be published on `base`, which nodes serve until a step reaches them.
    #[must_use]
    pub fn begin(gateway: &str, base: u64, author: &str, strategy: Strategy, now: OffsetDateTime) -> Self {
        Self {
            gateway: gateway.to_owned(),
            revision: base + 1,
            base,
            version: 1,
            state: State::Running,
            step: 0,
            strategy,
            cohorts: Vec::new(),
            author: author.to_owned(),
            created_at: now,
            since: now,
            ended_at: None,
            ended_by: None,
            reason: None,
            evidence: None,
            notes: Vec::new(),
            owner: String::new(),
        }
    }

    /// It goes to all nodes at once.
    #[must_use]
    pub fn skipped(mut self) -> Self {
        self.note(self.created_at, format!("`{}` had it skip the steps", self.author));
        self.end(State::Skipped, self.created_at);
        self
    }

    /// Whether a node is to have the revision.
    #[must_use]
    pub fn has_reached(&self, position: u32, labels: &Labels) -> bool {
        !self.state.is_open() || self.cohorts.iter().any(|cohort| cohort.holds(position, labels))
    }

    pub fn note(&mut self, at: OffsetDateTime, text: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(Note { at, text });
        }
    }

    pub fn end(&mut self, state: State, at: OffsetDateTime) {
        self.state = state;
        self.ended_at = Some(at);
    }

    /// As it is stored.
    #[must_use]
    pub fn to_row(&self) -> RolloutRow {
        RolloutRow {
            gateway: self.gateway.clone(),
            revision: self.revision,
            version: self.version,
            is_open: self.state.is_open(),
            ended_by: self.ended_by.unwrap_or(0),
            document: serde_json::to_string(self).expect("texts, numbers and times are JSON"),
        }
    }

    /// As it was stored.
    pub fn from_row(row: RolloutRow) -> Result<Self, StoreError> {
        let RolloutRow { gateway, revision, version, document, .. } = row;
        let read: Self = serde_json::from_str(&document).map_err(|error| {
            StoreError::Unreadable(format!("rollout of revision {revision} of gateway `{gateway}`: {error}"))
        })?;
        Ok(Self { gateway, version, ..read })
    }
}

/// Where a node stands among all: the same for as long as it has its id, whoever else comes and goes.
#[must_use]
pub fn position(node_id: &str) -> u32 {
    let hash = sha256(node_id.as_bytes());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}
