//! Nodes of other replicas: tells them what this one hears and learns what they hear, through the store.
//!
//! It runs beside the stream and the admin API and neither waits for it. While the store is away, each replica
//! goes on with its own nodes and with what it last knew of the others'.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Nodes;
use super::known::Untold;
use crate::store::{NodeNews, SharedNodes, StoreError};

/// News that comes while others have just been told waits so long, and goes out together.
const PAUSE: Duration = Duration::from_millis(20);
/// Nodes that are told of at once.
const BATCH: usize = 1_000;
/// How often to look whether a hint was lost.
const POLL: Duration = Duration::from_secs(1);
/// How often to say that everything still holds; well below [`SharedNodes::SILENCE`].
const CONFIRM: Duration = Duration::from_secs(5);
/// How long stopping may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// A node may refuse for more reasons than others need to hear.
const MAX_PROBLEMS: usize = 100;

/// One replica among those that share a store.
pub struct Fleet {
    nodes: Arc<Nodes>,
    store: SharedNodes,
    /// A name that no other replica has, nor this one after a restart.
    replica: String,
    /// The newest news that was read.
    newest: Option<OffsetDateTime>,
    confirmed_at: Option<Instant>,
    /// Until then silence of others does not mean that they are gone: the store was away.
    doubt_until: Option<Instant>,
}

impl Fleet {
    /// Learns of the nodes of the other replicas.
    pub async fn join(nodes: Arc<Nodes>, store: SharedNodes) -> Result<Self, StoreError> {
        let replica = uuid::Uuid::now_v7().to_string();
        let mut fleet = Self { nodes, store, replica, newest: None, confirmed_at: None, doubt_until: None };
        fleet.read(None).await?;
        Ok(fleet)
    }

    /// Tells and learns until `shutdown`; then tells that the nodes of this replica are gone.
    pub async fn follow(mut self, shutdown: CancellationToken) {
        let mut hints = self.store.hints();
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut has_news, mut tell_at) = (false, Instant::now());
        let mut is_reachable = true;
        loop {
            let done = tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.nodes.news.notified(), if !has_news => {
                    has_news = true;
                    continue;
                }
                () = sleep_until(tell_at), if has_news => {
                    let told = self.tell().await;
                    tell_at = Instant::now() + PAUSE;
                    has_news = matches!(told, Ok(true));
                    told.map(drop)
                }
                Some(replica) = hints.next() => {
                    let mut is_of_others = replica != self.replica;
                    while let Some(Some(replica)) = hints.next().now_or_never() {
                        is_of_others |= replica != self.replica;
                    }
                    if is_of_others { self.read(self.newest).await } else { Ok(()) }
                }
                _ = poll.tick() => self.keep_up().await,
            };
            match &done {
                Ok(()) if !is_reachable => tracing::info!("the nodes of other replicas are known again"),
                Err(error) if is_reachable => {
                    tracing::warn!("cannot tell other replicas of nodes, will keep trying: {error}");
                }
                _ => {}
            }
            is_reachable = done.is_ok();
            if !is_reachable {
                self.doubt_until = Some(Instant::now() + SharedNodes::SILENCE);
            }
        }
        self.nodes.known.lock().leave();
        // Who does not hear it finds out by the silence.
        let _ = timeout(FAREWELL, async { while matches!(self.tell().await, Ok(true)) {} }).await;
    }

    async fn keep_up(&mut self) -> Result<(), StoreError> {
        self.tell().await?;
        if self.confirmed_at.is_some_and(|at| at.elapsed() < CONFIRM) {
            return self.read(self.newest).await;
        }
        let expected = self.nodes.known.lock().told_connected();
        if self.store.confirm(&self.replica).await? < expected {
            // The database was restored or has crashed, which empties the table.
            self.nodes.known.lock().tell_again();
            self.nodes.news.notify_one();
        }
        self.read(None).await?;
        self.confirmed_at = Some(Instant::now());
        Ok(())
    }

    /// Tells the others what is new; whether there is more.
    async fn tell(&self) -> Result<bool, StoreError> {
        let untold = self.nodes.known.lock().untold(BATCH);
        if untold.is_empty() {
            return Ok(false);
        }
        let news: Vec<NodeNews> = untold.iter().map(news_of).collect();
        self.store.put(&self.replica, &news).await?;
        self.nodes.known.lock().told(&untold);
        Ok(untold.len() == BATCH)
    }

    /// Reads what others told, all of it or since a time.
    async fn read(&mut self, since: Option<OffsetDateTime>) -> Result<(), StoreError> {
        let others = self.store.others(&self.replica, since).await?;
        let newest = others.iter().map(|node| node.changed_at).max();
        // All of it also shows if the clock or the database went back.
        self.newest = if since.is_some() { newest.max(self.newest) } else { newest };
        let doubt = self.doubt_until.is_some_and(|until| Instant::now() < until);
        if self.nodes.known.lock().merge(others, since.is_none(), doubt) {
            self.nodes.tell();
        }
        Ok(())
    }
}

fn news_of(untold: &Untold) -> NodeNews {
    let mut status = untold.status.clone();
    if let Some(refusal) = &mut status.refusal {
        refusal.problems.truncate(MAX_PROBLEMS);
    }
    let (gateway, node_id) = untold.id.clone();
    let connected = status.connected;
    let status = serde_json::to_string(&status).expect("texts, numbers and times are JSON");
    NodeNews { gateway, node_id, connected, has_come: untold.has_come, status }
}
