//! Carries rollouts on: looks at the nodes, begins steps, promotes, and publishes what was before when a gate does not hold.
//!
//! Of the replicas on one database one drives a rollout, its owner; the others only follow which nodes it has reached. Who
//! owns it says so in its document every few seconds, and one that has not been heard of for a while is taken over. Silence
//! is measured by the own clock, and every change is made on the version that was seen: an owner that was only slow finds
//! that it is none any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gates::Evidence;
use super::watch::{Verdict, Watch};
use super::{Rollout, State};
use crate::nodes::Nodes;
use crate::publish::{Change, PublishError, Publisher, Staging};
use crate::store::StoreError;

/// How often it looks while there is something to look after, and otherwise.
const BUSY: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(1);
/// How often the owner says that it is there.
const SIGN: Duration = Duration::from_secs(2);
/// After how long without a sign another one takes over.
const SILENCE: Duration = Duration::from_secs(8);

/// Who publishes what was before.
const AUTHOR: &str = "rollout";

/// One replica that drives rollouts.
pub struct Driver {
    publisher: Arc<Publisher>,
    nodes: Arc<Nodes>,
    /// A name that no other replica has, nor this one after a restart.
    replica: String,
    /// By gateway.
    known: HashMap<String, Known>,
}

/// What is remembered of a rollout.
struct Known {
    revision: u64,
    version: u64,
    /// When that version was first seen.
    seen_at: Instant,
    /// What has been seen of the nodes, where this replica is the owner.
    watch: Option<Watch>,
}

impl Driver {
    #[must_use]
    pub fn new(publisher: Arc<Publisher>, nodes: Arc<Nodes>) -> Self {
        Self { publisher, nodes, replica: uuid::Uuid::now_v7().to_string(), known: HashMap::new() }
    }

    /// Drives until `shutdown`. What is under way then is taken over, or goes on after the next start.
    pub async fn follow(mut self, shutdown: CancellationToken) {
        let mut is_reachable = true;
        loop {
            let pause = if self.known.is_empty() { IDLE } else { BUSY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let done = self.round(Instant::now()).await;
            if let (Err(error), true) = (&done, is_reachable) {
                tracing::error!("cannot look after rollouts, will keep trying: {error}");
            }
            is_reachable = done.is_ok();
        }
    }

    /// Looks once at everything that is under way.
    pub async fn round(&mut self, now: Instant) -> Result<(), StoreError> {
        let store = self.publisher.store().clone();
        // Those that ended meanwhile, by whomever.
        for staged in self.publisher.staged() {
            for row in store.rollouts_at(&staged.rollout.gateway, staged.rollout.revision).await? {
                self.publisher.follow_rollout(Rollout::from_row(row)?);
            }
        }
        let open = store.open_rollouts().await?;
        self.known.retain(|gateway, _| open.iter().any(|row| row.gateway == *gateway));
        for row in open {
            let rollout = Rollout::from_row(row)?;
            if self.is_ours(&rollout, now) {
                self.drive(rollout, now).await?;
            }
        }
        Ok(())
    }

    /// Whether this replica is the owner, or should be.
    fn is_ours(&mut self, rollout: &Rollout, now: Instant) -> bool {
        let Rollout { gateway, revision, version, owner, .. } = rollout;
        let fresh = || Known { revision: *revision, version: *version, seen_at: now, watch: None };
        let known = self.known.entry(gateway.clone()).or_insert_with(fresh);
        if known.revision != *revision {
            *known = fresh();
        } else if known.version != *version {
            (known.version, known.seen_at) = (*version, now);
        }
        // Nobody shares the file of a control plane that stands alone: its owner is gone for certain.
        let stands_alone = self.publisher.store().shared_nodes().is_none();
        let is_given_up = owner.is_empty() || stands_alone || now.duration_since(known.seen_at) >= SILENCE;
        *owner == self.replica || is_given_up
    }

    async fn drive(&mut self, mut rollout: Rollout, now: Instant) -> Result<(), StoreError> {
        let Some(head) = self.publisher.head(&rollout.gateway) else { return Ok(()) };
        if head.revision > rollout.revision {
            return self.close(rollout).await;
        }
        if head.revision < rollout.revision {
            // This replica has not caught up.
            return Ok(());
        }
        if rollout.owner != self.replica {
            rollout.owner.clone_from(&self.replica);
            tracing::info!(gateway = rollout.gateway, revision = rollout.revision, "looks after the rollout");
            if !self.save(&mut rollout, now).await? {
                return Ok(());
            }
        }
        if rollout.state == State::RollingBack {
            return self.go_back(&rollout).await;
        }
        let nodes = self.nodes.list(&rollout.gateway);
        let Some(known) = self.known.get_mut(&rollout.gateway) else { return Ok(()) };
        let watch = known.watch.get_or_insert_with(|| Watch::new(&rollout));
        let (verdict, evidence) = watch.look(&rollout, &nodes, now);
        let is_due = now.duration_since(known.seen_at) >= SIGN;
        if self.decide(&mut rollout, verdict, evidence) || is_due {
            let is_saved = self.save(&mut rollout, now).await?;
            if is_saved && rollout.state == State::RollingBack {
                return self.go_back(&rollout).await;
            }
        }
        Ok(())
    }

    /// Writes the verdict down; whether there is one.
    fn decide(&self, rollout: &mut Rollout, verdict: Verdict, evidence: Evidence) -> bool {
        let at = OffsetDateTime::now_utc();
        let (gateway, revision) = (rollout.gateway.clone(), rollout.revision);
        rollout.evidence = Some(evidence);
        let reached = |rollout: &Rollout| {
            let is_in = |node: &&crate::nodes::NodeStatus| {
                node.connected && rollout.has_reached(super::position(&node.node_id), &node.labels)
            };
            self.nodes.list(&gateway).iter().filter(is_in).count()
        };
        match verdict {
            Verdict::Wait => return false,
            Verdict::Begin(cohort) => {
                rollout.cohorts.push(cohort);
                rollout.step = rollout.cohorts.len() - 1;
                rollout.since = at;
                let nodes = reached(rollout);
                rollout.note(at, format!("step {} begins: {nodes} nodes", rollout.step + 1));
                tracing::info!(gateway, revision, nodes, "step {} of the rollout begins", rollout.step + 1);
            }
            Verdict::Promote => {
                rollout.note(at, "promoted: all nodes get it".to_owned());
                rollout.end(State::Promoted, at);
                tracing::info!(gateway, revision, "the rollout is promoted: all nodes get the revision");
            }
            Verdict::RollBack(reason) => {
                tracing::error!(gateway, revision, "the rollout is rolled back: {reason}");
                rollout.note(at, format!("rolled back: {reason}"));
                rollout.reason = Some(reason);
                rollout.state = State::RollingBack;
            }
        }
        true
    }

    /// Keeps what was decided; false if somebody else changed the rollout meanwhile.
    async fn save(&mut self, rollout: &mut Rollout, now: Instant) -> Result<bool, StoreError> {
        rollout.version += 1;
        if !self.publisher.store().change_rollout(&rollout.to_row()).await? {
            return Ok(false);
        }
        if let Some(known) = self.known.get_mut(&rollout.gateway) {
            (known.version, known.seen_at) = (rollout.version, now);
        }
        self.publisher.follow_rollout(rollout.clone());
        Ok(true)
    }

    /// Publishes what was before. Once it is the head, [`Driver::close`] ends the rollout.
    async fn go_back(&mut self, rollout: &Rollout) -> Result<(), StoreError> {
        let Rollout { gateway, revision, base, reason, .. } = rollout;
        let reason = reason.as_deref().unwrap_or_default();
        let message = format!("roll back revision {revision} to {base}: {reason}");
        let back = self.publisher.rollback(gateway, *base, AUTHOR.to_owned(), message).await;
        let published = match back {
            Ok(change) if change.base == Some(*revision) => {
                self.publisher.publish(gateway, Change { staging: Staging::Back, ..change }).await
            }
            // Something else is the head by now.
            Ok(_) => return Ok(()),
            Err(error) => Err(error),
        };
        match published {
            Ok(published) => {
                let by = published.revision;
                tracing::warn!(gateway, revision, "revision {by} is what revision {base} was");
                self.close(rollout.clone()).await
            }
            Err(PublishError::Conflict { .. }) => Ok(()),
            Err(PublishError::Store(error)) => Err(error),
            Err(error) => {
                tracing::error!(gateway, revision, "cannot roll back: {error}");
                Ok(())
            }
        }
    }

    /// Another revision has taken its place.
    async fn close(&mut self, mut rollout: Rollout) -> Result<(), StoreError> {
        let store = self.publisher.store().clone();
        let Some(next) = store.revision(&rollout.gateway, rollout.revision + 1).await? else { return Ok(()) };
        let before = store.revision(&rollout.gateway, rollout.base).await?;
        let is_back = before.is_some_and(|before| before.revision.digest == next.revision.digest);
        let at = OffsetDateTime::now_utc();
        let by = next.revision.number;
        rollout.ended_by = Some(by);
        if is_back && rollout.state == State::RollingBack {
            rollout.note(at, format!("revision {by} is what revision {} was", rollout.base));
            rollout.end(State::RolledBack, at);
        } else {
            rollout.note(at, format!("`{}` published revision {by} past it", next.revision.author));
            rollout.end(State::Superseded, at);
        }
        self.save(&mut rollout, Instant::now()).await?;
        Ok(())
    }
}
