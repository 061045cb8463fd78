//! What every node has, serves and refuses.
//!
//! The stream writes it through a [`Session`], one per connection; the admin API reads it. It is kept in
//! memory: a node says all of it again when it reconnects. Replicas that share a database tell one another
//! ([`fleet`]), so that each knows the nodes of all.

use std::sync::Arc;
use std::time::Duration;

use model::digest::Digest;
use model::problem::{Problem, Problems};
use model::resource::Labels;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub mod fleet;
mod known;
mod selector;
mod status;
#[cfg(test)]
mod tests;
mod traffic;

use crate::metrics::COUNTED;
use known::{Here, Id, Known};
pub use selector::Selector;
pub use status::{
    Convergence, Load, NodeStatus, Progress, Reached, Refusal, Stage, TargetReport, Trouble, UnhealthyTarget,
};
pub use traffic::{Counts, Traffic};

/// For each node, how long those who wait for nodes look away between two counts.
const COUNTING: Duration = Duration::from_micros(1);

/// All nodes of all gateways.
pub struct Nodes {
    known: Mutex<Known>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    /// There is something to tell the other replicas.
    news: Notify,
}

/// What nodes are to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// This revision or a newer one.
    Revision(u64),
    /// What is said about targets up to this version.
    Targets(u64),
}

impl Goal {
    fn is_served_by(self, status: &NodeStatus) -> bool {
        match self {
            Self::Revision(revision) => status.serves(revision),
            Self::Targets(version) => status.has_targets(version),
        }
    }

    fn is_refused_by(self, status: &NodeStatus) -> bool {
        match self {
            Self::Revision(revision) => status.refuses(revision),
            Self::Targets(_) => false,
        }
    }
}

/// Which nodes are waited for.
#[derive(Clone, Debug, PartialEq)]
pub struct Quorum {
    /// Of the connected nodes those with these labels.
    pub labels: Selector,
    /// Of these so many, 0 to 1, and at least one.
    pub share: f64,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { labels: Selector::default(), share: 1.0 }
    }
}

/// How waiting for a revision to be served ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// The asked share of the nodes that are meant serves it.
    Serving {
        nodes: usize,
        total: usize,
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
    /// None of the nodes that are meant was connected until the time was over.
    NoNodes,
}

impl Nodes {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), changes: watch::Sender::new(0), news: Notify::new() })
    }

    /// The nodes of a gateway by their ids, also those that were connected within the last hour.
    #[must_use]
    pub fn list(&self, gateway: &str) -> Vec<NodeStatus> {
        let mut known = self.known.lock();
        known.forget_old();
        let mut nodes: Vec<_> = known.of_gateway(gateway).cloned().collect();
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        nodes
    }

    /// Shows every node of a gateway once, in no order, without a copy of all of them.
    pub fn each(&self, gateway: &str, visit: impl FnMut(&NodeStatus)) {
        self.known.lock().of_gateway(gateway).for_each(visit);
    }

    /// How many nodes are connected to this replica.
    #[must_use]
    pub fn connected_here(&self) -> usize {
        self.known.lock().here.values().filter(|here| here.status.connected).count()
    }

    /// How far the connected nodes with these labels are with a revision.
    #[must_use]
    pub fn convergence(&self, gateway: &str, revision: u64, labels: &Selector) -> Convergence {
        self.count(gateway, Goal::Revision(revision), labels)
    }

    fn count(&self, gateway: &str, goal: Goal, labels: &Selector) -> Convergence {
        let mut convergence = Convergence::default();
        self.each_connected(gateway, labels, |status| {
            convergence.total += 1;
            convergence.serving += usize::from(goal.is_served_by(status));
            convergence.refused += usize::from(goal.is_refused_by(status));
        });
        convergence
    }

    /// The oldest revision that a node of the gateway serves, as far as it is listed.
    #[must_use]
    pub fn oldest_served(&self, gateway: &str) -> Option<u64> {
        let known = self.known.lock();
        let served = known.of_gateway(gateway).filter_map(|status| Some(status.serving.as_ref()?.revision));
        // There is nothing to keep of the empty one.
        served.filter(|revision| *revision > 0).min()
    }

    /// Marked as changed whenever any node comes, goes or gets further.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the nodes that are meant serve `goal` or something newer.
    pub async fn wait_serving(&self, gateway: &str, goal: Goal, quorum: &Quorum, timeout: Duration) -> WaitOutcome {
        let mut changes = self.changes();
        let end = Instant::now() + timeout;
        loop {
            changes.mark_unchanged();
            let now = self.count(gateway, goal, &quorum.labels);
            let enough = needed(now.total, quorum.share);
            if now.total > 0 && now.serving >= enough {
                return WaitOutcome::Serving { nodes: now.serving, total: now.total };
            }
            if now.total > 0
                && now.total - now.refused < enough
                && let Some((node, problems)) = self.one_refusal(gateway, goal, &quorum.labels)
            {
                return WaitOutcome::Refused { node, problems };
            }
            let changed = tokio::time::timeout_at(end, async {
                changes.changed().await?;
                // Every node that gets further is a change, and counting walks over all of them: the more there are, the more
                // changes are counted at once.
                tokio::time::sleep(COUNTING * u32::try_from(now.total).unwrap_or(u32::MAX)).await;
                Ok::<_, watch::error::RecvError>(())
            });
            if !matches!(changed.await, Ok(Ok(()))) {
                return match now.total {
                    0 => WaitOutcome::NoNodes,
                    total => WaitOutcome::TimedOut { serving: now.serving, total },
                };
            }
        }
    }

    fn one_refusal(&self, gateway: &str, goal: Goal, labels: &Selector) -> Option<(String, Vec<Problem>)> {
        let mut found = None;
        self.each_connected(gateway, labels, |status| {
            if goal.is_refused_by(status)
                && let Some(refusal) = &status.refusal
            {
                found.get_or_insert_with(|| (status.node_id.clone(), refusal.problems.clone()));
            }
        });
        found
    }

    fn each_connected(&self, gateway: &str, labels: &Selector, mut visit: impl FnMut(&NodeStatus)) {
        self.each(gateway, |status| {
            if status.connected && labels.matches(&status.labels) {
                visit(status);
            }
        });
    }

    /// Begins to hear from a node. `serving` is what it says it serves.
    pub fn connect(self: &Arc<Self>, gateway: &str, node: Introduction) -> Session {
        let Introduction { node_id, hostname, labels, version, serving, serving_for, uptime } = node;
        let at = OffsetDateTime::now_utc();
        let since = ago(at, serving_for).unwrap_or(at);
        let reached = serving.map(|(revision, digest)| Reached { revision, digest, at: since });
        let mut status = NodeStatus {
            node_id: node_id.clone(),
            hostname,
            labels,
            version,
            started_at: uptime.and_then(|uptime| ago(at, uptime)),
            connected: true,
            connected_since: at,
            last_seen: at,
            received: reached.clone(),
            compiled: reached.clone(),
            serving: reached,
            targets: None,
            refusal: None,
            resyncs: 0,
            load: None,
            traffic: None,
            has_left: false,
            has_returned: false,
            report: TargetReport::default(),
        };
        let key = (gateway.to_owned(), node_id);
        let mut known = self.known.lock();
        known.forget_old();
        status.has_returned = known.has_left(&key);
        let before = known.here.get(&key);
        if let Some(before) = before {
            // A refusal outlives the connection: the node still keeps that revision out.
            let refusal = before.status.refusal.clone();
            status.refusal = refusal.filter(|refusal| !status.serves(refusal.revision));
            status.resyncs = before.status.resyncs;
        }
        let here = Here::new(status, before);
        let session = here.session;
        known.here.insert(key.clone(), here);
        drop(known);
        self.tell_news();
        Session { nodes: Arc::clone(self), key, session }
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn tell_news(&self) {
        self.tell();
        self.news.notify_one();
    }
}

/// What a node says about itself when it connects.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    pub node_id: String,
    pub hostname: String,
    pub labels: Labels,
    pub version: String,
    pub serving: Option<(u64, Digest)>,
    /// For how long it has served that. Clocks of nodes may be wrong, and spans are not.
    pub serving_for: Duration,
    /// For how long its process has run.
    pub uptime: Option<Duration>,
}

/// One connection of one node; the node is listed as disconnected when it is dropped.
pub struct Session {
    nodes: Arc<Nodes>,
    key: Id,
    session: u64,
}

impl Session {
    /// A heartbeat came from the node, which says this of targets and of itself. What it uses is no news: it is never the
    /// same, and other replicas hear of it with what is.
    pub fn beats(&self, report: TargetReport, load: Option<Load>) {
        let mut is_news = false;
        self.update(|here| {
            here.status.last_seen = OffsetDateTime::now_utc();
            here.status.load = load.or(here.status.load);
            is_news = here.status.report != report;
            if is_news {
                here.status.report = report;
                here.mark();
            }
        });
        if is_news {
            self.nodes.tell_news();
        }
    }

    /// The node has counted these requests. Other replicas hear of it within a second, if they want to know.
    pub fn counted(&self, traffic: Traffic, is_wanted: bool) {
        self.update(|here| {
            here.status.last_seen = OffsetDateTime::now_utc();
            here.status.traffic = Some(traffic);
            if is_wanted {
                here.mark();
            }
        });
    }

    /// The node says that it ends, as it does when it drains.
    pub fn leaves(&self) {
        self.update(|here| here.status.has_left = true);
    }

    /// Something came from the node.
    pub fn heard(&self) {
        self.update(|here| here.status.last_seen = OffsetDateTime::now_utc());
    }

    /// The node came to a stage of a revision.
    pub fn reached(&self, stage: Stage, revision: u64, digest: Digest) {
        let at = OffsetDateTime::now_utc();
        let reached = Some(Reached { revision, digest, at });
        self.change(|status| {
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
    }

    /// Requests on the node go to the targets of this version. Who waits here is told at once; other replicas hear of it
    /// with the next news, or within a second: it happens far more often than anything else.
    pub fn has_targets(&self, version: u64) {
        self.update(|here| {
            here.status.last_seen = OffsetDateTime::now_utc();
            here.status.targets = Some(version);
            here.mark();
        });
        self.nodes.tell();
    }

    /// The node is about to be sent everything, since what it has is not what it should be.
    pub fn resynchronises(&self) {
        COUNTED.resyncs.inc();
        self.change(|status| status.resyncs += 1);
    }

    /// The node keeps a revision out, or cannot be sent it.
    pub fn refused(&self, revision: u64, problems: Problems) {
        COUNTED.refusals.inc();
        let at = OffsetDateTime::now_utc();
        self.change(|status| {
            status.last_seen = at;
            status.refusal = Some(Refusal { revision, problems, at });
        });
    }

    /// A change that others want to know of.
    fn change(&self, change: impl FnOnce(&mut NodeStatus)) {
        self.update(|here| {
            change(&mut here.status);
            here.mark();
        });
        self.nodes.tell_news();
    }

    fn update(&self, update: impl FnOnce(&mut Here)) {
        let mut known = self.nodes.known.lock();
        if let Some(here) = known.here.get_mut(&self.key).filter(|here| here.session == self.session) {
            update(here);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.change(|status| status.connected = false);
    }
}

/// The time that is so long over; nothing if there is none.
fn ago(now: OffsetDateTime, span: Duration) -> Option<OffsetDateTime> {
    now.checked_sub(time::Duration::try_from(span).ok()?)
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
