//! One node on the line, from Hello to its end.
//!
//! At most one revision is under way to it. While the node works, newer heads replace each other; when it
//! serves or refuses, only the newest is sent.

use std::sync::Arc;
use std::time::SystemTime;

use model::problem::{Problem, Problems};
use model::resource::Labels;
use model::snapshot::Snapshot;
use model::wire::problem_from_wire;
use prost::Message;
use proto::control_message::Message as FromControl;
use proto::join::NodeName;
use proto::node_message::Message as FromNode;
use proto::{Ack, Begin, Chunk, Commit, ControlMessage, Heartbeat, NodeMessage, Refusal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::admission::{self, Asked, Turn};
use super::capabilities::Capabilities;
use super::encodings::{Encoding, head_of};
use super::lane::Lane;
use super::{Distribution, Outgoing, head_from_wire, head_to_wire};
use crate::metrics::COUNTED;
use crate::nodes::{Load, Session, Stage, TargetReport};
use crate::publish::Offer;
use crate::store::Head;
use crate::ticket_keys::Secrets;
use crate::trust::revocations::Revoked;

/// A revision is sent in pieces that fill a frame of HTTP/2 with what is around them. Once a connection has carried a
/// piece, it keeps a buffer of that size for as long as it lasts.
const CHUNK: usize = 16 * 1024 - 32;

/// One node on the line.
pub struct Peer {
    pub distribution: Arc<Distribution>,
    pub gateway: String,
    pub node_id: String,
    pub session: Session,
    pub offers: watch::Receiver<Offer>,
    /// By these it is chosen for a rollout.
    pub position: u32,
    pub labels: Labels,
    pub ticket_keys: watch::Receiver<Secrets>,
    pub lane: Lane,
    pub revoked: watch::Receiver<Revoked>,
    /// Who it is by its certificate; nothing over plain text.
    pub certified: Option<NodeName>,
    pub incoming: Streaming<NodeMessage>,
    pub outgoing: mpsc::Sender<Outgoing>,
    pub can: Capabilities,
    pub standing: Standing,
    /// There is a long revision to send, and others are before this node.
    pub waiting: Option<Asked>,
    pub turn: Option<Turn>,
}

/// How far a node is.
#[derive(Default)]
pub struct Standing {
    /// What it serves, by its own words.
    held: Option<Head>,
    /// What was sent and is neither served nor refused yet.
    under_way: Option<Arc<Encoding>>,
    /// What it does not take, and is not sent again.
    refused: Option<Head>,
    /// What it holds is not what it should be: only a snapshot helps.
    has_drifted: bool,
}

impl Standing {
    pub fn holding(held: Option<Head>) -> Self {
        Self { held, ..Self::default() }
    }
}

impl Peer {
    /// Keeps the node at the newest revision until the connection ends or `shutdown` comes.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let ended = tokio::select! {
            () = shutdown.cancelled() => Err(Status::unavailable("the control plane is stopping")),
            ended = self.converse() => ended,
        };
        if ended.is_ok() {
            self.session.leaves();
        }
        let reason = ended.as_ref().err().map_or("it left", |status| status.message());
        tracing::info!(node.id = self.node_id, gateway = self.gateway, "a node has disconnected: {reason}");
        if let Err(status) = ended {
            let _ = self.outgoing.try_send(Box::new(Err(status)));
        }
    }

    async fn converse(&mut self) -> Result<(), Status> {
        let timing = self.distribution.timing;
        let mut heartbeat = interval(timing.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = Instant::now() + timing.silence;
        self.send_ticket_keys().await?;
        loop {
            self.refuse_revoked()?;
            // Before the revision: a service may have no targets but those that are said beside it.
            if let Some(messages) = self.lane.next() {
                for message in messages {
                    self.send(FromControl::Targets(message)).await?;
                }
            }
            if self.standing.under_way.is_none() && self.waiting.is_none() {
                self.offer().await?;
            }
            tokio::select! {
                message = timeout_at(silent_at, self.incoming.message()) => {
                    let message = message.map_err(|_| Status::deadline_exceeded("it was silent for too long"))??;
                    let Some(message) = message else { return Ok(()) };
                    silent_at = Instant::now() + timing.silence;
                    self.hear(message)?;
                }
                changed = self.offers.changed(), if self.standing.under_way.is_none() => {
                    changed.map_err(|_| Status::unavailable("the gateway is gone"))?;
                }
                turn = admission::answer(&mut self.waiting) => {
                    self.turn = Some(turn);
                }
                changed = self.lane.changed() => {
                    changed.map_err(|_| Status::unavailable("the gateway is gone"))?;
                }
                changed = self.revoked.changed() => {
                    changed.map_err(|_| Status::unavailable("the control plane is stopping"))?;
                }
                changed = self.ticket_keys.changed() => {
                    changed.map_err(|_| Status::unavailable("the gateway is gone"))?;
                    self.send_ticket_keys().await?;
                }
                _ = heartbeat.tick() => {
                    let head = head_to_wire(head_of(&self.wanted()));
                    self.send(FromControl::Heartbeat(Heartbeat { head: Some(head), unix_time_ms: unix_time_ms() })).await?;
                }
            }
        }
    }

    /// Sends the newest revision that is for it, if the node neither serves nor refused it.
    async fn offer(&mut self) -> Result<(), Status> {
        let turn = self.turn.take();
        self.offers.mark_unchanged();
        let head = self.wanted();
        let newest = Some(head_of(&head));
        if self.standing.held == newest || self.standing.refused == newest {
            return Ok(());
        }
        let missing = self.can.missing(&head);
        if !missing.is_empty() {
            self.refuse(head_of(&head), missing);
            return Ok(());
        }
        let encodings = &self.distribution.encodings;
        let Standing { held, refused, has_drifted, .. } = self.standing;
        // A node that has drifted gets the head itself: an older snapshot would lead it to the same delta again.
        let encoding = if has_drifted {
            encodings.snapshot(&self.gateway, &head).await
        } else {
            encodings.shortest(&self.gateway, held, &head, refused).await
        };
        let is_long = encoding.body.len() > CHUNK;
        if is_long && turn.is_none() {
            self.waiting = Some(self.distribution.transfers.ask());
            return Ok(());
        }
        if has_drifted || held.is_some_and(|held| self.is_another(held)) {
            self.session.resynchronises();
        }
        match turn.filter(|_| is_long) {
            Some(turn) => turn.take(self.send_encoding(&encoding)).await?,
            None => self.send_encoding(&encoding).await?,
        }
        self.standing.under_way = Some(encoding);
        Ok(())
    }

    /// What the node is to serve. One that has the head already keeps it, also while this replica has not heard that a
    /// rollout has reached it: only a new revision takes it back.
    fn wanted(&self) -> Arc<Snapshot> {
        let offer = self.offers.borrow();
        if self.standing.held == Some(head_of(&offer.head)) {
            return Arc::clone(&offer.head);
        }
        Arc::clone(offer.for_node(self.position, &self.labels))
    }

    /// Whether a revision that we know has another content than it should.
    fn is_another(&self, held: Head) -> bool {
        let known = self.distribution.publisher.digest_at(&self.gateway, held.revision);
        let is_another = known.is_some_and(|digest| digest != held.digest);
        if is_another {
            let (node_id, gateway, revision) = (&self.node_id, &self.gateway, held.revision);
            tracing::warn!(
                node.id = node_id,
                gateway,
                revision,
                "a node holds another content of the revision, and is sent the whole configuration"
            );
        }
        is_another
    }

    fn refuse_revoked(&mut self) -> Result<(), Status> {
        let revoked = self.revoked.borrow_and_update();
        match &self.certified {
            Some(node) if revoked.contains(node) => Err(Status::permission_denied("it was revoked")),
            _ => Ok(()),
        }
    }

    async fn send_ticket_keys(&mut self) -> Result<(), Status> {
        let Secrets { tickets: secrets, lasting } = self.ticket_keys.borrow_and_update().clone();
        self.send(FromControl::TicketKeys(proto::TicketKeys { secrets, lasting })).await
    }

    async fn send_encoding(&self, encoding: &Encoding) -> Result<(), Status> {
        let (revision, base) = (Some(head_to_wire(encoding.reached)), encoding.base.map(head_to_wire));
        let mut signatures = encoding.signatures.iter().cloned();
        let signature = signatures.next().unwrap_or_default();
        let begin = Begin { revision, base, signature, further_signatures: signatures.collect() };
        self.send(FromControl::Begin(begin)).await?;
        let mut rest = encoding.body.clone();
        while !rest.is_empty() {
            let data = rest.split_to(CHUNK.min(rest.len()));
            self.send(FromControl::Chunk(Chunk { data })).await?;
        }
        self.send(FromControl::Commit(Commit {})).await
    }

    async fn send(&self, message: FromControl) -> Result<(), Status> {
        let message = ControlMessage { message: Some(message) };
        COUNTED.sent_bytes.inc_by(message.encoded_len() as u64);
        let sending = self.outgoing.send(Box::new(Ok(message)));
        match timeout(self.distribution.timing.silence, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("its connection is gone")),
            Err(_) => Err(Status::deadline_exceeded("it does not read what it is sent")),
        }
    }

    fn hear(&mut self, message: NodeMessage) -> Result<(), Status> {
        match message.message {
            Some(FromNode::Ack(ack)) => self.hear_ack(ack),
            Some(FromNode::Refusal(refusal)) => self.hear_refusal(refusal),
            Some(FromNode::TargetsAck(ack)) => {
                self.lane.acknowledged(ack.version);
                self.session.has_targets(ack.version);
                Ok(())
            }
            Some(FromNode::Heartbeat(heartbeat)) => {
                let targets = TargetReport::from_wire(heartbeat.unhealthy, heartbeat.found, heartbeat.untold);
                self.session.beats(targets, heartbeat.load.map(Load::from));
                let serving = heartbeat.serving.as_ref().map(head_from_wire).transpose()?;
                // Makes up for an ack that was lost.
                if let Some(serving) = serving.filter(|serving| self.standing.held != Some(*serving)) {
                    self.serves(serving);
                }
                Ok(())
            }
            Some(FromNode::Traffic(traffic)) => {
                self.session.counted(traffic.into(), self.offers.borrow().staged.is_some());
                Ok(())
            }
            Some(FromNode::Hello(_)) => Err(Status::invalid_argument("it said hello twice")),
            // What a newer node says beyond our protocol is no reason to part.
            None => Ok(()),
        }
    }

    fn hear_ack(&mut self, ack: Ack) -> Result<(), Status> {
        let stage = ack.stage();
        let revision = ack.revision.ok_or_else(|| Status::invalid_argument("an ack of nothing"))?;
        let at = head_from_wire(&revision)?;
        match stage {
            proto::Stage::Received => self.session.reached(Stage::Received, at.revision, at.digest),
            proto::Stage::Compiled => self.session.reached(Stage::Compiled, at.revision, at.digest),
            proto::Stage::Serving => self.serves(at),
            proto::Stage::Unspecified => self.session.heard(),
        }
        Ok(())
    }

    fn serves(&mut self, head: Head) {
        self.session.reached(Stage::Serving, head.revision, head.digest);
        let standing = &mut self.standing;
        standing.held = Some(head);
        if standing.under_way.as_ref().is_some_and(|encoding| encoding.reached == head) {
            standing.under_way = None;
            standing.has_drifted = false;
        }
        standing.refused = standing.refused.filter(|refused| refused.revision > head.revision);
    }

    fn hear_refusal(&mut self, refusal: Refusal) -> Result<(), Status> {
        let Refusal { revision, problems, resync } = refusal;
        let revision = revision.ok_or_else(|| Status::invalid_argument("a refusal of nothing"))?;
        let refused = head_from_wire(&revision)?;
        let Some(encoding) = self.standing.under_way.take_if(|encoding| encoding.reached == refused) else {
            self.session.heard();
            return Ok(());
        };
        let problems: Problems = problems.into_iter().map(problem_from_wire).collect();
        // A node that cannot make sense of a whole snapshot either gets no second one.
        if resync && encoding.base.is_some() {
            let reason = first(&problems);
            tracing::warn!(
                node.id = self.node_id,
                gateway = self.gateway,
                "a node needs the whole configuration: {reason}"
            );
            self.session.heard();
            self.standing.has_drifted = true;
        } else {
            self.refuse(refused, problems);
        }
        Ok(())
    }

    fn refuse(&mut self, refused: Head, problems: Problems) {
        let (node_id, revision, reason) = (&self.node_id, refused.revision, first(&problems));
        tracing::warn!(
            node.id = node_id,
            gateway = self.gateway,
            revision,
            "a node does not take a revision: {reason}"
        );
        self.standing.refused = Some(refused);
        self.session.refused(revision, problems);
    }
}

fn first(problems: &[Problem]) -> String {
    problems.first().map_or_else(|| "it gave no reason".to_owned(), ToString::to_string)
}

fn unix_time_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
