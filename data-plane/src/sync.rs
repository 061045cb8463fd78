//! The node's side of the stream: from what the control plane publishes to what the cores serve.
//!
//! [`Sync::start`] brings up what the node served last, from disk; [`Sync::run`] follows the control plane.
//! It is the only caller of [`Adopt`], so that there is one writer of what is served. One revision is in work
//! at a time; what is served changes only when all of it was taken.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::digest::Digest;
use model::membership::Membership;
use model::problem::Problems;
use model::resource::Name;
use model::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::last_good::cookie_key::LastCookieKey;
use crate::last_good::targets::LastTargets;
use crate::last_good::{LastGood, Position, Record};
pub use crate::listener::tickets::Secret as TicketSecret;
use crate::settings::{ControlPlane, Proof, Settings};
use crate::trust::{self, Approver, Trust};

mod backoff;
pub(crate) mod build;
mod conversation;
mod identity;
mod load;
pub(crate) mod lost;
mod targets;
mod work;

pub use backoff::Backoff;
pub(crate) use conversation::to_wire;
use identity::Identity;
use lost::Lost;
use targets::Lane;
use work::Work;

/// Whatever takes a snapshot into service: the cores, or a test.
pub trait Adopt: Send + std::marker::Sync + 'static {
    /// Returns when every request that starts from now on is served by `snapshot`, or says what in it
    /// cannot be served here and goes on with what was served before.
    fn adopt(&self, snapshot: Arc<Snapshot>) -> impl Future<Output = Result<(), Problems>> + Send;

    /// Takes all that is said about targets beside the configuration; `touched` are the services for which it is
    /// something else than before. Snapshots that are adopted from now on have it, at once and without the future. The one
    /// that is served has it when the future is ready.
    fn retarget(&self, membership: Membership, touched: Vec<Name>) -> impl Future<Output = ()> + Send + 'static;

    /// Seals session tickets with the first of these keys from now on, and opens those of all of them.
    fn use_ticket_keys(&self, secrets: &[TicketSecret]);

    /// Makes and knows sticky cookies by this key from now on.
    fn use_cookie_key(&self, secret: &TicketSecret);

    /// What is to be told of targets to the control plane.
    fn targets(&self) -> proto::NodeHeartbeat {
        proto::NodeHeartbeat::default()
    }

    /// What was counted of requests, if anything was.
    fn traffic(&self) -> Option<proto::Traffic> {
        None
    }
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
    pub last_heard: Option<Instant>,
    /// Why there is no connection.
    pub error: Option<String>,
    /// The newest revision that this node refused, until it serves a newer one.
    pub refused: Option<(u64, Problems)>,
    /// Counted since the start of the process.
    pub refusals: u64,
    /// How often what was held and what was sent did not make what was announced. Counted since the start.
    pub resyncs: u64,
}

/// A revision in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    pub revision: u64,
    pub digest: Digest,
    pub since: Instant,
    /// It came from this node's disk, and the control plane has not confirmed that it is still the newest.
    pub from_disk: bool,
}

/// The pace of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often the node says that it is alive.
    pub heartbeat: Duration,
    /// How long the control plane may be silent before the node connects anew; also the limit for connecting.
    pub silence: Duration,
    /// The first and the longest wait between two attempts to connect.
    pub retry: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            retry: (Duration::from_millis(50), Duration::from_secs(5)),
        }
    }
}

/// Why following cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory {}", path.display())]
    DataDirectory { path: PathBuf, source: io::Error },
    #[error("`{url}` is no URL of a control plane, such as http://127.0.0.1:8082: {reason}")]
    ControlPlane { url: String, reason: String },
    #[error("no gateway can be called so: {0}")]
    Gateway(String),
}

/// Follows the control plane.
pub struct Sync<A> {
    adopt: Arc<A>,
    identity: Identity,
    source: Option<Source>,
    timing: Timing,
    last_good: LastGood,
    lane: Lane,
    cookie_key: LastCookieKey,
    status: watch::Sender<Status>,
    held: Option<Arc<Snapshot>>,
    /// What was served last, while only the machine keeps it out.
    kept_out: Option<Arc<Snapshot>>,
    work: Option<Work>,
    /// The newest revision as it came, while it may still be taken: it is under way, or only the machine keeps it out.
    pending: Option<Record>,
    /// Who must have signed revisions; nobody over plain text.
    approver: Option<Approver>,
    /// `work` is about a revision that was refused before.
    is_retrying: bool,
}

/// Where configuration comes from.
struct Source {
    url: String,
    endpoint: Endpoint,
    way: Way,
}

/// How the node proves who it is.
enum Way {
    SharedToken(PathBuf),
    Certificate(Box<Trust>),
}

impl<A: Adopt> Sync<A> {
    /// Takes the data directory and brings up what this node served last, if it has anything.
    pub async fn start(settings: &Settings, adopt: A) -> Result<Self, StartError> {
        let gateway: Name = settings.gateway.parse().map_err(StartError::Gateway)?;
        let endpoint = settings.control_plane.as_ref().map(endpoint).transpose()?;
        let (data_dir, node_id, labels) =
            (settings.data_dir.clone(), settings.node_id.clone(), settings.labels.clone());
        let (control_plane, node_key_file) = (settings.control_plane.clone(), settings.node_key_file.clone());
        let directory = data_dir.join("last-good").join(gateway.as_str());
        let opened = tokio::task::spawn_blocking(move || {
            let sealing = Arc::new(trust::sealing_key(&data_dir, node_key_file.as_deref())?);
            let identity = Identity::load(&data_dir, node_id, &gateway, labels)?;
            let source = control_plane.zip(endpoint).map(|(from, endpoint)| {
                let way = match from.proof {
                    Proof::SharedToken(file) => Way::SharedToken(file),
                    Proof::Certificate { join_token } => {
                        let files = trust::Files::open(&data_dir, node_key_file.as_deref())?;
                        Way::Certificate(Box::new(Trust::open(files, join_token, identity.name())?))
                    }
                };
                Ok::<_, io::Error>(Source { url: from.url, endpoint, way })
            });
            let source = source.transpose()?;
            let (last_good, found) = LastGood::open(&directory, sealing.clone())?;
            let (last_targets, membership) = LastTargets::open(&directory, sealing.clone())?;
            let (cookie_key, secret) = LastCookieKey::open(&directory, sealing)?;
            Ok((identity, source, (last_good, found), (last_targets, membership), (cookie_key, secret)))
        });
        let opened = opened.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let (identity, source, (last_good, found), (last_targets, membership), (cookie_key, secret)) =
            opened.map_err(|source| StartError::DataDirectory { path: settings.data_dir.clone(), source })?;
        if let Some(secret) = secret {
            adopt.use_cookie_key(&secret);
        }
        let mut sync = Self {
            cookie_key,
            lane: Lane::start(last_targets, membership, &adopt),
            adopt: Arc::new(adopt),
            identity,
            source,
            timing: Timing::default(),
            last_good,
            status: watch::Sender::new(Status::default()),
            held: None,
            kept_out: found,
            work: None,
            pending: None,
            approver: None,
            is_retrying: false,
        };
        if let Err(problems) = sync.bring_up().await {
            tracing::error!("the configuration that was served last cannot be served: {}", build::summary(&problems));
        }
        Ok(sync)
    }

    /// With another pace.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Follows the control plane until `shutdown`, whatever happens to it. What is being taken into service at
    /// that moment still gets there, and to the disk.
    pub async fn run(mut self, shutdown: CancellationToken) {
        match self.source.take() {
            Some(source) => {
                let fresh = async {
                    if let Way::Certificate(trust) = &source.way {
                        trust.keep_fresh(&source.endpoint, &shutdown).await;
                    }
                };
                tokio::join!(self.follow(&source, &shutdown), fresh);
            }
            None => self.wait(&shutdown).await,
        }
        let Self { last_good, lane, .. } = self;
        let closed = tokio::task::spawn_blocking(move || {
            lane.close();
            last_good.close();
        });
        if let Err(error) = closed.await {
            tracing::error!("the last good configuration may not be on disk: {error}");
        }
    }

    /// Without a control plane nothing changes any more, but for what the machine keeps out.
    async fn wait(&mut self, shutdown: &CancellationToken) {
        while self.kept_out.is_some() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.timing.heartbeat) => self.bring_up_again().await,
            }
        }
        shutdown.cancelled().await;
    }

    async fn follow(&mut self, source: &Source, shutdown: &CancellationToken) {
        let mut backoff = Backoff::new(self.timing.retry);
        let mut told: Option<String> = None;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let ended = self.converse(source, shutdown).await;
            // A change of what is served is never left half done.
            if let Some(work) = self.work.take() {
                let outcome = work.outcome().await;
                self.settle(outcome, None);
                self.is_retrying = false;
            }
            let Err(lost) = ended else { break };
            if self.status.borrow().connected && began.elapsed() > self.timing.retry.1 {
                backoff.reset();
            }
            let error = format!("no configuration from {}: {lost}", source.url);
            if told.as_ref() != Some(&error) || self.status.borrow().connected {
                self.complain(&lost, &error);
            }
            self.status.send_modify(|status| {
                status.connected = false;
                status.error = Some(lost.to_string());
            });
            told = Some(error);
            let pause = if lost.is_lasting() { backoff.longest() } else { backoff.pause() };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => self.bring_up_again().await,
            }
        }
    }

    fn complain(&self, lost: &Lost, error: &str) {
        let goes_on = match &self.held {
            Some(held) => format!("serving revision {} and trying again", held.revision),
            None => "nothing to serve yet; trying again".to_owned(),
        };
        if lost.is_lasting() {
            tracing::error!("{error}; {goes_on}");
        } else {
            tracing::warn!("{error}; {goes_on}");
        }
    }

    /// Serves what was served last, unless something newer is.
    async fn bring_up(&mut self) -> Result<(), Problems> {
        let Some(snapshot) = self.kept_out.take().filter(|_| self.held.is_none()) else { return Ok(()) };
        let Position { revision, digest } = Position::of(&snapshot);
        if let Err(problems) = self.adopt.adopt(Arc::clone(&snapshot)).await {
            self.kept_out = problems.iter().all(conversation::may_pass).then_some(snapshot);
            return Err(problems);
        }
        tracing::info!(revision, "the configuration that was served last is served again, from disk");
        self.held = Some(snapshot);
        let served = Served { revision, digest, since: Instant::now(), from_disk: true };
        self.status.send_modify(|status| status.serving = Some(served));
        Ok(())
    }

    /// That it cannot be served yet was said at the start.
    async fn bring_up_again(&mut self) {
        let _ = self.bring_up().await;
    }
}

/// Where the control plane is, if what it says fits together.
fn endpoint(from: &ControlPlane) -> Result<Endpoint, StartError> {
    let wrong = |reason: String| StartError::ControlPlane { url: from.url.clone(), reason };
    let endpoint = Endpoint::from_shared(from.url.clone()).map_err(|error| wrong(error.to_string()))?;
    match (endpoint.uri().scheme_str(), &from.proof) {
        (Some("http"), Proof::SharedToken(_)) | (Some("https"), Proof::Certificate { .. }) => Ok(endpoint),
        (Some("http"), _) => Err(wrong("nodes join over TLS, and then the URL is https".to_owned())),
        (Some("https"), _) => Err(wrong(
            "a shared token is for plain text on loopback; over https, nodes join with a join token".to_owned(),
        )),
        _ => Err(wrong("the scheme must be https, or http on loopback".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_followed_is_told_at_the_start() {
        let shared = || Proof::SharedToken(PathBuf::from("node-token"));
        let certificate = || Proof::Certificate { join_token: None };
        let source = |url: &str, proof| endpoint(&ControlPlane { url: url.to_owned(), proof });
        for (url, proof) in [("http://127.0.0.1:8082", shared()), ("https://control.example:443", certificate())] {
            source(url, proof).expect("it can be followed");
        }
        for (url, proof) in [
            ("127.0.0.1:8082", shared()),
            ("ftp://127.0.0.1", shared()),
            ("", certificate()),
            ("http://", shared()),
            ("http://127.0.0.1:8082", certificate()),
            ("https://control.example:443", shared()),
        ] {
            let error = source(url, proof).err().unwrap_or_else(|| panic!("{url}")).to_string();
            assert!(error.contains(&format!("`{url}`")) && error.contains("http://127.0.0.1:8082"), "{error}");
        }
    }
}
