//! One gateway: its head in memory, the one place where that moves, and how it keeps up with the store.

use std::sync::Arc;
use std::time::Duration;

use model::config::{Changed, Edit};
use model::digest::Digest;
use model::lint::lint;
use model::snapshot::Snapshot;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::recent::Recent;
use super::{Change, Offer, PublishError, Published, Staged, Staging};
use crate::rollout::Rollout;
use crate::rollout::strategy::Strategy;
use crate::store::{Head, Loaded, ResourceChange, Revision, RevisionRecord, Store, StoreError};

/// How often a change without a base is tried against a head that other replicas move.
const ATTEMPTS: u32 = 64;
/// Revisions read at once while catching up. Who is further behind than a few of these loads everything.
const PAGE: u32 = 256;
const MAX_PAGES: u64 = 4;
/// Changes to resources that are read back at start, so that nodes can resume with a delta.
const RESUMABLE_CHANGES: u64 = 5_000;

pub(super) struct Line {
    gateway: String,
    store: Arc<dyn Store>,
    /// Held by whoever may move the head.
    moving: tokio::sync::Mutex<()>,
    offer: watch::Sender<Offer>,
    recent: Mutex<Recent>,
}

impl Line {
    pub(super) async fn load(gateway: &str, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let loaded = store.load(gateway).await?;
        let head = loaded.head;
        let snapshot = compile_loaded(gateway, loaded).await?;
        let recent = Mutex::new(read_recent(gateway, &*store, head).await?);
        let offer = watch::Sender::new(offer_of(gateway, &*store, snapshot).await?);
        Ok(Self { gateway: gateway.to_owned(), store, moving: tokio::sync::Mutex::default(), offer, recent })
    }

    pub(super) fn head(&self) -> Arc<Snapshot> {
        self.offer.borrow().head.clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Offer> {
        self.offer.subscribe()
    }

    pub(super) fn staged(&self) -> Option<Arc<Staged>> {
        self.offer.borrow().staged.clone()
    }

    /// Takes a newer state of the rollout of the head. One that ended stays so.
    pub(super) fn follow_rollout(&self, rollout: Rollout) {
        self.offer.send_if_modified(|offer| {
            let Some(staged) = &offer.staged else { return false };
            let known = &staged.rollout;
            if known.revision != rollout.revision || known.version >= rollout.version {
                return false;
            }
            let is_news = known.cohorts != rollout.cohorts || known.state.is_open() != rollout.state.is_open();
            let base = Arc::clone(&staged.base);
            offer.staged = rollout.state.is_open().then(|| Arc::new(Staged { rollout, base }));
            is_news
        });
    }

    pub(super) fn changes(&self, after: u64, up_to: u64) -> Option<Vec<Arc<RevisionRecord>>> {
        self.recent.lock().between(after, up_to)
    }

    pub(super) fn digest_at(&self, revision: u64) -> Option<Digest> {
        self.recent.lock().digest_at(revision)
    }

    pub(super) fn superseded_at(&self, revision: u64) -> Option<OffsetDateTime> {
        self.recent.lock().superseded_at(revision)
    }

    pub(super) async fn check(&self, change: &Change) -> Result<Published, PublishError> {
        decide(self.head(), change.clone()).await
    }

    pub(super) async fn publish(&self, change: Change) -> Result<Published, PublishError> {
        let _moving = self.moving.lock().await;
        let mut base = 0;
        for attempt in 0..ATTEMPTS {
            let head = self.head();
            base = head.revision;
            match decide(head, change.clone()).await {
                Ok(next) if next.is_new => {
                    let rollout = self.stage(&change, base).await?;
                    let record = record(&change, base, &next);
                    let row = rollout.as_ref().map(Rollout::to_row);
                    match self.store.append_staged(&self.gateway, &record, row.as_ref()).await {
                        Ok(()) => {
                            self.advance(Arc::new(record), next.snapshot.clone(), rollout.as_slice());
                            let is_staged = rollout.is_some_and(|rollout| rollout.state.is_open());
                            return Ok(Published { is_staged, ..next });
                        }
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // Also "nothing to do" and "refused" say something about the head: only the newest counts.
                other => {
                    if self.is_current().await? {
                        return other;
                    }
                }
            }
            self.catch_up_held().await?;
            if attempt > 2 {
                // Lets the other replica finish, and two of them fall out of step.
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
            }
        }
        Err(PublishError::Conflict { base, head: self.head().revision })
    }

    /// How a revision on `base` goes out, if not to all nodes at once; unless another one is on its way.
    async fn stage(&self, change: &Change, base: u64) -> Result<Option<Rollout>, PublishError> {
        if change.staging == Staging::Back {
            return Ok(None);
        }
        if let Some(staged) = self.staged() {
            // It may have ended a moment ago, by another replica.
            for row in self.store.rollouts_at(&self.gateway, staged.rollout.revision).await? {
                self.follow_rollout(Rollout::from_row(row)?);
            }
        }
        let default = async || -> Result<Option<Strategy>, StoreError> {
            let stored = self.store.rollout_strategy(&self.gateway).await?;
            let unreadable = |error| StoreError::Unreadable(format!("the strategy of rollouts: {error}"));
            stored.map(|stored| serde_json::from_str(&stored).map_err(unreadable)).transpose()
        };
        let under_way = self.staged().map(|staged| staged.rollout.clone());
        let begin = |strategy| Rollout::begin(&self.gateway, base, &change.author, strategy, OffsetDateTime::now_utc());
        match (&change.staging, under_way) {
            (Staging::Skip, under_way) => {
                let strategy = match under_way {
                    Some(rollout) => Some(rollout.strategy),
                    None => default().await?,
                };
                Ok(strategy.map(|strategy| begin(strategy).skipped()))
            }
            (_, Some(Rollout { revision, strategy, .. })) => {
                Err(PublishError::RolloutUnderWay { revision, on_change: strategy.on_change })
            }
            // Nothing was ever served that nodes could go on with.
            _ if base == 0 => Ok(None),
            (Staging::With(strategy), None) => Ok(Some(begin(strategy.clone()))),
            (_, None) => Ok(default().await?.map(begin)),
        }
    }

    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        if self.is_current().await? {
            return Ok(());
        }
        let _moving = self.moving.lock().await;
        self.catch_up_held().await
    }

    async fn is_current(&self) -> Result<bool, StoreError> {
        let stored = self.store.head(&self.gateway).await?;
        Ok(stored == self.recent.lock().newest())
    }

    /// Brings the head up to that of the store; `moving` is held.
    async fn catch_up_held(&self) -> Result<(), StoreError> {
        let stored = self.store.head(&self.gateway).await?;
        let known = self.recent.lock().newest();
        if stored == known {
            return Ok(());
        }
        // After the head: the rollout of a revision is stored with it.
        let rollouts = open_rollouts(&self.gateway, &*self.store).await?;
        let ahead = stored.revision.checked_sub(known.revision);
        if ahead.is_none_or(|steps| steps == 0) {
            tracing::error!(
                gateway = self.gateway,
                "the database went back to revision {} while revision {} was known; was it restored from a backup?",
                stored.revision,
                known.revision,
            );
        } else if ahead.is_some_and(|steps| steps <= MAX_PAGES * u64::from(PAGE)) {
            while self.recent.lock().newest().revision < stored.revision {
                let after = self.recent.lock().newest().revision;
                let records = self.store.changes_since(&self.gateway, after, PAGE).await?;
                if records.is_empty() || !self.replay(records, &rollouts).await {
                    return self.reload().await;
                }
            }
            return Ok(());
        }
        self.reload().await
    }

    /// Applies revisions that others made; false when that does not lead to what they recorded.
    async fn replay(&self, records: Vec<RevisionRecord>, rollouts: &[Rollout]) -> bool {
        for record in records {
            let head = self.head();
            if record.revision.parent != head.revision {
                return false;
            }
            let (number, digest) = (record.revision.number, record.revision.digest);
            let record = Arc::new(record);
            let changes = record.changes.clone();
            let applied = blocking(move || head.apply(number, changes.iter().map(edit_after).collect())).await;
            match applied {
                Ok((snapshot, _)) if snapshot.config.digest() == digest => {
                    self.advance(record, Arc::new(snapshot), rollouts);
                }
                Ok(_) => {
                    tracing::error!(
                        gateway = self.gateway,
                        "revision {number} does not lead to the digest that it recorded; loading everything again"
                    );
                    return false;
                }
                Err(problems) => {
                    tracing::error!(
                        gateway = self.gateway,
                        "revision {number} does not hold in this version: {}",
                        first_problems(&problems)
                    );
                    return false;
                }
            }
        }
        true
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let loaded = self.store.load(&self.gateway).await?;
        let head = loaded.head;
        let snapshot = compile_loaded(&self.gateway, loaded).await?;
        let offer = offer_of(&self.gateway, &*self.store, snapshot).await?;
        *self.recent.lock() = Recent::from(head, OffsetDateTime::now_utc());
        self.offer.send_replace(offer);
        Ok(())
    }

    /// The series first, so that whoever sees the new head can ask how it came about.
    fn advance(&self, record: Arc<RevisionRecord>, head: Arc<Snapshot>, rollouts: &[Rollout]) {
        self.recent.lock().push(record);
        let staged = Staged::find(rollouts, &head, &self.head());
        self.offer.send_replace(Offer { head, staged });
    }
}

/// The snapshot after the change, if the change holds.
async fn decide(head: Arc<Snapshot>, change: Change) -> Result<Published, PublishError> {
    if let Some(base) = change.base
        && base != head.revision
    {
        return Err(PublishError::Conflict { base, head: head.revision });
    }
    blocking(move || {
        let edits = (change.edits)(&head).map_err(PublishError::Refused)?;
        let (snapshot, changes) = head.apply(head.revision + 1, edits).map_err(PublishError::Invalid)?;
        if changes.is_empty() {
            let (revision, warnings) = (head.revision, Vec::new());
            return Ok(Published {
                revision,
                snapshot: head,
                changes: Arc::default(),
                warnings,
                is_new: false,
                is_staged: false,
            });
        }
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
        let warnings = lint(&snapshot, &changes, now);
        let snapshot = Arc::new(snapshot);
        Ok(Published {
            revision: snapshot.revision,
            snapshot,
            changes: changes.into(),
            warnings,
            is_new: true,
            is_staged: false,
        })
    })
    .await
}

fn record(change: &Change, parent: u64, next: &Published) -> RevisionRecord {
    let changes: Arc<[ResourceChange]> = next
        .changes
        .iter()
        .map(|Changed { key, before, after }| ResourceChange {
            key: key.clone(),
            before: before.clone(),
            after: after.clone(),
        })
        .collect();
    let now = OffsetDateTime::now_utc();
    let revision = Revision {
        number: next.revision,
        parent,
        author: storable(&change.author),
        message: storable(&change.message),
        // What every database keeps.
        created_at: now.replace_millisecond(now.millisecond()).expect("a millisecond of a time is one"),
        digest: next.snapshot.config.digest(),
        change_count: changes.len() as u64,
    };
    RevisionRecord { revision, changes }
}

/// PostgreSQL keeps every character but one.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A change may be a whole configuration; compiling it must not hold up a thread that serves others.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn open_rollouts(gateway: &str, store: &dyn Store) -> Result<Vec<Rollout>, StoreError> {
    let open = store.open_rollouts().await?;
    open.into_iter().filter(|row| row.gateway == gateway).map(Rollout::from_row).collect()
}

/// What is offered when `head` was loaded as a whole.
async fn offer_of(gateway: &str, store: &dyn Store, head: Snapshot) -> Result<Offer, StoreError> {
    let head = Arc::new(head);
    let open = open_rollouts(gateway, store).await?;
    if !open.iter().any(|rollout| rollout.revision == head.revision) {
        return Ok(Offer::of(head));
    }
    let record = store.revision(gateway, head.revision).await?;
    let before = record.iter().flat_map(|record| &*record.changes).map(|change| {
        let key = change.key.clone();
        match &change.before {
            Some(document) => Edit::Restore { key, document: document.clone() },
            None => Edit::Remove { key },
        }
    });
    let (edits, from) = (before.collect(), head.clone());
    let base = head.revision - 1;
    let base = blocking(move || from.apply(base, edits)).await.map_err(|problems| {
        let first = first_problems(&problems);
        StoreError::Unreadable(format!("revision {base} of gateway `{gateway}` does not hold in this version: {first}"))
    })?;
    let staged = Staged::find(&open, &head, &Arc::new(base.0));
    Ok(Offer { head, staged })
}

async fn compile_loaded(gateway: &str, loaded: Loaded) -> Result<Snapshot, StoreError> {
    let Loaded { head, resources } = loaded;
    let edits = resources.into_iter().map(|(key, document)| Edit::Restore { key, document }).collect();
    let applied = blocking(move || Snapshot::default().apply(head.revision, edits)).await;
    let (snapshot, _) = applied.map_err(|problems| {
        StoreError::Unreadable(format!(
            "revision {} of gateway `{gateway}` does not hold in this version: {}",
            head.revision,
            first_problems(&problems)
        ))
    })?;
    if snapshot.config.digest() != head.digest {
        // Refusing would leave the fleet without a control plane; nodes get the digest of what is there.
        tracing::error!(
            gateway,
            "the stored resources are not what revision {} recorded; were they changed by hand?",
            head.revision
        );
    }
    Ok(snapshot)
}

async fn read_recent(gateway: &str, store: &dyn Store, head: Head) -> Result<Recent, StoreError> {
    let newest = store.revisions(gateway, Some(head.revision + 1), PAGE).await?;
    let head_at = newest.first().map_or(OffsetDateTime::UNIX_EPOCH, |revision| revision.created_at);
    let mut room = RESUMABLE_CHANGES;
    let mut base = head;
    for revision in newest {
        let Some(left) = room.checked_sub(revision.change_count) else { break };
        room = left;
        base.revision = revision.parent;
    }
    if base == head {
        return Ok(Recent::from(head, head_at));
    }
    let mut base_at = OffsetDateTime::UNIX_EPOCH;
    match store.revision(gateway, base.revision).await? {
        Some(record) => (base.digest, base_at) = (record.revision.digest, record.revision.created_at),
        None if base.revision == 0 => base.digest = Digest::default(),
        // It is kept no longer, and its digest with it: the first that is kept is where the series begins.
        None => {
            let Some(oldest) = store.changes_since(gateway, base.revision, 1).await?.pop() else {
                return Ok(Recent::from(head, head_at));
            };
            base = Head { revision: oldest.revision.number, digest: oldest.revision.digest };
            base_at = oldest.revision.created_at;
        }
    }
    let mut recent = Recent::from(base, base_at);
    for record in store.changes_since(gateway, base.revision, PAGE).await? {
        if record.revision.number <= head.revision {
            recent.push(Arc::new(record));
        }
    }
    Ok(recent)
}

fn edit_after(change: &ResourceChange) -> Edit {
    let key = change.key.clone();
    match &change.after {
        Some(document) => Edit::Restore { key, document: document.clone() },
        None => Edit::Remove { key },
    }
}

fn first_problems(problems: &[model::problem::Problem]) -> String {
    let shown: Vec<String> = problems.iter().take(3).map(ToString::to_string).collect();
    format!("{} ({} in all)", shown.join("; "), problems.len())
}
