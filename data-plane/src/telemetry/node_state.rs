//! What the node knows of its own condition: which configuration it serves and how fresh that is, and whether it
//! is on its way out. Written by whoever follows `sync` and at shutdown, read by the node port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::resource::Name;
use parking_lot::Mutex;

use crate::discovery::Tally;
use crate::memory::Pressure;
use crate::sync::Status;

/// What the node knows of its own condition.
pub struct NodeState {
    configuration: Mutex<Status>,
    draining: AtomicBool,
    core_failures: AtomicU64,
    memory: Mutex<(Pressure, u64)>,
    discoveries: Mutex<Vec<(Name, Arc<Tally>)>>,
    traffic: Mutex<Option<proto::Traffic>>,
}

impl NodeState {
    pub(super) fn new() -> Self {
        Self {
            configuration: Mutex::default(),
            draining: AtomicBool::new(false),
            core_failures: AtomicU64::new(0),
            memory: Mutex::default(),
            discoveries: Mutex::default(),
            traffic: Mutex::default(),
        }
    }

    /// The stream of configuration has come to this.
    pub fn follows(&self, status: Status) {
        *self.configuration.lock() = status;
    }

    /// The node takes no further requests: it is not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// These services find targets by themselves.
    pub fn discovers(&self, discoveries: Vec<(Name, Arc<Tally>)>) {
        *self.discoveries.lock() = discoveries;
    }

    #[must_use]
    pub fn discoveries(&self) -> Vec<(Name, Arc<Tally>)> {
        self.discoveries.lock().clone()
    }

    /// The cores have counted these requests.
    pub fn has_counted(&self, traffic: proto::Traffic) {
        *self.traffic.lock() = Some(traffic);
    }

    #[must_use]
    pub fn traffic(&self) -> Option<proto::Traffic> {
        self.traffic.lock().clone()
    }

    /// How far the memory of the process is used up, and its budget in bytes.
    pub fn has_memory(&self, pressure: Pressure, budget: u64) {
        *self.memory.lock() = (pressure, budget);
    }

    #[must_use]
    pub fn memory(&self) -> (Pressure, u64) {
        *self.memory.lock()
    }

    /// A core has ended by a panic.
    pub fn core_failed(&self) {
        self.core_failures.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn core_failures(&self) -> u64 {
        self.core_failures.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn configuration(&self) -> Status {
        self.configuration.lock().clone()
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
