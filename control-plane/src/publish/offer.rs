//! What nodes are offered: the head, or while a rollout is under way the revision before for those that it has not reached.
//! Both are one value, so that nobody sees a new head without the rollout that holds it back.

use std::sync::Arc;

use model::resource::Labels;
use model::snapshot::Snapshot;

use crate::nodes::NodeStatus;
use crate::rollout::strategy::Strategy;
use crate::rollout::{Rollout, position};

/// See the head of this file.
#[derive(Clone)]
pub struct Offer {
    pub head: Arc<Snapshot>,
    pub staged: Option<Arc<Staged>>,
}

/// A rollout of the head.
pub struct Staged {
    pub rollout: Rollout,
    /// What nodes serve that it has not reached.
    pub base: Arc<Snapshot>,
}

/// How a change goes out.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Staging {
    /// As the gateway says.
    #[default]
    Default,
    /// In these steps.
    With(Strategy),
    /// To all nodes at once, past a rollout that is under way. That is kept with the revision.
    Skip,
    /// The same, for a rollout that goes back: it says so itself.
    Back,
}

impl Offer {
    pub(super) fn of(head: Arc<Snapshot>) -> Self {
        Self { head, staged: None }
    }

    /// What a node is to serve, by what it says of itself.
    #[must_use]
    pub fn for_status(&self, node: &NodeStatus) -> &Arc<Snapshot> {
        match &self.staged {
            Some(_) => self.for_node(position(&node.node_id), &node.labels),
            None => &self.head,
        }
    }

    /// What a node is to serve.
    #[must_use]
    pub fn for_node(&self, position: u32, labels: &Labels) -> &Arc<Snapshot> {
        match &self.staged {
            Some(staged) if !staged.rollout.has_reached(position, labels) => &staged.base,
            _ => &self.head,
        }
    }
}

impl Staged {
    /// The rollout of `head`, if there is one among `rollouts` that is not over; `base` is what was before.
    pub(super) fn find(rollouts: &[Rollout], head: &Snapshot, base: &Arc<Snapshot>) -> Option<Arc<Self>> {
        let rollout = rollouts.iter().find(|rollout| rollout.revision == head.revision && rollout.state.is_open())?;
        Some(Arc::new(Self { rollout: rollout.clone(), base: Arc::clone(base) }))
    }
}
