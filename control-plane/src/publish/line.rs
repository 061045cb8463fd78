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
use super::{Change, PublishError, Published};
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
    head: watch::Sender<Arc<Snapshot>>,
    recent: Mutex<Recent>,
}

impl Line {
    pub(super) async fn load(gateway: &str, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let loaded = store.load(gateway).await?;
        let head = loaded.head;
        let snapshot = compile_loaded(gateway, loaded).await?;
        let recent = Mutex::new(read_recent(gateway, &*store, head).await?);
        let head = watch::Sender::new(Arc::new(snapshot));
        Ok(Self { gateway: gateway.to_owned(), store, moving: tokio::sync::Mutex::default(), head, recent })
    }

    pub(super) fn head(&self) -> Arc<Snapshot> {
        self.head.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.head.subscribe()
    }

    pub(super) fn changes(&self, after: u64, up_to: u64) -> Option<Vec<Arc<RevisionRecord>>> {
        self.recent.lock().between(after, up_to)
    }

    pub(super) fn digest_at(&self, revision: u64) -> Option<Digest> {
        self.recent.lock().digest_at(revision)
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
                    let record = record(&change, base, &next);
                    match self.store.append(&self.gateway, &record).await {
                        Ok(()) => {
                            self.advance(Arc::new(record), next.snapshot.clone());
                            return Ok(next);
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
                if records.is_empty() || !self.replay(records).await {
                    return self.reload().await;
                }
            }
            return Ok(());
        }
        self.reload().await
    }

    /// Applies revisions that others made; false when that does not lead to what they recorded.
    async fn replay(&self, records: Vec<RevisionRecord>) -> bool {
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
                Ok((snapshot, _)) if snapshot.config.digest() == digest => self.advance(record, Arc::new(snapshot)),
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
        *self.recent.lock() = Recent::from(head);
        self.head.send_replace(Arc::new(snapshot));
        Ok(())
    }

    /// The series first, so that whoever sees the new head can ask how it came about.
    fn advance(&self, record: Arc<RevisionRecord>, snapshot: Arc<Snapshot>) {
        self.recent.lock().push(record);
        self.head.send_replace(snapshot);
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
            return Ok(Published { revision, snapshot: head, changes: Arc::default(), warnings, is_new: false });
        }
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
        let warnings = lint(&snapshot, &changes, now);
        let snapshot = Arc::new(snapshot);
        Ok(Published { revision: snapshot.revision, snapshot, changes: changes.into(), warnings, is_new: true })
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
    let mut room = RESUMABLE_CHANGES;
    let mut base = head;
    for revision in newest {
        let Some(left) = room.checked_sub(revision.change_count) else { break };
        room = left;
        base.revision = revision.parent;
    }
    if base == head {
        return Ok(Recent::from(head));
    }
    match store.revision(gateway, base.revision).await? {
        Some(record) => base.digest = record.revision.digest,
        None if base.revision == 0 => base.digest = Digest::default(),
        // It is kept no longer, and its digest with it: the first that is kept is where the series begins.
        None => {
            let Some(oldest) = store.changes_since(gateway, base.revision, 1).await?.pop() else {
                return Ok(Recent::from(head));
            };
            base = Head { revision: oldest.revision.number, digest: oldest.revision.digest };
        }
    }
    let mut recent = Recent::from(base);
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
