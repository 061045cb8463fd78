//! What is known about a node, as the admin API shows it and as replicas tell it one another.

use std::time::Duration;

use model::digest::Digest;
use model::problem::Problems;
use model::resource::Labels;
use model::snapshot::Snapshot;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::traffic::Traffic;

/// What is kept of a list of targets that a node sends.
const MAX_TOLD: usize = 1_000;

/// What is known about one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Stable over restarts of the node.
    pub node_id: String,
    pub hostname: String,
    /// What it was started with, for choosing nodes by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Version of the node's software.
    pub version: String,
    /// When its process started; absent if the node does not say.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<OffsetDateTime>,
    pub connected: bool,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub connected_since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub last_seen: OffsetDateTime,
    /// The newest revision that arrived whole and with the right digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<Reached>,
    /// The newest revision that it compiled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiled: Option<Reached>,
    /// The revision that serves every request that starts now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Reached>,
    /// The version of what is said about targets that its requests go by; absent before it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<u64>,
    /// The revision that the node did not take; gone when it serves a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// How often it was sent the whole configuration because what it held, or made of a change, had another digest than it
    /// should. Counted since it first connected to this control plane.
    #[serde(default)]
    pub resyncs: u64,
    /// What its process uses. The control plane that it is connected to knows it as of its last heartbeats, others as of its
    /// last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// What it has counted of requests; absent if it does not say, or has had none. Other control planes know it as of its
    /// last change, or within a second while a rollout is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// It ended in good order. Absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_left: bool,
    /// Before it came as it is now, it had ended in good order. Absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_returned: bool,
    #[serde(flatten)]
    pub report: TargetReport,
}

/// What the process of a node uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Processor time, in thousandths of a core: 1500 is one and a half cores.
    pub cpu_millicores: u32,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
}

impl From<proto::Load> for Load {
    fn from(told: proto::Load) -> Self {
        Self { cpu_millicores: told.cpu_millicores, memory_bytes: told.resident_bytes }
    }
}

/// What a node says of targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetReport {
    /// The targets that it sends no requests to; if they are very many, some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealthy: Vec<UnhealthyTarget>,
    /// The targets that services found in DNS; if they are very many, some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<FoundTargets>,
    /// How many targets are left out of `unhealthy` and `found`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub untold: u64,
}

/// What a service found in DNS, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FoundTargets {
    pub service: String,
    /// Scheme, host and port of each.
    pub targets: Vec<String>,
}

/// Why a node sends no requests to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnhealthyTarget {
    pub service: String,
    /// Scheme, host and port.
    pub target: String,
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// What is the matter with a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trouble {
    /// `check`: active checks fail. `outlier`: its answers are not like those of the others.
    pub cause: String,
    pub reason: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub since: OffsetDateTime,
    /// When it is tried again; absent if that depends on checks.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<OffsetDateTime>,
}

impl TargetReport {
    pub fn from_wire(unhealthy: Vec<proto::UnhealthyTarget>, found: Vec<proto::FoundTargets>, untold: u64) -> Self {
        let mut room = MAX_TOLD;
        let found = found.into_iter().map(|proto::FoundTargets { service, mut targets }| {
            targets.truncate(room);
            room -= targets.len();
            FoundTargets { service, targets }
        });
        Self {
            found: found.take(MAX_TOLD).collect(),
            unhealthy: unhealthy.into_iter().take(MAX_TOLD).map(UnhealthyTarget::from_wire).collect(),
            untold,
        }
    }
}

impl UnhealthyTarget {
    fn from_wire(told: proto::UnhealthyTarget) -> Self {
        let proto::UnhealthyTarget { service, target, cause, reason, since_unix_ms, until_unix_ms } = told;
        let at = |unix_ms: u64| {
            let nanos = i128::from(unix_ms) * 1_000_000;
            OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        let until = (until_unix_ms > 0).then(|| at(until_unix_ms));
        Self { service, target, trouble: Trouble { cause, reason, since: at(since_unix_ms), until } }
    }
}

/// A revision and when a node came to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reached {
    pub revision: u64,
    #[serde(with = "digest_as_text")]
    #[schemars(with = "String")]
    pub digest: Digest,
    /// By the clock of the control plane.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub at: OffsetDateTime,
}

/// A revision that a node keeps out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    pub revision: u64,
    pub problems: Problems,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub at: OffsetDateTime,
}

/// How far a node has come with a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Whole, and its digest is right.
    Received,
    /// Nothing in it was refused.
    Compiled,
    /// Every request that starts now is served by it.
    Serving,
}

/// How far a node is with the newest revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It serves it.
    Serving,
    /// It serves a revision of that number with another content; it is sent the whole configuration.
    Differs,
    /// It serves a newer one than this control plane knows: another has just published it, or the database is from an older
    /// backup.
    Ahead,
    /// It keeps it out, and serves what it had.
    Refused,
    /// It has received it.
    Preparing,
    /// It has not received it.
    Behind,
    /// It serves the revision before, as it should: a rollout has not reached it.
    HeldBack,
}

/// How far the connected nodes of a gateway are with one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Convergence {
    /// Connected nodes.
    pub total: usize,
    /// Of these, how many serve the revision or a newer one.
    pub serving: usize,
    /// Of these, how many refused it or a newer one.
    pub refused: usize,
}

impl NodeStatus {
    /// How far the node is with the newest revision.
    #[must_use]
    pub fn progress(&self, revision: u64, digest: Digest) -> Progress {
        let is_received = self.received.as_ref().is_some_and(|received| received.revision >= revision);
        match &self.serving {
            Some(serving) if serving.revision == revision && serving.digest != digest => Progress::Differs,
            Some(serving) if serving.revision == revision => Progress::Serving,
            Some(serving) if serving.revision > revision => Progress::Ahead,
            _ if self.refuses(revision) => Progress::Refused,
            _ if is_received => Progress::Preparing,
            _ => Progress::Behind,
        }
    }

    /// For how long it has not served what it is to serve; nothing if it serves that, or something newer. `superseded_at`
    /// says of a revision when it ceased to be the newest.
    pub fn lag(
        &self,
        wanted: &Snapshot,
        now: OffsetDateTime,
        superseded_at: impl FnOnce(u64) -> Option<OffsetDateTime>,
    ) -> Duration {
        let progress = self.progress(wanted.revision, wanted.config.digest());
        let since = match (progress, &self.serving) {
            (Progress::Serving | Progress::Ahead, _) => None,
            (Progress::Differs, Some(serving)) => Some(serving.at),
            (_, Some(serving)) => superseded_at(serving.revision),
            (_, None) => Some(self.connected_since),
        };
        since.map_or(Duration::ZERO, |since| Duration::try_from(now - since).unwrap_or_default())
    }

    pub(super) fn serves(&self, revision: u64) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.revision >= revision)
    }

    pub(super) fn has_targets(&self, version: u64) -> bool {
        self.targets.is_some_and(|targets| targets >= version)
    }

    pub(super) fn refuses(&self, revision: u64) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.revision >= revision)
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// As digests are written everywhere.
mod digest_as_text {
    use model::digest::Digest;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is no digest")))
    }
}
