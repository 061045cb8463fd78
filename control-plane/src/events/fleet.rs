//! What a watcher has told of nodes, and what is different now.

use std::collections::HashMap;
use std::time::Duration;

use model::digest::Digest;
use time::OffsetDateTime;

use super::Event;
use crate::nodes::{NodeStatus, Nodes, Reached};
use crate::publish::Offer;

/// A node that is behind for so long is told of.
const BEHIND_AFTER: Duration = Duration::from_secs(5);
/// Reasons of a refusal that are told.
const MAX_PROBLEMS: usize = 10;

/// What was told of the nodes of a gateway.
#[derive(Default)]
pub(super) struct FleetTold {
    nodes: HashMap<String, NodeTold>,
    /// Counts the looks.
    look: u64,
}

struct NodeTold {
    connected: bool,
    connected_since: OffsetDateTime,
    received: Point,
    compiled: Point,
    serving: Point,
    refusal: Option<(u64, OffsetDateTime)>,
    resyncs: u64,
    is_behind: bool,
    /// The look that last saw it.
    look: u64,
}

type Point = Option<(u64, Digest)>;

impl NodeTold {
    fn new(status: &NodeStatus) -> Self {
        Self {
            connected: status.connected,
            connected_since: status.connected_since,
            received: point(status.received.as_ref()),
            compiled: point(status.compiled.as_ref()),
            serving: point(status.serving.as_ref()),
            refusal: status.refusal.as_ref().map(|refusal| (refusal.revision, refusal.at)),
            resyncs: status.resyncs,
            is_behind: false,
            look: 0,
        }
    }
}

impl FleetTold {
    /// Looks at all nodes of the gateway. The first look only remembers: what there is then is no event.
    pub(super) fn see(
        &mut self,
        nodes: &Nodes,
        gateway: &str,
        offer: &Offer,
        superseded_at: impl Fn(u64) -> Option<OffsetDateTime>,
        mut tell: impl FnMut(Event),
    ) {
        let is_first = self.look == 0;
        self.look += 1;
        let (look, now) = (self.look, OffsetDateTime::now_utc());
        nodes.each(gateway, |status| {
            let before = match self.nodes.remove(&status.node_id) {
                Some(before) => Some(before),
                None if is_first => Some(NodeTold::new(status)),
                None => None,
            };
            let mut told = difference(before, status, &mut tell);
            told.look = look;
            if status.connected {
                let wanted = offer.for_status(status);
                let lag = status.lag(wanted, now, &superseded_at);
                if !told.is_behind && lag >= BEHIND_AFTER {
                    let serves = status.serving.as_ref().map_or(0, |serving| serving.revision);
                    let (node_id, revision) = (status.node_id.clone(), wanted.revision);
                    tell(Event::NodeBehind { node_id, serves, revision, lag_ms: milliseconds(lag) });
                    told.is_behind = true;
                }
                told.is_behind &= !lag.is_zero();
            }
            self.nodes.insert(status.node_id.clone(), told);
        });
        self.nodes.retain(|node_id, told| {
            if told.look != look && told.connected {
                tell(Event::NodeLeft { node_id: node_id.clone() });
            }
            told.look == look
        });
    }
}

/// Tells what is different of a node, and what has been told then.
fn difference(before: Option<NodeTold>, status: &NodeStatus, tell: &mut impl FnMut(Event)) -> NodeTold {
    let node_id = || status.node_id.clone();
    let was_connected = before.as_ref().is_some_and(|before| before.connected);
    let is_same = before.as_ref().is_some_and(|before| before.connected_since == status.connected_since);
    if was_connected && !(status.connected && is_same) {
        tell(Event::NodeLeft { node_id: node_id() });
    }
    let now = NodeTold::new(status);
    let has_joined = status.connected && !(was_connected && is_same);
    if has_joined {
        let (hostname, version) = (status.hostname.clone(), status.version.clone());
        let revision = now.serving.map_or(0, |(revision, _)| revision);
        tell(Event::NodeJoined { node_id: node_id(), hostname, version, revision });
    }
    // What a node that has just come had before is no news.
    let Some(before) = before.filter(|_| !has_joined) else { return now };
    if let Some((revision, _)) = now.received.filter(|_| now.received != before.received) {
        tell(Event::NodeReceived { node_id: node_id(), revision });
    }
    if let Some((revision, _)) = now.compiled.filter(|_| now.compiled != before.compiled) {
        tell(Event::NodeCompiled { node_id: node_id(), revision });
    }
    if let Some((revision, digest)) = now.serving.filter(|_| now.serving != before.serving) {
        tell(Event::NodeServing { node_id: node_id(), revision, digest: digest.to_string() });
    }
    if let Some(refusal) = status.refusal.as_ref().filter(|_| now.refusal != before.refusal) {
        let problems = refusal.problems.iter().take(MAX_PROBLEMS).cloned().collect();
        tell(Event::NodeRefused { node_id: node_id(), revision: refusal.revision, problems });
    }
    if now.resyncs > before.resyncs {
        tell(Event::NodeResynchronised { node_id: node_id(), resyncs: now.resyncs });
    }
    NodeTold { is_behind: before.is_behind, ..now }
}

fn point(reached: Option<&Reached>) -> Point {
    reached.map(|reached| (reached.revision, reached.digest))
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
