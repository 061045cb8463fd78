//! What happens in a gateway, told as events: what is different between one look at it and the next.
//!
//! Nothing is queued for anybody, and nobody is told anything by those who do something. A [`Watcher`] remembers what it has
//! told and looks again when heads, nodes or targets have changed, whichever replica they changed through. So every replica
//! tells the same, a watcher holds a few words for each node however slowly it is read, and one that comes back goes on
//! after the revision that it names.

use std::sync::Arc;
use std::time::Duration;

use model::problem::Problems;
use model::snapshot::Snapshot;
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::nodes::{Nodes, Selector};
use crate::publish::{Offer, Publisher};
use crate::rollout::{self, Rollout};
use crate::store::{Revision, StoreError};
use crate::targets::{Lanes, State};

mod fleet;

use fleet::FleetTold;

/// How long a watcher says nothing at most.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What happens within this time is told together.
const PAUSE: Duration = Duration::from_millis(50);
/// How often to look though nothing seems to have changed: nodes fall behind without doing anything.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever takes longer to come for the next events has missed what came and went meanwhile.
const LATE: Duration = Duration::from_secs(2);
/// Targets change far more often than anything else: they are told of so often at most.
const TARGETS_EVERY: Duration = Duration::from_secs(1);
/// So many revisions are told one by one.
const MAX_REVISIONS: u64 = 1_000;

/// Something that happened, or how things are.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// How things are: the first event, and again when they had to be looked at anew. Events tell what changes from here.
    Status {
        /// The newest revision.
        revision: u64,
        digest: String,
        /// How many nodes are connected.
        total: usize,
        /// How many of these serve the newest revision.
        serving: usize,
    },
    /// Some events were left out, because they were read too slowly or cannot be told any more. Of each node, the newest is
    /// told nevertheless.
    Missed {
        reason: String,
        /// The revisions that were left out, if any were; `GET revisions` has them.
        #[serde(skip_serializing_if = "Option::is_none")]
        revisions: Option<Left>,
    },
    /// A revision was published.
    Revision {
        revision: u64,
        digest: String,
        author: String,
        message: String,
        /// How many resources it changed.
        change_count: u64,
        #[serde(with = "time::serde::rfc3339")]
        #[schemars(with = "String")]
        published_at: OffsetDateTime,
    },
    /// A node has connected, with this revision; 0 is none.
    NodeJoined { node_id: String, hostname: String, version: String, revision: u64 },
    /// A node is not connected any more.
    NodeLeft { node_id: String },
    /// A node has a revision, whole and with the right digest.
    NodeReceived { node_id: String, revision: u64 },
    /// A node has compiled a revision.
    NodeCompiled { node_id: String, revision: u64 },
    /// Every request that starts on the node is served by this revision.
    NodeServing { node_id: String, revision: u64, digest: String },
    /// A node keeps a revision out, for these reasons; if they are very many, for some of them.
    NodeRefused { node_id: String, revision: u64, problems: Problems },
    /// A node has not served the newest revision for a while: this long.
    NodeBehind { node_id: String, serves: u64, revision: u64, lag_ms: u64 },
    /// A node is sent the whole configuration, since what it has is not what it should be.
    NodeResynchronised { node_id: String, resyncs: u64 },
    /// A rollout has begun, has come to a step, was paused or resumed, or is over.
    Rollout {
        revision: u64,
        state: rollout::State,
        /// How many steps it has behind it, and how many there are.
        step: usize,
        steps: usize,
        /// Why it goes back.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// What is said about targets has changed, so many times.
    Targets { version: u64, changes: u64 },
}

/// Revisions that were not told of, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "MissedRevisions")]
pub struct Left {
    pub first: u64,
    pub last: u64,
}

/// An event as it is told.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct Told {
    /// All revisions up to this one have been told. Whoever comes back with it gets those after it.
    pub id: u64,
    /// By the clock of the control plane.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub at: OffsetDateTime,
    #[serde(flatten)]
    pub event: Event,
}

/// Watches one gateway for somebody.
pub struct Watcher {
    gateway: String,
    publisher: Arc<Publisher>,
    nodes: Arc<Nodes>,
    offers: watch::Receiver<Offer>,
    lane: watch::Receiver<Arc<State>>,
    node_changes: watch::Receiver<u64>,
    /// The newest revision that was told of; nothing before the first look.
    revision: Option<u64>,
    /// Where whoever comes back was.
    after: Option<u64>,
    fleet: FleetTold,
    /// The rollout that was told of: its revision, how it stood and at which step.
    rollout: Option<(u64, rollout::State, usize)>,
    /// The version of targets that was told of, and when.
    targets: (u64, Instant),
    /// When the last events were handed over.
    handed_at: Option<Instant>,
    /// How many revisions are told one by one.
    room: u64,
}

impl Watcher {
    /// Begins to watch, after a revision or from now on; nothing if there is no such gateway.
    pub async fn start(
        publisher: Arc<Publisher>,
        nodes: Arc<Nodes>,
        lanes: &Lanes,
        gateway: &str,
        after: Option<u64>,
    ) -> Result<Option<Self>, StoreError> {
        let Some(offers) = publisher.watch(gateway) else { return Ok(None) };
        let lane = lanes.watch(gateway).await?;
        let targets = (lane.borrow().membership.version(), Instant::now());
        Ok(Some(Self {
            gateway: gateway.to_owned(),
            node_changes: nodes.changes(),
            publisher,
            nodes,
            offers,
            lane,
            revision: None,
            after,
            fleet: FleetTold::default(),
            rollout: None,
            targets,
            handed_at: None,
            room: MAX_REVISIONS,
        }))
    }

    /// Waits for the next events; none of them if nothing happened for a while, and nothing when the gateway is gone.
    pub async fn next(&mut self) -> Option<Vec<Told>> {
        self.next_within(HEARTBEAT).await
    }

    async fn next_within(&mut self, span: Duration) -> Option<Vec<Told>> {
        let mut found = Found { id: self.revision.unwrap_or(0), events: Vec::new() };
        if let Some(late) = self.handed_at.map(|at| at.elapsed()).filter(|late| *late > LATE) {
            let reason = format!("nothing was read for {} ms", late.as_millis());
            found.tell(Event::Missed { reason, revisions: None });
        }
        let until = Instant::now() + span;
        loop {
            self.look(&mut found).await;
            if !found.events.is_empty() || Instant::now() >= until {
                break;
            }
            tokio::select! {
                changed = self.offers.changed() => changed.ok()?,
                changed = self.lane.changed() => changed.ok()?,
                changed = self.node_changes.changed() => changed.ok()?,
                () = sleep(LOOK_EVERY) => {}
            }
            sleep(PAUSE).await;
        }
        self.handed_at = Some(Instant::now());
        Some(found.events)
    }

    async fn look(&mut self, found: &mut Found) {
        // First, so that what changes during the look leads to another one.
        self.node_changes.mark_unchanged();
        let offer = self.offers.borrow_and_update().clone();
        self.see_revisions(&offer.head, found).await;
        self.see_rollout(offer.staged.as_ref().map(|staged| &staged.rollout), found).await;
        let gateway = &self.gateway;
        self.fleet.see(
            &self.nodes,
            gateway,
            &offer,
            |old| self.publisher.superseded_at(gateway, old),
            |event| {
                found.tell(event);
            },
        );
        self.see_targets(found);
    }

    async fn see_revisions(&mut self, head: &Snapshot, found: &mut Found) {
        let newest = head.revision;
        // Where it went back, the database was restored from a backup.
        let known = self.revision.filter(|known| *known <= newest);
        let begin = match known {
            Some(known) => known,
            None => {
                let begin = self.after.take().filter(|after| *after <= newest).unwrap_or(newest);
                found.id = begin;
                let convergence = self.nodes.convergence(&self.gateway, newest, &Selector::default());
                let (total, serving) = (convergence.total, convergence.serving);
                found.tell(Event::Status {
                    revision: newest,
                    digest: head.config.digest().to_string(),
                    total,
                    serving,
                });
                begin
            }
        };
        let first = (begin + 1).max((newest + 1).saturating_sub(self.room));
        let revisions = if first <= newest { self.revisions(first, newest).await } else { Vec::new() };
        let told_from = revisions.first().map_or(newest + 1, |revision| revision.number);
        if told_from > begin + 1 {
            let reason = "they are too many, or not to be had from the database (any more)".to_owned();
            found.id = told_from - 1;
            found.tell(Event::Missed { reason, revisions: Some(Left { first: begin + 1, last: found.id }) });
        }
        for revision in revisions {
            found.id = revision.number;
            found.tell(published(revision));
        }
        self.revision = Some(newest);
    }

    /// The revisions from `first` to `last`, from memory or else from the store.
    async fn revisions(&self, first: u64, last: u64) -> Vec<Revision> {
        if let Some(records) = self.publisher.changes(&self.gateway, first - 1, last) {
            return records.iter().map(|record| record.revision.clone()).collect();
        }
        let limit = u32::try_from(last + 1 - first).expect("no more than are told one by one");
        let store = self.publisher.store();
        let stored = timeout(LATE, store.revisions(&self.gateway, Some(last + 1), limit)).await;
        let mut revisions = stored.ok().and_then(Result::ok).unwrap_or_default();
        revisions.reverse();
        revisions
    }

    async fn see_rollout(&mut self, now: Option<&Rollout>, found: &mut Found) {
        let told = self.rollout;
        // It is over: how it ended stands in the store.
        if let Some((revision, ..)) = told.filter(|(revision, ..)| now.is_none_or(|now| now.revision != *revision)) {
            let stored = timeout(LATE, self.publisher.store().rollouts_at(&self.gateway, revision)).await;
            let rows = stored.ok().and_then(Result::ok).unwrap_or_default();
            let ended = rows.into_iter().find(|row| row.revision == revision);
            if let Some(ended) = ended.and_then(|row| Rollout::from_row(row).ok()) {
                found.tell(stands(&ended));
            }
        }
        self.rollout = now.map(|now| (now.revision, now.state, now.step));
        if let Some(now) = now.filter(|_| self.rollout != told) {
            found.tell(stands(now));
        }
    }

    fn see_targets(&mut self, found: &mut Found) {
        let version = self.lane.borrow_and_update().membership.version();
        let (told, at) = self.targets;
        if version != told && at.elapsed() >= TARGETS_EVERY {
            found.tell(Event::Targets { version, changes: version.saturating_sub(told) });
            self.targets = (version, Instant::now());
        }
    }
}

fn published(revision: Revision) -> Event {
    let Revision { number, author, message, created_at, digest, change_count, .. } = revision;
    let digest = digest.to_string();
    Event::Revision { revision: number, digest, author, message, change_count, published_at: created_at }
}

fn stands(rollout: &Rollout) -> Event {
    let Rollout { revision, state, step, strategy, reason, .. } = rollout;
    let (revision, state, step, steps) = (*revision, *state, *step, strategy.steps.len());
    Event::Rollout { revision, state, step, steps, reason: reason.clone() }
}

/// Events of one look.
struct Found {
    id: u64,
    events: Vec<Told>,
}

impl Found {
    fn tell(&mut self, event: Event) {
        self.events.push(Told { id: self.id, at: OffsetDateTime::now_utc(), event });
    }
}

#[cfg(test)]
mod tests {
    use model::config::Edit;
    use model::resource::Kind;
    use serde_json::json;

    use super::*;
    use crate::nodes::{Introduction, Stage};
    use crate::publish::{Change, Staging};
    use crate::store;

    async fn watch_empty_gateway(nodes: &Arc<Nodes>) -> (Watcher, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("sluice.db");
        let store = store::open(place.to_str().expect("UTF-8")).await.expect("a store");
        let publisher = Publisher::start(store).await.expect("a publisher");
        let lanes = Lanes::start(publisher.clone()).await.expect("lanes");
        let started = Watcher::start(publisher, nodes.clone(), &lanes, "default", None).await;
        (started.expect("the store answers").expect("the gateway is there"), folder)
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_so_and_gets_the_newest_of_each_node() {
        let nodes = Nodes::new();
        let node = nodes.connect("default", Introduction { node_id: "a".to_owned(), ..Introduction::default() });
        let (mut watcher, _folder) = watch_empty_gateway(&nodes).await;
        assert!(matches!(watcher.next().await.expect("events")[..], [Told { event: Event::Status { .. }, .. }]));
        for revision in 1..=500 {
            node.reached(Stage::Received, revision, model::digest::Digest::default());
        }
        watcher.handed_at = Instant::now().checked_sub(Duration::from_secs(30));
        let events: Vec<Event> = watcher.next().await.expect("events").into_iter().map(|told| told.event).collect();
        let [Event::Missed { reason, revisions: None }, newest] = &events[..] else { panic!("{events:?}") };
        assert!(reason.starts_with("nothing was read for 30"), "{reason}");
        assert_eq!(*newest, Event::NodeReceived { node_id: "a".to_owned(), revision: 500 });
    }

    #[tokio::test]
    async fn revisions_that_are_too_many_to_tell_are_named_as_missed() {
        let (mut watcher, _folder) = watch_empty_gateway(&Nodes::new()).await;
        watcher.next().await.expect("how things are");
        watcher.room = 3;
        for number in 1..=5 {
            let spec = json!({ "url": format!("http://127.0.0.1:{number}") });
            let edits = vec![Edit::Put { kind: Kind::Service, name: "a".to_owned(), spec }];
            let change = Change {
                author: "me".to_owned(),
                message: String::new(),
                base: None,
                edits: Arc::new(move |_| Ok(edits.clone())),
                staging: Staging::Default,
            };
            watcher.publisher.publish("default", change).await.expect("it holds");
        }
        let told: Vec<_> =
            watcher.next().await.expect("events").into_iter().map(|told| (told.id, told.event)).collect();
        let [(2, Event::Missed { revisions: Some(Left { first: 1, last: 2 }), .. }), rest @ ..] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(rest.iter().zip(3..).all(|((id, event), number)| {
            *id == number && matches!(event, Event::Revision { revision, .. } if *revision == number)
        }));
        assert_eq!(rest.len(), 3);
    }

    #[tokio::test]
    async fn while_nothing_happens_no_events_come_in_time() {
        let (mut watcher, _folder) = watch_empty_gateway(&Nodes::new()).await;
        watcher.next().await.expect("how things are");
        assert_eq!(watcher.next_within(Duration::ZERO).await, Some(Vec::new()));
    }
}
