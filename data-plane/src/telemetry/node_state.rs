//! What the node knows of its own condition: which configuration it serves, whether the control plane hears it,
//! whether it is on its way out. Written by `sync` and at shutdown, read by the node port.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use model::digest::Digest;
use parking_lot::Mutex;

/// What the node knows of its own condition.
pub struct NodeState {
    serving: Mutex<Option<Serving>>,
    last_sync: Mutex<Option<Instant>>,
    connected: AtomicBool,
    draining: AtomicBool,
}

/// The configuration that all cores serve.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    pub revision: u64,
    pub digest: Digest,
    pub since: Instant,
}

impl NodeState {
    pub(super) fn new() -> Self {
        Self {
            serving: Mutex::default(),
            last_sync: Mutex::default(),
            connected: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// Every core serves this revision now.
    pub fn serves(&self, revision: u64, digest: Digest) {
        *self.serving.lock() = Some(Serving { revision, digest, since: Instant::now() });
    }

    /// The stream from the control plane is up, or is not.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// The control plane has just confirmed, with a revision or a heartbeat, what this node should serve.
    pub fn synced(&self) {
        *self.last_sync.lock() = Some(Instant::now());
    }

    /// The node takes no further requests: it is not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn serving(&self) -> Option<Serving> {
        *self.serving.lock()
    }

    #[must_use]
    pub fn last_sync(&self) -> Option<Instant> {
        *self.last_sync.lock()
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
