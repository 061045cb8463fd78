//! Which nodes are revoked, in memory: streams ask at every beginning and hear of every change, also while the database
//! is away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use proto::join::NodeName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError};

/// How often the store is asked, because a hint of another replica can be lost.
const POLL: Duration = Duration::from_secs(1);

/// The revoked nodes, as of some moment.
pub type Revoked = Arc<HashSet<NodeName>>;

/// See the head of this file.
pub struct Revocations {
    store: Arc<dyn Store>,
    revoked: watch::Sender<Revoked>,
}

impl Revocations {
    pub async fn start(store: Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        let revocations = Self { store, revoked: watch::Sender::default() };
        revocations.refresh().await?;
        Ok(Arc::new(revocations))
    }

    /// What is revoked, now and whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Revoked> {
        self.revoked.subscribe()
    }

    /// Reads it again.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let stored = self.store.revoked_nodes().await?;
        let revoked: HashSet<_> = stored.into_iter().map(|(gateway, node_id)| NodeName { gateway, node_id }).collect();
        self.revoked.send_if_modified(|known| {
            let is_news = **known != revoked;
            if is_news {
                *known = Arc::new(revoked);
            }
            is_news
        });
        Ok(())
    }

    /// Keeps up with what other replicas revoke, until `shutdown`.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut hints = self.store.revocations();
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_reachable = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(()) = hints.next() => {}
                _ = poll.tick() => {}
            }
            let refreshed = self.refresh().await;
            if let (Err(error), true) = (&refreshed, is_reachable) {
                tracing::error!("cannot read which nodes are revoked, will keep trying: {error}");
            }
            is_reachable = refreshed.is_ok();
        }
    }
}
