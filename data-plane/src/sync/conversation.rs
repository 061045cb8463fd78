//! One connection to the control plane, from Hello to its end.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use model::digest::Digest;
use model::problem::Problem;
use model::wire::problem_to_wire;
use proto::control_message::Message as FromControl;
use proto::distribution_client::DistributionClient;
use proto::node_message::Message as FromNode;
use proto::{ControlMessage, NodeMessage, Stage};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use super::build::{self, BuildError};
use super::load::Meter;
use super::lost::{Lost, why_unreachable};
use super::work::{Approval, Outcome, Work};
use super::{Adopt, Served, Source, Sync, TicketSecret, Way};
use crate::last_good::{Position, Record};
use crate::telemetry;

/// How many compressed bytes one revision may have.
const MAX_BODY: usize = 512 * 1024 * 1024;
/// The longest message of the control plane: a chunk has 256 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Bytes under way to this node that it has not read yet.
const WINDOW: u32 = 1024 * 1024;
/// Messages that wait to be sent. There are four for each revision, and one revision at a time.
const OUTGOING: usize = 32;
/// How often it is told what was counted of requests, if that is something else.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How many problems of a refusal are sent.
const MAX_PROBLEMS: usize = 100;

/// A revision of which not everything has arrived.
struct Arriving {
    base: Position,
    reached: Position,
    signatures: Vec<Bytes>,
    body: BytesMut,
}

type Outgoing = mpsc::Sender<NodeMessage>;

impl<A: Adopt> Sync<A> {
    /// Keeps a connection until it ends by itself or `shutdown` comes.
    pub(super) async fn converse(&mut self, source: &Source, shutdown: &CancellationToken) -> Result<(), Lost> {
        let connecting = timeout(self.timing.silence, self.connect(source));
        let (mut incoming, outgoing) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            connected = connecting => connected.map_err(|_| Lost::Unreachable("no answer".to_owned()))??,
        };
        tracing::info!("configuration comes from {}", source.url);
        self.status.send_modify(|status| {
            status.connected = true;
            status.error = None;
        });
        let mut heartbeat = interval(self.timing.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut meter = Meter::start(Instant::now().into_std(), telemetry::cpu_time());
        let mut counting = interval(COUNT_EVERY);
        counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counted = None;
        let mut arriving = None;
        // The control plane sends again what this node does not hold.
        self.pending = None;
        self.lane.begin();
        let mut silent_at = Instant::now() + self.timing.silence;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                // One revision at a time: what comes during a retry waits for its end.
                message = timeout_at(silent_at, incoming.message()), if !self.is_retrying => {
                    let message = message.map_err(|_| Lost::Silent)??.ok_or(Lost::Closed)?;
                    silent_at = Instant::now() + self.timing.silence;
                    // Another authority may have taken the place of the one before under this stream.
                    self.approver = match &source.way {
                        Way::SharedToken(_) => None,
                        Way::Certificate(trust) => trust.approver(),
                    };
                    self.hear(message, &mut arriving, &outgoing)?;
                }
                outcome = ended(&mut self.work) => {
                    self.work = None;
                    self.settle(outcome, Some(&outgoing));
                    self.is_retrying = false;
                }
                served = self.lane.served() => {
                    // Without room for it the control plane would wait for it forever.
                    let sent = timeout_at(silent_at, outgoing.send(served)).await;
                    sent.map_err(|_| Lost::Silent)?.map_err(|_| Lost::Closed)?;
                }
                _ = counting.tick() => {
                    let traffic = self.adopt.traffic();
                    if let Some(news) = traffic.clone().filter(|_| traffic != counted) {
                        let _ = outgoing.try_send(NodeMessage { message: Some(FromNode::Traffic(news)) });
                        counted = traffic;
                    }
                }
                _ = heartbeat.tick() => {
                    let serving = self.held.as_deref().map(Position::of).map(to_wire);
                    let unix_time_ms = unix_time_ms();
                    let load = meter.read(Instant::now().into_std(), telemetry::cpu_time(), telemetry::resident_bytes());
                    let heartbeat = proto::NodeHeartbeat { serving, unix_time_ms, load, ..self.adopt.targets() };
                    // When the control plane reads nothing, its silence will end the connection.
                    let _ = outgoing.try_send(NodeMessage { message: Some(FromNode::Heartbeat(heartbeat)) });
                    self.retry(arriving.is_some(), &outgoing);
                }
            }
        }
    }

    async fn connect(&self, source: &Source) -> Result<(Streaming<ControlMessage>, Outgoing), Lost> {
        let endpoint = source.endpoint.clone();
        let endpoint =
            endpoint.tcp_nodelay(true).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        match &source.way {
            Way::SharedToken(file) => {
                let bearer = bearer(file).await?;
                let channel = endpoint.connect().await.map_err(|error| Lost::Unreachable(why_unreachable(&error)))?;
                self.subscribe(channel, Some(bearer)).await
            }
            Way::Certificate(trust) => match self.subscribe(trust.connect(&endpoint).await?, None).await {
                Err(Lost::Rejected(status)) if status.code() == Code::Unauthenticated => {
                    trust.join_again(&endpoint, Lost::Rejected(status)).await?;
                    self.subscribe(trust.connect(&endpoint).await?, None).await
                }
                subscribed => subscribed,
            },
        }
    }

    async fn subscribe(
        &self,
        channel: Channel,
        bearer: Option<MetadataValue<Ascii>>,
    ) -> Result<(Streaming<ControlMessage>, Outgoing), Lost> {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let served_for = self.status.borrow().serving.map(|served| served.since.elapsed()).unwrap_or_default();
        let held = self.held.as_deref().map(Position::of);
        let hello = FromNode::Hello(self.identity.hello(held, served_for, self.lane.version()));
        let _ = outgoing.try_send(NodeMessage { message: Some(hello) });
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(bearer) = bearer {
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = DistributionClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        match client.subscribe(request).await {
            Ok(stream) => Ok((stream.into_inner(), outgoing)),
            // What has a source did not come from the control plane: the connection ended under the question.
            Err(status) if status.source().is_some() => Err(Lost::Unopened),
            Err(status) => Err(status.into()),
        }
    }

    fn hear(
        &mut self,
        message: ControlMessage,
        arriving: &mut Option<Arriving>,
        outgoing: &Outgoing,
    ) -> Result<(), Lost> {
        // What a newer control plane says beyond our protocol is no reason to part.
        let Some(message) = message.message else { return Ok(()) };
        match message {
            FromControl::Begin(begin) => {
                if arriving.is_some() || self.work.is_some() {
                    return Err(Lost::Protocol("a revision before the one before is done"));
                }
                let reached = from_wire(begin.revision)?.ok_or(Lost::Protocol("a revision without a number"))?;
                let base = from_wire(begin.base)?.unwrap_or_default();
                let signatures = [vec![begin.signature], begin.further_signatures].concat();
                *arriving = Some(Arriving { base, reached, signatures, body: BytesMut::new() });
                self.note_head(Some(reached));
            }
            FromControl::Chunk(chunk) => {
                let Arriving { body, .. } = arriving.as_mut().ok_or(Lost::Protocol("a chunk of nothing"))?;
                if body.len() + chunk.data.len() > MAX_BODY {
                    return Err(Lost::Protocol("a revision that is too large"));
                }
                body.extend_from_slice(&chunk.data);
                self.note_head(None);
            }
            FromControl::Commit(proto::Commit {}) => {
                let Arriving { base, reached, signatures, body } =
                    arriving.take().ok_or(Lost::Protocol("a commit of nothing"))?;
                let record = Record { base, reached, body: body.freeze() };
                self.pending = Some(record.clone());
                let approval = self.approver.clone().map(|approver| Approval { approver, signatures });
                self.start_work(record, approval, outgoing);
            }
            FromControl::Heartbeat(heartbeat) => self.note_head(from_wire(heartbeat.head)?),
            FromControl::Targets(targets) => self.lane.hear(targets, &self.adopt)?,
            FromControl::TicketKeys(keys) => {
                let secrets: Result<Vec<TicketSecret>, _> = keys.secrets.iter().map(|key| key[..].try_into()).collect();
                match secrets {
                    Ok(secrets) if !secrets.is_empty() => self.adopt.use_ticket_keys(&secrets),
                    _ => return Err(Lost::Protocol("ticket keys that are none")),
                }
                // An older control plane has none.
                if let Ok(secret) = keys.lasting[..].try_into() {
                    self.adopt.use_cookie_key(&secret);
                    self.cookie_key.keep(&secret);
                }
            }
        }
        Ok(())
    }

    /// Tries the newest revision again that this node refused for a reason that may have passed: a process that had the
    /// port is gone, for example. Nobody would send it again.
    fn retry(&mut self, is_arriving: bool, outgoing: &Outgoing) {
        if is_arriving || self.work.is_some() {
            return;
        }
        let Some(record) = self.pending.clone() else { return };
        self.is_retrying = true;
        // It was approved before.
        self.start_work(record, None, outgoing);
    }

    fn start_work(&mut self, record: Record, approval: Option<Approval>, outgoing: &Outgoing) {
        let (held, adopt) = (self.held.clone(), Arc::clone(&self.adopt));
        self.work = Some(Work::start(record, approval, held, adopt, outgoing.clone()));
    }

    /// Something came from the control plane, and perhaps the newest revision with it.
    fn note_head(&self, head: Option<Position>) {
        self.status.send_modify(|status| {
            status.last_heard = Some(Instant::now().into_std());
            let Some(Position { revision, digest }) = head else { return };
            status.head = Some((revision, digest));
            if let Some(serving) = status.serving.as_mut().filter(|serving| serving.digest == digest) {
                serving.from_disk = false;
            }
        });
    }

    /// Draws the consequences of what became of a revision, and reports it to whoever still listens.
    pub(super) fn settle(&mut self, outcome: Outcome, outgoing: Option<&Outgoing>) {
        let Outcome { reached, result } = outcome;
        let tell = |message| {
            if let Some(outgoing) = outgoing {
                // As with stages: the next heartbeat says what is served, and a new connection starts from there.
                let _ = outgoing.try_send(message);
            }
        };
        let Position { revision, digest } = reached;
        match result {
            Ok((record, snapshot)) => {
                // The disk comes after the ack: what is acknowledged is that requests are served by it, and
                // a node that loses its disk gets the same again from the control plane.
                tell(ack(reached, Stage::Serving));
                self.pending = None;
                self.held = Some(Arc::clone(&snapshot));
                self.last_good.keep(record, snapshot);
                let served = Served { revision, digest, since: Instant::now().into_std(), from_disk: false };
                self.status.send_modify(|status| {
                    status.serving = Some(served);
                    status.refused = status.refused.take().filter(|(refused, _)| *refused > revision);
                });
                tracing::info!(revision, "a new configuration is served");
            }
            Err(BuildError::Drifted(reason)) => {
                self.pending = None;
                tell(refusal(reached, vec![drifted(reason.clone())], true));
                self.status.send_modify(|status| status.resyncs += 1);
                tracing::warn!(revision, "this node asks for the whole configuration: {reason}");
            }
            Err(BuildError::Refused(problems)) => {
                self.pending = self.pending.take().filter(|_| problems.iter().all(may_pass));
                // Said once, however often it is tried.
                if self.is_retrying && self.status.borrow().refused.as_ref() == Some(&(revision, problems.clone())) {
                    return;
                }
                tell(refusal(reached, problems.iter().take(MAX_PROBLEMS).map(problem_to_wire).collect(), false));
                tracing::error!(revision, "this node refuses the configuration: {}", build::summary(&problems));
                self.status.send_modify(|status| {
                    status.refusals += 1;
                    status.refused = Some((revision, problems));
                });
            }
        }
    }
}

/// What other processes on this machine do comes and goes; what is in a configuration stays.
pub(super) fn may_pass(problem: &Problem) -> bool {
    problem.code == "address-in-use"
}

/// Read again for every connection, so that a new token needs no restart.
async fn bearer(file: &Path) -> Result<MetadataValue<Ascii>, Lost> {
    let unreadable = |reason| Lost::Token { path: file.display().to_string(), reason };
    let token = tokio::fs::read_to_string(file).await.map_err(|error| unreadable(error.to_string()))?;
    let bearer = format!("Bearer {}", token.trim()).parse();
    bearer.map_err(|_| unreadable("it holds no token".to_owned()))
}

/// Waits for the end of the work, forever when there is none.
async fn ended(work: &mut Option<Work>) -> Outcome {
    match work {
        Some(work) => work.ended().await,
        None => std::future::pending().await,
    }
}

pub(super) fn ack(reached: Position, stage: Stage) -> NodeMessage {
    let (revision, stage) = (Some(to_wire(reached)), stage.into());
    NodeMessage { message: Some(FromNode::Ack(proto::Ack { revision, stage, unix_time_ms: unix_time_ms() })) }
}

fn refusal(reached: Position, problems: Vec<proto::Problem>, resync: bool) -> NodeMessage {
    let refusal = proto::Refusal { revision: Some(to_wire(reached)), problems, resync };
    NodeMessage { message: Some(FromNode::Refusal(refusal)) }
}

fn drifted(message: String) -> proto::Problem {
    proto::Problem { code: "drifted".to_owned(), message, ..proto::Problem::default() }
}

pub(crate) fn to_wire(position: Position) -> proto::Revision {
    let Position { revision, digest } = position;
    proto::Revision { number: revision, digest: bytes::Bytes::copy_from_slice(&digest.to_bytes()) }
}

fn from_wire(revision: Option<proto::Revision>) -> Result<Option<Position>, Lost> {
    let Some(proto::Revision { number, digest }) = revision else { return Ok(None) };
    let digest = digest[..].try_into().map_err(|_| Lost::Protocol("a digest that has not 32 bytes"))?;
    Ok(Some(Position { revision: number, digest: Digest::from_bytes(digest) }))
}

fn unix_time_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
