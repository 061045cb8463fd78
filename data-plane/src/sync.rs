//! The node's side of the stream: from what the control plane publishes to what the cores serve.
//!
//! [`Sync::start`] brings up what the node served last, from disk; [`Sync::run`] follows the control plane.
//! It is the only caller of [`Adopt`], so that there is one writer of what is served.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use model::digest::Digest;
use model::problem::Problems;
use model::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Whatever takes a snapshot into service: the cores, or a test.
pub trait Adopt: Send + std::marker::Sync + 'static {
    /// Returns when every request that starts from now on is served by `snapshot`, or says what in it
    /// cannot be served here and goes on with what was served before.
    fn adopt(&self, snapshot: Arc<Snapshot>) -> impl Future<Output = Result<(), Problems>> + Send;
}

/// Where configuration comes from and where it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://host:port` of the control plane's stream.
    pub control_plane: String,
    /// Holds the node token; read again for every connection, so that a new token needs no restart.
    pub token_file: PathBuf,
    pub gateway: String,
    /// Holds the node's id and what it served last.
    pub data_dir: PathBuf,
}

/// What the node knows about its own configuration, for metrics and readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub connected: bool,
    /// What is served now; nothing before the first configuration.
    pub serving: Option<Served>,
    /// The newest revision that the control plane told of.
    pub head: Option<(u64, Digest)>,
    /// When something last came from the control plane.
    pub last_heard: Option<SystemTime>,
    /// Why there is no connection.
    pub error: Option<String>,
    /// The newest revision that this node refused, until it serves a newer one.
    pub refused: Option<(u64, Problems)>,
    /// Counted since the start of the process.
    pub refusals: u64,
    pub resyncs: u64,
}

/// A revision in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    pub revision: u64,
    pub digest: Digest,
    pub since: SystemTime,
    /// It came from this node's disk, and the control plane has not confirmed that it is still the newest.
    pub from_disk: bool,
}

/// Follows the control plane.
pub struct Sync<A> {
    settings: Settings,
    adopt: A,
    status: watch::Sender<Status>,
}

impl<A: Adopt> Sync<A> {
    /// Brings up what this node served last, if it has anything.
    pub async fn start(settings: Settings, adopt: A) -> Result<Self, StartError> {
        Ok(Self { settings, adopt, status: watch::Sender::new(Status::default()) })
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Follows the control plane until `shutdown`, whatever happens to it.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = (self.settings, self.adopt);
        shutdown.cancelled().await;
    }
}

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the data directory {}: {source}", path.display())]
pub struct StartError {
    pub path: PathBuf,
    pub source: std::io::Error,
}
