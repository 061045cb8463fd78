//! The only writer. Checks a change with the node's own compiler, stores it as the next revision, and tells
//! whoever watches.
//!
//! The head of every gateway is in memory, compiled; reading it never waits. Nothing here walks over a
//! configuration when a revision is made or followed: the cost is that of the change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use model::config::{Changed, Edit};
use model::digest::Digest;
use model::problem::Problems;
use model::resource::{Document, Key, Kind};
use model::snapshot::Snapshot;
use parking_lot::RwLock;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::COUNTED;
use crate::rollout::Rollout;
use crate::rollout::strategy::OnChange;
use crate::store::{DEFAULT_GATEWAY, RevisionRecord, Store, StoreError};

pub mod history;
mod line;
mod offer;
mod recent;

use history::follows;
use line::Line;
pub use offer::{Offer, Staged, Staging};

/// How often the head is looked at, because the announcement of another replica can be lost.
const POLL: Duration = Duration::from_secs(1);
/// Revisions read at once while walking back for a rollback.
const PAGE: u32 = 256;

/// See the head of this file.
pub struct Publisher {
    store: Arc<dyn Store>,
    gateways: RwLock<BTreeMap<String, Arc<Line>>>,
}

/// What somebody wants to have changed.
#[derive(Clone)]
pub struct Change {
    pub author: String,
    pub message: String,
    /// The revision that the author looked at; when the head is another, the change is refused.
    pub base: Option<u64>,
    /// Derives the edits from the head that they will apply to. It runs again when another replica moves the
    /// head meanwhile, so conditions on resources belong in here.
    pub edits: Arc<DeriveEdits>,
    /// How it goes out.
    pub staging: Staging,
}

/// Looks at the head and says what to edit.
pub type DeriveEdits = dyn Fn(&Snapshot) -> Result<Vec<Edit>, Refused> + Send + Sync;

/// Why [`Change::edits`] made none.
#[derive(Clone, Debug)]
pub enum Refused {
    /// The resource is not there.
    Missing(Key),
    /// The resource is not in the state that the author asked for; `current` is what it is.
    PreconditionFailed {
        key: Key,
        current: Option<Document>,
    },
    /// It would remove most of what there is, of each kind so many, and its author did not say so.
    MassDelete {
        removed: Vec<(Kind, usize)>,
        total: usize,
    },
    Problems(Problems),
}

/// A change that holds.
#[derive(Clone)]
pub struct Published {
    pub revision: u64,
    pub snapshot: Arc<Snapshot>,
    pub changes: Arc<[Changed]>,
    /// What its author hardly means (see [`model::lint`]).
    pub warnings: Problems,
    /// Nothing was different, so no revision was made; `revision` is the head.
    pub is_new: bool,
    /// It goes out in steps.
    pub is_staged: bool,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, snapshot: _, changes, warnings: _, is_new, is_staged: _ } = self;
        let changed: Vec<&Key> = changes.iter().map(|change| &change.key).collect();
        f.debug_struct("Published")
            .field("revision", revision)
            .field("changed", &changed)
            .field("is_new", is_new)
            .finish_non_exhaustive()
    }
}

/// Why a change was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("there is no gateway `{0}`")]
    UnknownGateway(String),
    #[error("the gateway `{0}` has resources")]
    NotEmpty(String),
    #[error("revision {revision} is being rolled out")]
    RolloutUnderWay { revision: u64, on_change: OnChange },
    #[error("there is no revision {0}")]
    UnknownRevision(u64),
    #[error("revision {revision} is not kept any more; the oldest that is kept is {oldest}")]
    Forgotten { revision: u64, oldest: u64 },
    #[error("the change is based on revision {base}, but the head is revision {head}")]
    Conflict { base: u64, head: u64 },
    #[error("the change does not apply to the head")]
    Refused(Refused),
    #[error("the configuration would not hold; problems: {}", .0.len())]
    Invalid(Problems),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Publisher {
    /// Loads and compiles the head of every gateway. What other replicas publish arrives while
    /// [`Publisher::follow`] runs.
    pub async fn start(store: Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        store.ensure_gateway(DEFAULT_GATEWAY).await?;
        let publisher = Self { store, gateways: RwLock::default() };
        publisher.follow_gateways().await?;
        Ok(Arc::new(publisher))
    }

    /// Makes a gateway, empty and at revision 0; false if it was there.
    pub async fn create(&self, gateway: &str) -> Result<bool, StoreError> {
        if self.gateways.read().contains_key(gateway) {
            return Ok(false);
        }
        self.store.ensure_gateway(gateway).await?;
        self.open(gateway).await?;
        Ok(true)
    }

    /// Removes a gateway that has no resources, with its history. Its nodes serve on what they have.
    pub async fn remove(&self, gateway: &str) -> Result<(), PublishError> {
        if !self.store.remove_empty_gateway(gateway).await? {
            return Err(PublishError::NotEmpty(gateway.to_owned()));
        }
        self.gateways.write().remove(gateway);
        Ok(())
    }

    /// Brings the head up to that of the store, which another replica may have moved.
    pub async fn catch_up(&self, gateway: &str) -> Result<(), StoreError> {
        match self.known(gateway) {
            Some(line) => line.catch_up().await,
            None => Ok(()),
        }
    }

    /// For reading the history; whoever wants to change something calls [`Publisher::publish`].
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The names of all gateways, in order.
    pub fn gateways(&self) -> Vec<String> {
        self.gateways.read().keys().cloned().collect()
    }

    /// The newest revision that this replica knows.
    #[must_use]
    pub fn head(&self, gateway: &str) -> Option<Arc<Snapshot>> {
        Some(self.known(gateway)?.head())
    }

    /// Shows every new head and every step of a rollout; a slow reader sees only the newest.
    #[must_use]
    pub fn watch(&self, gateway: &str) -> Option<watch::Receiver<Offer>> {
        Some(self.known(gateway)?.watch())
    }

    /// The rollouts under way, as far as this replica knows.
    #[must_use]
    pub fn staged(&self) -> Vec<Arc<Staged>> {
        self.gateways.read().values().filter_map(|line| line.staged()).collect()
    }

    /// A rollout is something else by now.
    pub fn follow_rollout(&self, rollout: Rollout) {
        if let Some(line) = self.known(&rollout.gateway) {
            line.follow_rollout(rollout);
        }
    }

    /// The revisions after `after` up to and including `up_to`, oldest first, if they are still in memory.
    /// Every head that [`Publisher::head`] or [`Publisher::watch`] showed can be asked for.
    #[must_use]
    pub fn changes(&self, gateway: &str, after: u64, up_to: u64) -> Option<Vec<Arc<RevisionRecord>>> {
        self.known(gateway)?.changes(after, up_to)
    }

    /// The digest of a revision from which [`Publisher::changes`] can lead on.
    #[must_use]
    pub fn digest_at(&self, gateway: &str, revision: u64) -> Option<Digest> {
        self.known(gateway)?.digest_at(revision)
    }

    /// When a revision ceased to be the newest; later than that for one that is older than what is remembered. Nothing for
    /// the newest.
    #[must_use]
    pub fn superseded_at(&self, gateway: &str, revision: u64) -> Option<OffsetDateTime> {
        self.known(gateway)?.superseded_at(revision)
    }

    /// Makes the change the next revision. When this returns, the store has it on disk.
    pub async fn publish(&self, gateway: &str, change: Change) -> Result<Published, PublishError> {
        let (line, started) = (self.line(gateway)?, Instant::now());
        let published = line.publish(change).await?;
        if published.is_new {
            COUNTED.published.observe(started.elapsed().as_secs_f64());
        }
        Ok(published)
    }

    /// What publishing the change now would do, without doing it.
    pub async fn check(&self, gateway: &str, change: &Change) -> Result<Published, PublishError> {
        self.line(gateway)?.check(change).await
    }

    /// The change that brings back what revision `to` was, to the byte and so to the digest. It is based on
    /// the present head.
    pub async fn rollback(
        &self,
        gateway: &str,
        to: u64,
        author: String,
        message: String,
    ) -> Result<Change, PublishError> {
        let (head, edits) = self.edits_back(gateway, to).await?;
        let base = Some(head.revision);
        Ok(Change { author, message, base, edits: Arc::new(move |_| Ok(edits.clone())), staging: Staging::Default })
    }

    /// What a gateway was at a revision. This walks back from the head.
    pub async fn at(&self, gateway: &str, revision: u64) -> Result<Arc<Snapshot>, PublishError> {
        let (head, edits) = self.edits_back(gateway, revision).await?;
        let applied = line::blocking(move || head.apply(revision, edits)).await;
        applied.map(|(snapshot, _)| Arc::new(snapshot)).map_err(PublishError::Invalid)
    }

    /// The head, and the edits that turn it into what revision `to` was.
    async fn edits_back(&self, gateway: &str, to: u64) -> Result<(Arc<Snapshot>, Vec<Edit>), PublishError> {
        let line = self.line(gateway)?;
        line.catch_up().await?;
        let head = line.head();
        if to > head.revision {
            return Err(PublishError::UnknownRevision(to));
        }
        // The first revision after `to` that touched a resource knows what it was at `to`.
        let mut then: BTreeMap<Key, Option<Document>> = BTreeMap::new();
        let mut at = to;
        while at < head.revision {
            let records = self.store.changes_since(gateway, at, PAGE).await?;
            follows(records.first(), at, to)?;
            for record in records.iter().take_while(|record| record.revision.number <= head.revision) {
                for change in &*record.changes {
                    then.entry(change.key.clone()).or_insert_with(|| change.before.clone());
                }
            }
            at = records.last().map_or(at, |last| last.revision.number);
        }
        let edit = |(key, document)| match document {
            Some(document) => Edit::Restore { key, document },
            None => Edit::Remove { key },
        };
        Ok((head, then.into_iter().map(edit).collect()))
    }

    /// Keeps the heads up with what other replicas publish, until `shutdown`. Also after the database was
    /// away, and after it came back with an older state.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut announcements = self.store.announcements();
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reachable = true;
        loop {
            let followed = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(hint) = announcements.next() => self.follow_hint(&hint.gateway, hint.number).await,
                _ = poll.tick() => self.follow_all().await,
            };
            match &followed {
                Ok(()) if !reachable => tracing::info!("revisions of other replicas arrive again"),
                Err(error) if reachable => {
                    tracing::error!("cannot follow the revisions of other replicas, will keep trying: {error}");
                }
                _ => {}
            }
            reachable = followed.is_ok();
        }
    }

    async fn follow_hint(&self, gateway: &str, revision: u64) -> Result<(), StoreError> {
        match self.known(gateway) {
            Some(line) if line.head().revision < revision => line.catch_up().await,
            _ => Ok(()),
        }
    }

    async fn follow_all(&self) -> Result<(), StoreError> {
        self.follow_gateways().await?;
        let lines: Vec<_> = self.gateways.read().values().cloned().collect();
        for line in lines {
            match line.catch_up().await {
                // Removed a moment ago: the next round knows.
                Err(StoreError::UnknownGateway(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Takes up the gateways that other replicas made, and drops those that they removed.
    async fn follow_gateways(&self) -> Result<(), StoreError> {
        let known = self.gateways();
        let stored = self.store.gateways().await?;
        for name in stored.iter().filter(|name| !known.contains(name)) {
            self.open(name).await?;
        }
        for name in known.iter().filter(|name| !stored.contains(name)) {
            self.gateways.write().remove(name);
        }
        Ok(())
    }

    /// Whoever is first: there must be one line for each gateway, because it is what orders the writes.
    async fn open(&self, gateway: &str) -> Result<(), StoreError> {
        let line = Arc::new(Line::load(gateway, self.store.clone()).await?);
        self.gateways.write().entry(gateway.to_owned()).or_insert(line);
        Ok(())
    }

    fn known(&self, gateway: &str) -> Option<Arc<Line>> {
        self.gateways.read().get(gateway).cloned()
    }

    fn line(&self, gateway: &str) -> Result<Arc<Line>, PublishError> {
        self.known(gateway).ok_or_else(|| PublishError::UnknownGateway(gateway.to_owned()))
    }
}
