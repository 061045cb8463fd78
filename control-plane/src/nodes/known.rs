//! The nodes that this replica hears itself, those that other replicas hear, and which of the two counts.

use std::collections::HashMap;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::status::NodeStatus;
use crate::store::{SharedNode, SharedNodes};

/// How long a node is listed after its last connection ended.
const KEPT: time::Duration = time::Duration::hours(1);
/// How many nodes without a connection are listed at most, over all gateways.
pub(super) const MAX_DISCONNECTED: usize = 1_000;

/// A gateway and the id of a node of it.
pub(super) type Id = (String, String);

/// All nodes of all gateways.
#[derive(Default)]
pub(super) struct Known {
    pub(super) here: HashMap<Id, Here>,
    elsewhere: HashMap<Id, Elsewhere>,
}

/// A node that is or was connected to this replica.
pub(super) struct Here {
    pub(super) status: NodeStatus,
    /// Which session may write: a node that reconnects before its old connection is known to be dead has two.
    pub(super) session: u64,
    /// Counts what is worth telling the other replicas.
    version: u64,
    /// The version that they were told.
    told: u64,
    /// The session that they were told of.
    told_session: u64,
}

/// A node that another replica told of.
struct Elsewhere {
    replica: String,
    changed_at: OffsetDateTime,
    status: NodeStatus,
    /// When that replica was last known to be there.
    heard_at: Instant,
}

/// What the other replicas have not been told of a node.
pub(super) struct Untold {
    pub(super) id: Id,
    pub(super) status: NodeStatus,
    pub(super) has_come: bool,
    version: u64,
    session: u64,
}

impl Here {
    /// `before` is what is known of the node from its last session.
    pub(super) fn new(status: NodeStatus, before: Option<&Self>) -> Self {
        let (session, version) = before.map_or((1, 1), |before| (before.session + 1, before.version + 1));
        Self { status, session, version, told: 0, told_session: 0 }
    }

    pub(super) fn mark(&mut self) {
        self.version += 1;
    }

    /// The other replicas do not know yet that it has come here.
    fn has_come(&self) -> bool {
        self.status.connected && self.told_session < self.session
    }

    /// Whether what this replica hears counts, and not what another one told.
    fn counts(&self, elsewhere: Option<&Elsewhere>) -> bool {
        match elsewhere {
            Some(elsewhere) if elsewhere.status.connected => self.has_come(),
            Some(_) => self.status.connected,
            None => true,
        }
    }
}

impl Known {
    /// Whether a node, which is about to connect, has ended in good order the last time.
    pub fn has_left(&self, id: &Id) -> bool {
        let here = self.here.get(id).map(|here| &here.status);
        let elsewhere = self.elsewhere.get(id).map(|elsewhere| &elsewhere.status);
        here.into_iter().chain(elsewhere).max_by_key(|status| status.last_seen).is_some_and(|status| status.has_left)
    }

    /// Every node of a gateway once, by what counts.
    pub(super) fn of_gateway(&self, gateway: &str) -> impl Iterator<Item = &NodeStatus> {
        let here = self.here.iter().filter(move |((of, _), _)| of == gateway);
        let here = here.filter(|(id, here)| here.counts(self.elsewhere.get(*id)));
        let elsewhere = self.elsewhere.iter().filter(move |((of, _), _)| of == gateway);
        let elsewhere =
            elsewhere.filter(|(id, elsewhere)| self.here.get(*id).is_none_or(|here| !here.counts(Some(elsewhere))));
        here.map(|(_, here)| &here.status).chain(elsewhere.map(|(_, elsewhere)| &elsewhere.status))
    }

    /// Up to `limit` nodes that the other replicas know too little of.
    pub(super) fn untold(&self, limit: usize) -> Vec<Untold> {
        let untold = self.here.iter().filter(|(_, here)| here.told != here.version);
        let untold = untold.map(|(id, here)| Untold {
            id: id.clone(),
            status: here.status.clone(),
            has_come: here.has_come(),
            version: here.version,
            session: here.session,
        });
        untold.take(limit).collect()
    }

    /// The other replicas can know this now.
    pub(super) fn told(&mut self, told: &[Untold]) {
        for Untold { id, has_come, version, session, .. } in told {
            if let Some(here) = self.here.get_mut(id) {
                here.told = here.told.max(*version);
                here.told_session = here.told_session.max(*session);
            }
            if *has_come {
                self.elsewhere.remove(id);
            }
        }
    }

    /// How many connected nodes the store must know as connected to this replica.
    pub(super) fn told_connected(&self) -> u64 {
        let told = self.here.iter().filter(|(id, here)| {
            here.status.connected && here.told == here.version && here.counts(self.elsewhere.get(*id))
        });
        told.count() as u64
    }

    /// All connected nodes are told again.
    pub(super) fn tell_again(&mut self) {
        self.here.values_mut().filter(|here| here.status.connected).for_each(Here::mark);
    }

    /// All nodes count as gone, since this replica is about to stop.
    pub(super) fn leave(&mut self) {
        for here in self.here.values_mut().filter(|here| here.status.connected) {
            here.status.connected = false;
            here.mark();
        }
    }

    /// Takes in what other replicas told, all of it if `is_whole`; whether that makes a difference. In `doubt`
    /// a node is not given up: the store was away, and others could not tell it that they still hear the node.
    pub(super) fn merge(&mut self, nodes: Vec<SharedNode>, is_whole: bool, doubt: bool) -> bool {
        let mut before = std::mem::take(&mut self.elsewhere);
        let mut is_changed = false;
        for node in nodes {
            let id = (node.gateway.clone(), node.node_id.clone());
            let known = before.remove(&id);
            let was_connected = known.as_ref().is_some_and(|known| known.status.connected);
            let is_news =
                known.as_ref().is_none_or(|known| known.changed_at != node.changed_at || known.replica != node.replica);
            let read = if is_news { read(&node) } else { known };
            let Some(mut elsewhere) = read else { continue };
            elsewhere.status.connected = node.connected && (!node.is_silent || (doubt && was_connected));
            elsewhere.status.last_seen = node.last_seen;
            if !node.is_silent {
                elsewhere.heard_at = Instant::now();
            }
            is_changed |= is_news || elsewhere.status.connected != was_connected;
            self.elsewhere.insert(id, elsewhere);
        }
        if is_whole {
            // A database that crashed starts with an empty table, and who was connected is told again soon.
            let count = before.len();
            before.retain(|_, elsewhere| {
                elsewhere.status.connected && (doubt || elsewhere.heard_at.elapsed() < SharedNodes::SILENCE)
            });
            is_changed |= before.len() < count;
        }
        self.elsewhere.extend(before);
        is_changed
    }

    pub(super) fn forget_old(&mut self) {
        let now = OffsetDateTime::now_utc();
        self.here.retain(|_, here| here.status.connected || now - here.status.last_seen < KEPT);
        let gone = self.here.values().map(|here| &here.status).filter(|status| !status.connected);
        let mut gone: Vec<OffsetDateTime> = gone.map(|status| status.last_seen).collect();
        if gone.len() > MAX_DISCONNECTED {
            gone.sort_unstable();
            let oldest_kept = gone[gone.len() - MAX_DISCONNECTED];
            self.here.retain(|_, here| here.status.connected || here.status.last_seen >= oldest_kept);
        }
    }
}

fn read(node: &SharedNode) -> Option<Elsewhere> {
    match serde_json::from_str(&node.status) {
        Ok(status) => {
            let heard_at = Instant::now();
            Some(Elsewhere { replica: node.replica.clone(), changed_at: node.changed_at, status, heard_at })
        }
        // A replica of another version wrote it.
        Err(error) => {
            tracing::debug!(node.id = node.node_id, "cannot read what another replica tells of a node: {error}");
            None
        }
    }
}
