//! The lane of one gateway: the one place where what is said changes, and how it keeps up with the store.

use std::sync::Arc;
use std::time::Duration;

use model::membership::{Change, Membership};
use model::snapshot::Snapshot;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};

use super::{Edit, State, Write, WriteError, Written};
use crate::publish::Publisher;
use crate::store::{LoadedTarget, Store, StoreError, TargetRecord};

/// How often writes are tried against a head that other replicas move.
const ATTEMPTS: u32 = 64;
/// Changes read at once while catching up.
const PAGE: u32 = 1000;
/// Of how many targets of a gateway something may be said, and of how many of a service.
const MAX_TARGETS: usize = 100_000;
const MAX_TARGETS_OF_SERVICE: usize = 10_000;

pub(super) struct Lane {
    gateway: String,
    store: Arc<dyn Store>,
    /// Held by whoever may move the head.
    moving: tokio::sync::Mutex<()>,
    /// Writes that go to the store with the next who holds `moving`.
    waiting: Mutex<Vec<Waiting>>,
    state: watch::Sender<Arc<State>>,
}

type Outcome = Result<Written, WriteError>;

struct Waiting {
    write: Write,
    answer: oneshot::Sender<Outcome>,
}

impl Lane {
    pub(super) async fn load(gateway: &str, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let state = watch::Sender::new(Arc::new(load(gateway, &*store).await?));
        let (moving, waiting) = (tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { gateway: gateway.to_owned(), store, moving, waiting, state })
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Whoever comes first takes all who wait along, so that many writes cost one transaction.
    pub(super) async fn write(&self, publisher: &Publisher, write: Write) -> Outcome {
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().push(Waiting { write, answer });
        {
            let _moving = self.moving.lock().await;
            let together = std::mem::take(&mut *self.waiting.lock());
            if !together.is_empty() {
                let writes: Vec<&Write> = together.iter().map(|waiting| &waiting.write).collect();
                let outcomes = self.carry_out(publisher, &writes).await;
                for (waiting, outcome) in together.into_iter().zip(outcomes) {
                    let _ = waiting.answer.send(outcome);
                }
            }
        }
        // Who took it along was given up in the middle.
        answered.await.unwrap_or(Err(WriteError::Contended))
    }

    pub(super) fn try_out(&self, publisher: &Publisher, write: &Write) -> Outcome {
        let gone = || WriteError::UnknownGateway(self.gateway.clone());
        let head = publisher.head(&self.gateway).ok_or_else(gone)?;
        let (_, _, mut outcomes) = decide(&head, &self.state().membership, &[write]);
        outcomes.pop().expect("there is an outcome for each write")
    }

    async fn carry_out(&self, publisher: &Publisher, writes: &[&Write]) -> Vec<Outcome> {
        let all = |error: &WriteError| writes.iter().map(|_| Err(error.clone())).collect();
        for attempt in 0..ATTEMPTS {
            let Some(head) = publisher.head(&self.gateway) else {
                return all(&WriteError::UnknownGateway(self.gateway.clone()));
            };
            let state = self.state();
            let (changes, records, outcomes) = decide(&head, &state.membership, writes);
            let version = state.membership.version();
            let stored = if records.is_empty() {
                // That there is nothing to do is true of the newest state alone.
                match self.catch_up_held(None).await {
                    Ok(()) if self.state().membership.version() == version => return outcomes,
                    other => other,
                }
            } else {
                match self.store.change_targets(&self.gateway, version, &records).await {
                    Ok(()) => {
                        self.state.send_replace(Arc::new(state.after(changes)));
                        return outcomes;
                    }
                    Err(StoreError::Conflict { head }) => self.catch_up_held(Some(head)).await,
                    Err(error) => Err(error),
                }
            };
            if let Err(error) = stored {
                return all(&error.into());
            }
            if attempt > 2 {
                // Lets the other replica finish, and two of them fall out of step.
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
            }
        }
        all(&WriteError::Contended)
    }

    /// Brings the state to a version that the store is known to have.
    pub(super) async fn catch_up(&self, version: u64) -> Result<(), StoreError> {
        if self.state().membership.version() == version {
            return Ok(());
        }
        let _moving = self.moving.lock().await;
        self.catch_up_held(Some(version)).await
    }

    /// Brings the state up to that of the store, which has `version` at least if it is known; `moving` is held.
    async fn catch_up_held(&self, version: Option<u64>) -> Result<(), StoreError> {
        let known = self.state().membership.version();
        if version.is_some_and(|version| version < known) && !self.is_ahead(known).await? {
            tracing::error!(
                gateway = self.gateway,
                "the database went back to an older version of targets than {known}; was it restored from a backup?"
            );
            return self.reload().await;
        }
        loop {
            let after = self.state().membership.version();
            let records = self.store.target_changes_since(&self.gateway, after, PAGE).await?;
            let Some(first) = records.first() else {
                let is_behind = version.is_some_and(|version| after < version);
                return if is_behind { self.reload().await } else { Ok(()) };
            };
            // What came in between is forgotten already.
            if first.version != after + 1 {
                return self.reload().await;
            }
            let changes = records.iter().map(change_of).collect::<Result<Vec<_>, _>>()?;
            self.state.send_replace(Arc::new(self.state().after(changes)));
        }
    }

    /// Whether the store has this version: an announcement may be older than what is known by now.
    async fn is_ahead(&self, version: u64) -> Result<bool, StoreError> {
        let versions = self.store.target_versions().await?;
        Ok(versions.iter().any(|(gateway, stored)| *gateway == self.gateway && *stored >= version))
    }

    async fn reload(&self) -> Result<(), StoreError> {
        self.state.send_replace(Arc::new(load(&self.gateway, &*self.store).await?));
        Ok(())
    }
}

/// What the writes lead to, one after the other: the changes, how they are stored, and what to answer once they are.
fn decide(head: &Snapshot, before: &Membership, writes: &[&Write]) -> (Vec<Change>, Vec<TargetRecord>, Vec<Outcome>) {
    let now = OffsetDateTime::now_utc();
    // What every database keeps.
    let created_at = now.replace_millisecond(now.millisecond()).expect("a millisecond of a time is one");
    let mut membership = before.clone();
    let mut changes = Vec::new();
    let mut records = Vec::new();
    let outcomes = writes.iter().map(|write| {
        let edits = (write.edits)(head, &membership)?;
        let new = edits.into_iter().filter(|Edit { service, target, member }| {
            membership.get(service, target).map(|entry| &*entry.member) != member.as_ref()
        });
        let new: Vec<Edit> = new.collect();
        let mut next = membership.clone();
        let mut made = Vec::with_capacity(new.len());
        for Edit { service, target, member } in new {
            let version = next.version() + 1;
            let change = Change { service, target, version, member };
            next.apply(version, [change.clone()]);
            made.push(change);
        }
        check_room(&next, &made)?;
        records.extend(made.iter().map(|change| record_of(change, &write.author, created_at)));
        let changed = made.len();
        changes.extend(made);
        membership = next;
        Ok(Written { version: membership.version(), membership: membership.clone(), changed })
    });
    let outcomes = outcomes.collect();
    (changes, records, outcomes)
}

fn check_room(next: &Membership, made: &[Change]) -> Result<(), WriteError> {
    let added = || made.iter().filter(|change| change.member.is_some());
    if next.len() > MAX_TARGETS && added().next().is_some() {
        return Err(WriteError::TooMany { of: "a gateway".to_owned(), limit: MAX_TARGETS });
    }
    for change in added() {
        if next.of(&change.service).is_some_and(|entries| entries.len() > MAX_TARGETS_OF_SERVICE) {
            let of = format!("the service `{}`", change.service);
            return Err(WriteError::TooMany { of, limit: MAX_TARGETS_OF_SERVICE });
        }
    }
    Ok(())
}

fn record_of(change: &Change, author: &str, created_at: OffsetDateTime) -> TargetRecord {
    let spec = |member| serde_json::to_string(member).expect("texts and numbers are JSON");
    TargetRecord {
        version: change.version,
        service: change.service.to_string(),
        target: change.target.to_string(),
        spec: change.member.as_ref().map(spec),
        author: author.to_owned(),
        created_at,
    }
}

fn change_of(record: &TargetRecord) -> Result<Change, StoreError> {
    read(record.version, &record.service, &record.target, record.spec.as_deref())
}

fn read(version: u64, service: &str, target: &str, spec: Option<&str>) -> Result<Change, StoreError> {
    let unreadable = |reason: String| {
        StoreError::Unreadable(format!("what is said about the target `{target}` of `{service}`: {reason}"))
    };
    let member = spec.map(serde_json::from_str).transpose().map_err(|error| unreadable(error.to_string()))?;
    let (service, url) = (service.parse().map_err(unreadable)?, target.parse().map_err(unreadable)?);
    Ok(Change { service, target: url, version, member })
}

async fn load(gateway: &str, store: &dyn Store) -> Result<State, StoreError> {
    let loaded = store.targets(gateway).await?;
    let change =
        |LoadedTarget { version, service, target, spec }: &LoadedTarget| read(*version, service, target, Some(spec));
    let changes = loaded.targets.iter().map(change).collect::<Result<Vec<_>, _>>()?;
    Ok(State::whole(Membership::whole(loaded.version, changes)))
}
