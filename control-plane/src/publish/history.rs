//! How much of the history is kept. What is older is forgotten, from the oldest revision on and in small steps, so that what
//! is left is without gaps and writers wait for none of it. Every replica does it; the work of one finds the other's done.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{PublishError, Publisher};
use crate::store::{RevisionRecord, StoreError};

/// How often to look. The first time is one pause after the start: nodes are back by then, and what they hold is known.
const PAUSE: Duration = Duration::from_secs(60);
/// Revisions that are forgotten in one transaction, and how long others are let in after it.
const BATCH: u32 = 500;
const BREATH: Duration = Duration::from_millis(20);

/// How much of the history of each gateway is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// So many of the newest revisions, the head among them.
    pub revisions: u64,
    /// Of these, only those that are not older, beside the head.
    pub age: Option<Duration>,
}

impl Default for History {
    fn default() -> Self {
        Self { revisions: 100_000, age: None }
    }
}

impl Publisher {
    /// Keeps the histories of all gateways short until `shutdown`. `held` says what the oldest revision is that a node of a
    /// gateway serves; it is kept, and all after it.
    pub async fn keep_short(
        self: Arc<Self>,
        history: History,
        held: impl Fn(&str) -> Option<u64>,
        shutdown: CancellationToken,
    ) {
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            for gateway in self.gateways() {
                let forgetting = self.forget(&gateway, history, held(&gateway), OffsetDateTime::now_utc());
                let forgotten = tokio::select! {
                    () = shutdown.cancelled() => return,
                    forgotten = forgetting => forgotten,
                };
                match forgotten {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(gateway, "forgot {count} revisions that are older than is kept"),
                    Err(error) => tracing::warn!(gateway, "cannot shorten the history, will try again: {error}"),
                }
            }
        }
    }

    /// Forgets what is older than `history` keeps, but neither the head nor what is `held`; how many revisions.
    pub async fn forget(
        &self,
        gateway: &str,
        history: History,
        held: Option<u64>,
        now: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let Some(head) = self.head(gateway).map(|head| head.revision) else { return Ok(0) };
        let Some(oldest) = self.store.oldest_revision(gateway).await? else { return Ok(0) };
        let mut before = (head + 1).saturating_sub(history.revisions);
        if let Some(since) = history.age.and_then(|age| now.checked_sub(age.try_into().ok()?)) {
            before = before.max(self.first_since(gateway, oldest, head, since).await?);
        }
        let before = before.min(head).min(held.unwrap_or(head));
        let mut forgotten = 0;
        while oldest + forgotten < before {
            let count = self.store.forget_revisions(gateway, before, BATCH).await?;
            if count == 0 {
                break;
            }
            forgotten += count;
            tokio::time::sleep(BREATH).await;
        }
        Ok(forgotten)
    }

    /// The first revision that was made at `since` or later; numbers have no gaps, and times go with them.
    async fn first_since(
        &self,
        gateway: &str,
        oldest: u64,
        head: u64,
        since: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        let (mut low, mut high) = (oldest, head);
        while low < high {
            let middle = low.midpoint(high);
            let record = self.store.revision(gateway, middle).await?;
            // Another replica may have forgotten it just now: then it is old.
            match record.filter(|record| record.revision.created_at >= since) {
                Some(_) => high = middle,
                None => low = middle + 1,
            }
        }
        Ok(low)
    }
}

/// Whether what was read after `at`, on the way from `wanted`, goes on there.
pub fn follows(first: Option<&RevisionRecord>, at: u64, wanted: u64) -> Result<(), PublishError> {
    match first {
        None => Err(PublishError::UnknownRevision(wanted)),
        Some(first) if first.revision.parent == at => Ok(()),
        Some(first) => Err(PublishError::Forgotten { revision: wanted, oldest: first.revision.number }),
    }
}
