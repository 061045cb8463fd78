//! The one swap cell: the snapshot that this node serves.
//!
//! Its only writer is [`crate::cores::Cores`]. Requests do not read it: every core has a
//! copy of its own, so that no request touches a counter that other cores write.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use model::snapshot::Snapshot;

/// The snapshot that this node serves; none until the first was compiled.
#[derive(Clone, Default)]
pub struct Current(Arc<ArcSwapOption<Snapshot>>);

impl Current {
    #[must_use]
    pub fn load(&self) -> Option<Arc<Snapshot>> {
        self.0.load_full()
    }

    pub(crate) fn swap(&self, snapshot: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        self.0.swap(Some(snapshot))
    }
}
