//! The lane of targets: from the stream to the cores and to the disk, beside revisions and without waiting for them.

use std::sync::Arc;
use std::time::Duration;

use model::membership::{Change, Membership};
use model::resource::Name;
use model::wire::target_change_from_wire;
use proto::node_message::Message as FromNode;
use proto::{NodeMessage, TargetsAck};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Adopt;
use super::lost::Lost;
use crate::last_good::targets::LastTargets;

/// Two hand-overs to the cores are at least so far apart: what changes meanwhile goes together.
const PAUSE: Duration = Duration::from_millis(20);
/// How many changes one batch may have.
const MAX_CHANGES: usize = 1_000_000;

/// What this node knows of the lane.
pub struct Lane {
    membership: Membership,
    disk: LastTargets,
    /// A batch of which not everything has arrived.
    arriving: Vec<proto::TargetChange>,
    /// A hand-over that is under way, and the version that it leads to.
    work: Option<(u64, JoinHandle<()>)>,
    handed_over: Option<Instant>,
}

impl Lane {
    /// Goes on with what the disk holds.
    pub fn start(disk: LastTargets, known: Membership, adopt: &impl Adopt) -> Self {
        let touched = known.services().map(|(name, _)| name.clone()).collect();
        // Nothing is served yet: the first snapshot has it.
        drop(adopt.retarget(known.clone(), touched));
        Self { membership: known, disk, arriving: Vec::new(), work: None, handed_over: None }
    }

    /// Of what is known.
    pub fn version(&self) -> u64 {
        self.membership.version()
    }

    /// What was half said on the connection before will be said again.
    pub fn begin(&mut self) {
        self.arriving.clear();
    }

    pub fn hear(&mut self, message: proto::Targets, adopt: &Arc<impl Adopt>) -> Result<(), Lost> {
        let proto::Targets { version, whole, more, changes } = message;
        if self.arriving.len() + changes.len() > MAX_CHANGES {
            return Err(Lost::Protocol("a batch of targets that is too large"));
        }
        self.arriving.extend(changes);
        if more {
            return Ok(());
        }
        let changes: Vec<Change> = std::mem::take(&mut self.arriving).iter().filter_map(read).collect();
        let mut touched: Vec<Name> = changes.iter().map(|change| change.service.clone()).collect();
        if whole {
            touched.extend(self.membership.services().map(|(name, _)| name.clone()));
            self.membership = Membership::whole(version, changes);
        } else {
            self.membership.apply(version, changes);
        }
        let handing_over = adopt.retarget(self.membership.clone(), touched);
        let begin_at = self.handed_over.map_or_else(Instant::now, |at| at + PAUSE);
        let before = self.work.take();
        let work = async move {
            if let Some((_, before)) = before {
                let _ = before.await;
            }
            sleep_until(begin_at).await;
            handing_over.await;
        };
        self.work = Some((version, tokio::spawn(work)));
        Ok(())
    }

    /// Waits until a batch is served, forever when there is none, and says so. Cancelling this loses nothing.
    pub async fn served(&mut self) -> NodeMessage {
        let Some((version, work)) = &mut self.work else { return std::future::pending().await };
        let version = *version;
        if let Err(error) = work.await {
            tracing::error!("handing targets over crashed: {error}");
        }
        self.work = None;
        self.handed_over = Some(Instant::now());
        self.disk.keep(self.membership.clone());
        NodeMessage { message: Some(FromNode::TargetsAck(TargetsAck { version })) }
    }

    /// Returns when everything is on disk, or cannot be written.
    pub fn close(self) {
        self.disk.keep(self.membership.clone());
        self.disk.close();
    }
}

/// What a newer control plane says beyond this version concerns one target, and keeps nothing else out.
fn read(change: &proto::TargetChange) -> Option<Change> {
    let read = target_change_from_wire(change);
    if let Err(reason) = &read {
        let (service, target) = (&change.service, &change.target);
        tracing::warn!(
            service.name = service,
            target.address = target,
            "this node cannot read what is said of a target: {reason}"
        );
    }
    read.ok()
}
