//! What every node has, serves and refuses, as far as this replica of the control plane heard from it.
//!
//! The stream writes it through a [`Session`], one per connection; the admin API reads it. It is kept in
//! memory only: a node says all of it again when it reconnects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::digest::Digest;
use model::problem::{Problem, Problems};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a node is listed after its last connection ended.
const KEPT: time::Duration = time::Duration::hours(1);

/// How many nodes without a connection are listed at most, over all gateways.
const MAX_DISCONNECTED: usize = 1_000;

/// All nodes of all gateways.
pub struct Nodes {
    known: Mutex<HashMap<(String, String), Entry>>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
}

struct Entry {
    status: NodeStatus,
    /// Which session may write: a node that reconnects before its old connection is known to be dead has two.
    session: u64,
}

/// What is known about one node.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NodeStatus {
    /// Stable over restarts of the node.
    pub node_id: String,
    pub hostname: String,
    /// Version of the node's software.
    pub version: String,
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
    /// The revision that the node did not take; gone when it serves a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// A revision and when a node came to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reached {
    pub revision: u64,
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub digest: Digest,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub at: OffsetDateTime,
}

/// A revision that a node keeps out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
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

/// How waiting for a revision to be served ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// The asked share of the nodes serves it.
    Serving {
        nodes: usize,
    },
    /// So many nodes refused it that the share cannot be reached; one of them, with its reasons.
    Refused {
        node: String,
        problems: Problems,
    },
    TimedOut {
        serving: usize,
        total: usize,
    },
    /// No node of this gateway was connected until the time was over.
    NoNodes,
}

impl Nodes {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// The nodes of a gateway by their ids, also those that were connected within the last hour.
    #[must_use]
    pub fn list(&self, gateway: &str) -> Vec<NodeStatus> {
        let mut known = self.known.lock();
        forget_old(&mut known);
        let of_gateway = known.iter().filter(|((of, _), _)| of == gateway);
        let mut nodes: Vec<_> = of_gateway.map(|(_, entry)| entry.status.clone()).collect();
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        nodes
    }

    /// How far the connected nodes are with a revision.
    #[must_use]
    pub fn convergence(&self, gateway: &str, revision: u64) -> Convergence {
        let mut convergence = Convergence::default();
        self.each_connected(gateway, |status| {
            convergence.total += 1;
            convergence.serving += usize::from(status.serves(revision));
            convergence.refused += usize::from(status.refuses(revision));
        });
        convergence
    }

    /// Marked as changed whenever any node comes, goes or gets further.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until `share` (0 to 1) of the connected nodes, and at least one, serve `revision` or a newer one.
    pub async fn wait_serving(&self, gateway: &str, revision: u64, share: f64, timeout: Duration) -> WaitOutcome {
        let mut changes = self.changes();
        let end = Instant::now() + timeout;
        loop {
            changes.mark_unchanged();
            let now = self.convergence(gateway, revision);
            let enough = needed(now.total, share);
            if now.total > 0 && now.serving >= enough {
                return WaitOutcome::Serving { nodes: now.serving };
            }
            if now.total > 0
                && now.total - now.refused < enough
                && let Some((node, problems)) = self.one_refusal(gateway, revision)
            {
                return WaitOutcome::Refused { node, problems };
            }
            let changed = tokio::time::timeout_at(end, changes.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return match now.total {
                    0 => WaitOutcome::NoNodes,
                    total => WaitOutcome::TimedOut { serving: now.serving, total },
                };
            }
        }
    }

    fn one_refusal(&self, gateway: &str, revision: u64) -> Option<(String, Vec<Problem>)> {
        let mut found = None;
        self.each_connected(gateway, |status| {
            if status.refuses(revision)
                && let Some(refusal) = &status.refusal
            {
                found.get_or_insert_with(|| (status.node_id.clone(), refusal.problems.clone()));
            }
        });
        found
    }

    fn each_connected(&self, gateway: &str, mut visit: impl FnMut(&NodeStatus)) {
        let known = self.known.lock();
        let of_gateway = known.iter().filter(|((of, _), _)| of == gateway);
        of_gateway.map(|(_, entry)| &entry.status).filter(|status| status.connected).for_each(&mut visit);
    }

    /// Begins to hear from a node. `serving` is what it says it serves.
    pub fn connect(self: &Arc<Self>, gateway: &str, node: Introduction) -> Session {
        let Introduction { node_id, hostname, version, serving } = node;
        let at = OffsetDateTime::now_utc();
        let reached = serving.map(|(revision, digest)| Reached { revision, digest, at });
        let mut status = NodeStatus {
            node_id: node_id.clone(),
            hostname,
            version,
            connected: true,
            connected_since: at,
            last_seen: at,
            received: reached.clone(),
            compiled: reached.clone(),
            serving: reached,
            refusal: None,
        };
        let key = (gateway.to_owned(), node_id);
        let mut known = self.known.lock();
        forget_old(&mut known);
        let mut session = 0;
        if let Some(before) = known.get_mut(&key) {
            session = before.session + 1;
            // A refusal outlives the connection: the node still keeps that revision out.
            status.refusal = before.status.refusal.take().filter(|refusal| !status.serves(refusal.revision));
        }
        known.insert(key.clone(), Entry { status, session });
        drop(known);
        self.tell();
        Session { nodes: Arc::clone(self), key, session }
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// What a node says about itself when it connects.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub node_id: String,
    pub hostname: String,
    pub version: String,
    pub serving: Option<(u64, Digest)>,
}

/// One connection of one node; the node is listed as disconnected when it is dropped.
pub struct Session {
    nodes: Arc<Nodes>,
    key: (String, String),
    session: u64,
}

impl Session {
    /// Something came from the node, if only a heartbeat.
    pub fn heard(&self) {
        self.update(|status| status.last_seen = OffsetDateTime::now_utc());
    }

    /// The node came to a stage of a revision.
    pub fn reached(&self, stage: Stage, revision: u64, digest: Digest) {
        let at = OffsetDateTime::now_utc();
        let reached = Some(Reached { revision, digest, at });
        self.update(|status| {
            status.last_seen = at;
            match stage {
                Stage::Received => status.received = reached,
                Stage::Compiled => status.compiled = reached,
                Stage::Serving => {
                    status.serving = reached;
                    if status.refusal.as_ref().is_some_and(|refusal| refusal.revision <= revision) {
                        status.refusal = None;
                    }
                }
            }
        });
        self.nodes.tell();
    }

    /// The node keeps a revision out, or cannot be sent it.
    pub fn refused(&self, revision: u64, problems: Problems) {
        let at = OffsetDateTime::now_utc();
        self.update(|status| {
            status.last_seen = at;
            status.refusal = Some(Refusal { revision, problems, at });
        });
        self.nodes.tell();
    }

    fn update(&self, change: impl FnOnce(&mut NodeStatus)) {
        let mut known = self.nodes.known.lock();
        if let Some(entry) = known.get_mut(&self.key).filter(|entry| entry.session == self.session) {
            change(&mut entry.status);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.update(|status| status.connected = false);
        self.nodes.tell();
    }
}

impl NodeStatus {
    fn serves(&self, revision: u64) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.revision >= revision)
    }

    fn refuses(&self, revision: u64) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.revision >= revision)
    }
}

/// How many of `total` nodes make up `share`.
fn needed(total: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "fleets are far smaller than 2^52, and the share is clamped"
    )]
    let needed = (total as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
    needed.max(1)
}

fn forget_old(known: &mut HashMap<(String, String), Entry>) {
    let now = OffsetDateTime::now_utc();
    known.retain(|_, entry| entry.status.connected || now - entry.status.last_seen < KEPT);
    let mut gone: Vec<OffsetDateTime> =
        known.values().filter(|entry| !entry.status.connected).map(|entry| entry.status.last_seen).collect();
    if gone.len() > MAX_DISCONNECTED {
        gone.sort_unstable();
        let oldest_kept = gone[gone.len() - MAX_DISCONNECTED];
        known.retain(|_, entry| entry.status.connected || entry.status.last_seen >= oldest_kept);
    }
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    fn introduction(node_id: &str, serving: Option<u64>) -> Introduction {
        Introduction {
            node_id: node_id.to_owned(),
            hostname: "host".to_owned(),
            version: "1".to_owned(),
            serving: serving.map(|revision| (revision, Digest::default())),
        }
    }

    #[tokio::test]
    async fn waiting_ends_with_the_share_that_was_asked_for() {
        let nodes = Nodes::new();
        assert_eq!(nodes.wait_serving("default", 2, 1.0, SOON).await, WaitOutcome::NoNodes);
        let a = nodes.connect("default", introduction("a", Some(1)));
        let _b = nodes.connect("default", introduction("b", Some(2)));
        let _other_gateway = nodes.connect("other", introduction("c", None));
        assert_eq!(nodes.wait_serving("default", 2, 0.5, SOON).await, WaitOutcome::Serving { nodes: 1 });
        assert_eq!(nodes.wait_serving("default", 2, 1.0, SOON).await, WaitOutcome::TimedOut { serving: 1, total: 2 });
        let waiting = tokio::spawn({
            let nodes = Arc::clone(&nodes);
            async move { nodes.wait_serving("default", 2, 1.0, Duration::from_secs(60)).await }
        });
        a.reached(Stage::Compiled, 2, Digest::default());
        a.reached(Stage::Serving, 2, Digest::default());
        assert_eq!(waiting.await.expect("it ends"), WaitOutcome::Serving { nodes: 2 });
    }

    #[tokio::test]
    async fn a_refusal_ends_waiting_only_if_the_share_is_out_of_reach() {
        let nodes = Nodes::new();
        let a = nodes.connect("default", introduction("a", Some(1)));
        let b = nodes.connect("default", introduction("b", Some(2)));
        a.refused(2, Vec::new());
        let refused = WaitOutcome::Refused { node: "a".to_owned(), problems: Vec::new() };
        assert_eq!(nodes.wait_serving("default", 2, 1.0, SOON).await, refused);
        assert_eq!(nodes.wait_serving("default", 2, 0.5, SOON).await, WaitOutcome::Serving { nodes: 1 });
        a.reached(Stage::Serving, 3, Digest::default());
        b.reached(Stage::Serving, 3, Digest::default());
        assert_eq!(nodes.wait_serving("default", 3, 1.0, SOON).await, WaitOutcome::Serving { nodes: 2 });
        assert!(nodes.list("default").iter().all(|node| node.refusal.is_none()));
    }

    #[test]
    fn an_old_connection_that_ends_late_does_not_disconnect_the_new_one() {
        let nodes = Nodes::new();
        let old = nodes.connect("default", introduction("a", Some(1)));
        let new = nodes.connect("default", introduction("a", Some(2)));
        old.reached(Stage::Serving, 1, Digest::default());
        drop(old);
        let listed = nodes.list("default");
        assert_eq!((listed.len(), listed[0].connected), (1, true));
        assert!(listed[0].serves(2));
        drop(new);
        assert!(!nodes.list("default")[0].connected);
    }

    #[test]
    fn only_so_many_nodes_that_are_gone_are_remembered() {
        let nodes = Nodes::new();
        let _here = nodes.connect("default", introduction("here", None));
        for number in 0..MAX_DISCONNECTED + 5 {
            drop(nodes.connect("default", introduction(&format!("gone-{number}"), None)));
        }
        assert_eq!(nodes.list("default").len(), MAX_DISCONNECTED + 1);
        assert!(nodes.list("default").iter().any(|node| node.node_id == "here"));
    }
}
