//! What the admin API answers, as far as this program reads it. Unknown fields are passed over: the control plane
//! may be newer.

use model::membership::TargetState;
use model::problem::Problem;
use model::resource::{Kind, Labels};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::output;

/// A page of a list.
#[derive(Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

#[derive(Deserialize)]
pub struct Gateway {
    pub name: String,
    /// Number of the newest revision.
    pub revision: u64,
    /// How many it has.
    pub resources: u64,
}

/// What would change, or what did.
#[derive(Deserialize, Serialize)]
pub struct Diff {
    pub from: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    pub changes: Vec<Change>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

#[derive(Deserialize, Serialize)]
pub struct Change {
    pub action: Action,
    pub kind: Kind,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Create,
    Update,
    Delete,
}

impl Action {
    /// One character, as in a diff.
    #[must_use]
    pub fn sign(self) -> char {
        match self {
            Self::Create => '+',
            Self::Update => '~',
            Self::Delete => '-',
        }
    }
}

/// What a write did.
#[derive(Deserialize, Serialize)]
pub struct Applied {
    pub revision: u64,
    pub digest: String,
    pub is_new: bool,
    /// It goes out in steps.
    #[serde(default)]
    pub is_staged: bool,
    pub changes: Vec<Touched>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

#[derive(Deserialize, Serialize)]
pub struct Touched {
    pub action: Action,
    pub kind: Kind,
    pub name: String,
}

#[derive(Deserialize)]
pub struct Revision {
    pub number: u64,
    pub author: String,
    pub message: String,
    pub created_at: String,
    pub change_count: u64,
    /// What became of its rollout.
    pub rollout: Option<String>,
}

/// A revision that goes out in steps.
#[derive(Deserialize)]
pub struct Rollout {
    pub revision: u64,
    pub state: String,
    pub step: usize,
    pub strategy: Value,
    pub ended_at: Option<String>,
    pub ended_by: Option<u64>,
    pub reason: Option<String>,
    pub evidence: Option<Evidence>,
    #[serde(default)]
    pub notes: Vec<Note>,
}

/// What the nodes have to show.
#[derive(Deserialize)]
pub struct Evidence {
    pub reached: usize,
    pub serving: usize,
    pub bake_left_seconds: Option<u64>,
    pub new: Measure,
    pub others: Option<Measure>,
    pub before: Option<Measure>,
    #[serde(default)]
    pub waiting_for: Vec<String>,
}

/// A number of requests and how they went.
#[derive(Deserialize)]
pub struct Measure {
    pub requests: u64,
    pub errors_percent: f64,
    pub p99_ms: Option<f64>,
}

#[derive(Deserialize)]
pub struct Note {
    pub at: String,
    pub text: String,
}

/// By whom nodes know the control planes; the first one certifies.
#[derive(Deserialize)]
pub struct Authorities {
    pub items: Vec<Authority>,
    pub retirable_at: Option<String>,
}

#[derive(Deserialize)]
pub struct Authority {
    pub pin: String,
    pub certifies: bool,
    pub made_at: String,
}

/// A join token, without its secret.
#[derive(Deserialize)]
pub struct JoinToken {
    pub id: String,
    pub state: String,
    pub uses: u32,
    pub uses_left: u32,
    pub author: String,
    pub expires_at: String,
}

/// A join token that was just made.
#[derive(Deserialize)]
pub struct MadeJoinToken {
    pub token: String,
    #[serde(flatten)]
    pub known: JoinToken,
}

/// A node that was revoked.
#[derive(Deserialize)]
pub struct RevokedNode {
    pub usable_join_token: Option<String>,
}

/// All nodes, and what they should serve.
#[derive(Deserialize)]
pub struct Nodes {
    /// Number of the newest revision.
    pub revision: u64,
    pub items: Vec<Node>,
}

/// One node and how far it is.
#[derive(Deserialize)]
pub struct Node {
    pub node_id: String,
    pub hostname: String,
    #[serde(default)]
    pub labels: Labels,
    pub version: String,
    pub connected: bool,
    pub last_seen: String,
    pub started_at: Option<String>,
    pub certificate_expires_at: Option<String>,
    /// How far it is with the newest revision, in a word; older control planes do not say.
    #[serde(default)]
    pub progress: String,
    /// For how long it has been behind; older control planes do not say.
    pub lag_ms: Option<u64>,
    pub load: Option<Load>,
    pub serving: Option<Reached>,
    pub refusal: Option<NodeRefusal>,
    #[serde(default)]
    pub unhealthy: Vec<UnhealthyTarget>,
    #[serde(default)]
    pub untold: u64,
}

/// Whether the nodes serve the newest revision.
#[derive(Deserialize)]
pub struct Status {
    pub revision: u64,
    pub published_at: Option<String>,
    pub is_converged: bool,
    pub total: usize,
    pub serving: usize,
    pub not_serving: Vec<Node>,
}

/// What the process of a node uses.
#[derive(Clone, Copy, Deserialize)]
pub struct Load {
    pub cpu_millicores: u32,
    pub memory_bytes: u64,
}

/// A target that a node sends no requests to.
#[derive(Deserialize, Serialize)]
pub struct UnhealthyTarget {
    pub service: String,
    pub target: String,
    #[serde(flatten)]
    pub trouble: Trouble,
}

#[derive(Deserialize, Serialize)]
pub struct Trouble {
    pub cause: String,
    pub reason: String,
    pub since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// The targets of a service, as the nodes see them.
#[derive(Deserialize)]
pub struct ServiceHealth {
    pub nodes: usize,
    pub targets: Vec<TargetHealth>,
    #[serde(default = "yes")]
    pub is_complete: bool,
}

/// Older control planes do not say.
fn yes() -> bool {
    true
}

#[derive(Deserialize)]
pub struct TargetHealth {
    pub target: String,
    pub weight: Option<u32>,
    pub state: Option<TargetState>,
    pub healthy: usize,
    pub unhealthy: Vec<Trouble>,
}

#[derive(Deserialize)]
pub struct Reached {
    pub revision: u64,
    pub at: String,
}

#[derive(Deserialize)]
pub struct NodeRefusal {
    pub revision: u64,
    pub problems: Vec<Problem>,
}

impl Node {
    /// The revision that it serves; 0 for none.
    #[must_use]
    pub fn serves(&self) -> u64 {
        self.serving.as_ref().map_or(0, |reached| reached.revision)
    }

    /// For how long it has been behind, for people.
    #[must_use]
    pub fn lag(&self) -> String {
        match self.lag_ms {
            Some(0) | None => "-".to_owned(),
            Some(lag_ms) => output::span(lag_ms),
        }
    }
}
