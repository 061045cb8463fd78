//! The cores that serve requests, each a thread with a runtime, listeners and an upstream pool of its own.

use std::sync::Arc;

use model::problem::Problem;
use model::snapshot::Snapshot;

use crate::current::Current;
use crate::settings::Settings;

/// The cores that serve requests.
#[derive(Clone)]
pub struct Cores {
    current: Current,
}

impl Cores {
    /// Starts the threads. Nothing listens before the first snapshot.
    pub fn start(settings: &Settings) -> std::io::Result<Self> {
        let _ = settings;
        Ok(Self { current: Current::default() })
    }

    /// The snapshot that is served.
    #[must_use]
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// Serves `snapshot` from now on: returns when every core does. If an address cannot be listened on,
    /// nothing changes.
    pub async fn adopt(&self, snapshot: Arc<Snapshot>) -> Result<(), Vec<Problem>> {
        self.current.swap(snapshot);
        Ok(())
    }
}
