//! Revisions out to the nodes, acknowledgements in: the server of the stream.
//!
//! Nodes come over TLS and are who their certificate says ([`entry`]); on loopback they may come over plain text.
//! One task per node ([`peer`]) brings it from what it holds to the newest revision. What is sent is encoded
//! once for all nodes ([`encodings`]). When very many come together, they wait for one another ([`admission`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::Map;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use model::digest::Digest;
use proto::distribution_server::{self, DistributionServer};
use proto::join::NodeName;
use proto::node_message::Message as FromNode;
use proto::{Certified, ControlMessage, EnrolRequest, Hello, NodeMessage, RenewRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::nodes::{Introduction, Nodes};
use crate::publish::Publisher;
use crate::rollout::position;
use crate::store::Head;
use crate::targets::Lanes;
use crate::ticket_keys::TicketKeys;
use crate::token::Tokens;
use crate::trust::Trust;
use crate::trust::shown::Shown;

mod admission;
mod capabilities;
mod encodings;
mod entry;
mod lane;
mod peer;
pub mod tls;

use admission::Turns;
use capabilities::Capabilities;
use encodings::Encodings;
use entry::Way;
use lane::Lane;
use peer::{Peer, Standing};
use tls::Tls;

/// Connections at the same time; a node has one.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// Streams of one connection; a node has one.
const MAX_STREAMS: u32 = 4;
/// What a node may send that has not been read yet: the least that HTTP/2 begins with.
const WINDOW: u32 = 64 * 1024;
/// What is encoded for one node and does not go out yet, beside what waits to be encoded.
const SEND_BUFFER: usize = 64 * 1024;
/// Nodes that finish TLS at the same time, and how long one of them may keep another waiting. More at a time would all end
/// late; and what ends too late was done in vain.
const HANDSHAKES: (usize, Duration) = (64, Duration::from_millis(500));
/// Nodes that are sent a long revision at the same time: it bounds the bytes under way.
const TRANSFERS: (usize, Duration) = (32, Duration::from_secs(5));
/// The longest message of a node: a refusal with all its problems.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Messages of at most 16 KiB that wait for one node to read them.
const OUTGOING: usize = 4;
/// Nodes that are let in or renew at the same time: each asks the database.
const MAX_ENROLLING: usize = 8;
/// How long an identifier of a node may be.
const MAX_WORD: usize = 255;
/// How many labels a node may have.
const MAX_LABELS: usize = 32;

/// What is on its way to one node. A channel keeps places for dozens of them, however few it lets wait, so they are small.
type Outgoing = Box<Result<ControlMessage, Status>>;

/// Distributes what is published.
pub struct Distribution {
    publisher: Arc<Publisher>,
    tokens: Arc<Tokens>,
    nodes: Arc<Nodes>,
    ticket_keys: Arc<TicketKeys>,
    lanes: Arc<Lanes>,
    trust: Arc<Trust>,
    encodings: Encodings,
    timing: Timing,
    peers: TaskTracker,
    enrolling: Semaphore,
    handshakes: Turns,
    transfers: Turns,
}

/// The pace of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often each node hears what the newest revision is.
    pub heartbeat: Duration,
    /// How long a node may be silent, or not read, before it counts as gone.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(5), silence: Duration::from_secs(15) }
    }
}

/// What was encoded since the start, however many nodes it went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub snapshots: u64,
    pub deltas: u64,
}

impl Distribution {
    #[must_use]
    pub fn new(
        publisher: Arc<Publisher>,
        tokens: Arc<Tokens>,
        nodes: Arc<Nodes>,
        ticket_keys: Arc<TicketKeys>,
        lanes: Arc<Lanes>,
        trust: Arc<Trust>,
        timing: Timing,
    ) -> Arc<Self> {
        let encodings = Encodings::new(publisher.clone(), trust.authorities().clone());
        let (peers, enrolling) = (TaskTracker::new(), Semaphore::new(MAX_ENROLLING));
        let [handshakes, transfers] = [HANDSHAKES, TRANSFERS].map(|(places, lasts)| Turns::new(places, lasts));
        Arc::new(Self {
            publisher,
            tokens,
            nodes,
            ticket_keys,
            lanes,
            trust,
            encodings,
            timing,
            peers,
            enrolling,
            handshakes,
            transfers,
        })
    }

    #[must_use]
    pub fn encoded(&self) -> Encoded {
        self.encodings.counted()
    }

    /// Serves nodes on `listener` until `shutdown`, then ends their streams; they go on serving traffic. Plain text is
    /// answered on loopback, and where there is no TLS.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Option<Tls>, shutdown: CancellationToken) {
        let tls = tls.map(Arc::new);
        let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut is_accepting = true;
        loop {
            let permit = Arc::clone(&room).acquire_owned();
            let accepted = async { (permit.await, listener.accept().await) };
            let (permit, accepted) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    is_accepting = true;
                    let connection = Arc::clone(&self).accept(stream, tls.clone(), is_loopback, shutdown.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    if std::mem::take(&mut is_accepting) {
                        tracing::warn!("cannot accept connections of nodes: {error}{}", way_out(&error));
                    }
                    // Out of file descriptors, for example: trying again at once would only burn a core.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
        self.peers.close();
        self.peers.wait().await;
    }

    async fn accept(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<Arc<Tls>>,
        is_loopback: bool,
        shutdown: CancellationToken,
    ) {
        let _ = stream.set_nodelay(true);
        let silence = self.timing.silence;
        let entering = async {
            let Some(tls) = tls else { return Ok(Entered::Plain(stream)) };
            if is_loopback && !begins_tls(&stream).await? {
                return Ok(Entered::Plain(stream));
            }
            // Who would wait for long is sent away while it is still there, and comes back after a pause of its own.
            let turn = tokio::time::timeout(silence / 2, self.handshakes.ask()).await?;
            let accepted = turn.take(tls.acceptor().accept(stream)).await?;
            Ok(Entered::Tls(Box::new(accepted)))
        };
        let entered: Result<io::Result<Entered>, _> = tokio::select! {
            entered = tokio::time::timeout(silence, entering) => entered,
            () = shutdown.cancelled() => return,
        };
        match entered {
            Ok(Ok(Entered::Plain(stream))) => self.keep_connection(stream, Way::Plain, shutdown).await,
            Ok(Ok(Entered::Tls(stream))) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let way = Way::Tls(shown.and_then(Shown::read));
                self.keep_connection(stream, way, shutdown).await;
            }
            Ok(Err(error)) => tracing::debug!("a TLS handshake on the port for nodes failed: {error}"),
            Err(_) => tracing::debug!("a TLS handshake on the port for nodes took too long"),
        }
    }

    async fn keep_connection<S>(self: Arc<Self>, stream: S, way: Way, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let silence = self.timing.silence;
        let is_welcome = Arc::new(AtomicBool::new(false));
        let endpoint = Endpoint { distribution: self, way, shutdown: shutdown.clone(), is_welcome: is_welcome.clone() };
        let service = DistributionServer::new(endpoint).max_decoding_message_size(MAX_MESSAGE);
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .keep_alive_interval(silence)
            .keep_alive_timeout(silence)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(16 * 1024);
        let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = std::pin::pin!(connection);
        let ended: Result<(), hyper::Error> = tokio::select! {
            ended = &mut connection => ended,
            () = stays_unknown(&is_welcome, silence) => return,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(silence, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection on the port for nodes ended: {error}");
        }
    }

    /// Everything about a node that its stream needs.
    async fn welcome(
        self: &Arc<Self>,
        hello: Hello,
        certified: Option<NodeName>,
        incoming: Streaming<NodeMessage>,
        outgoing: mpsc::Sender<Outgoing>,
    ) -> Result<Peer, Status> {
        let Hello { node_id, gateway, version, kinds, policy_types, held, hostname, .. } = hello;
        let Hello { uptime_ms, held_for_ms, labels, targets, .. } = hello;
        for (what, word) in [("node id", &node_id), ("version", &version), ("host name", &hostname)] {
            let is_printable = word.chars().all(|c| !c.is_control());
            if word.len() > MAX_WORD || !is_printable || (word.is_empty() && what == "node id") {
                return Err(Status::invalid_argument(format!("its {what} is empty, too long or not printable")));
            }
        }
        let is_label = |(key, value): (&String, &String)| !key.is_empty() && key.len().max(value.len()) <= MAX_WORD;
        if labels.len() > MAX_LABELS || !labels.iter().all(is_label) {
            let text =
                format!("it has more than {MAX_LABELS} labels, or one that is empty or longer than {MAX_WORD} bytes");
            return Err(Status::invalid_argument(text));
        }
        if certified.as_ref().is_some_and(|node| node.gateway != gateway || node.node_id != node_id) {
            let text = format!("its certificate is not for the node `{node_id}` of the gateway `{gateway}`");
            return Err(Status::permission_denied(text));
        }
        let held = held.as_ref().map(head_from_wire).transpose()?;
        self.catch_up_with(&gateway, held.map_or(0, |held| held.revision), targets).await?;
        let Some(offers) = self.publisher.watch(&gateway) else {
            return Err(Status::not_found(format!("there is no gateway `{gateway}`")));
        };
        let ticket_keys = self.ticket_keys.watch(&gateway).await.map_err(|error| {
            tracing::warn!(gateway, "cannot read the keys of session tickets: {error}");
            Status::unavailable("the control plane cannot read the keys of session tickets at present")
        })?;
        let lane = self.lanes.watch(&gateway).await.map_err(|error| {
            tracing::warn!(gateway, "cannot read what is said about targets: {error}");
            Status::unavailable("the control plane cannot read what is said about targets at present")
        })?;
        let serving = held.map(|held| (held.revision, held.digest));
        tracing::info!(node.id = node_id, gateway, "a node has connected");
        let can = Capabilities::new(&version, kinds, policy_types);
        let introduction = Introduction {
            node_id: node_id.clone(),
            hostname,
            labels: labels.clone(),
            version,
            serving,
            serving_for: Duration::from_millis(held_for_ms),
            uptime: (uptime_ms > 0).then(|| Duration::from_millis(uptime_ms)),
        };
        let session = self.nodes.connect(&gateway, introduction);
        Ok(Peer {
            distribution: Arc::clone(self),
            gateway,
            position: position(&node_id),
            node_id,
            session,
            offers,
            labels,
            ticket_keys,
            lane: Lane::new(lane),
            revoked: self.trust.revocations.watch(),
            certified,
            incoming,
            outgoing,
            can,
            standing: Standing::holding(held),
            waiting: None,
            turn: None,
        })
    }
}

/// What an operator can do about an error of the machine, to go after it.
fn way_out(error: &io::Error) -> &'static str {
    // EMFILE, the limit of a process.
    match error.raw_os_error() {
        Some(24) => "; every node takes one: raise the limit of open files (LimitNOFILE of systemd, ulimit -n)",
        _ => "",
    }
}

/// A connection whose first bytes were understood.
enum Entered {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Whether the first record is that of a TLS handshake (RFC 8446 section 5.1): HTTP/2 begins with a letter.
async fn begins_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first == [22])
}

/// What tonic calls, on one connection.
struct Endpoint {
    distribution: Arc<Distribution>,
    way: Way,
    shutdown: CancellationToken,
    /// A node has shown its token on this connection.
    is_welcome: Arc<AtomicBool>,
}

/// Ends when nobody has shown a token for so long, whatever else came over the connection.
async fn stays_unknown(is_welcome: &AtomicBool, silence: Duration) {
    tokio::time::sleep(silence).await;
    if is_welcome.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

#[tonic::async_trait]
impl distribution_server::Distribution for Endpoint {
    type SubscribeStream = Map<ReceiverStream<Outgoing>, fn(Outgoing) -> Result<ControlMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let distribution = &self.distribution;
        let certified = distribution.identify(&self.way, request.metadata()).await?;
        self.is_welcome.store(true, Ordering::Relaxed);
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(distribution.timing.silence, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("it said no hello"))??;
        let Some(FromNode::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("its first message is not hello"));
        };
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let peer = distribution.welcome(hello, certified, incoming, outgoing).await?;
        distribution.peers.spawn(peer.run(self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(messages).map(|message| *message)))
    }

    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Certified>, Status> {
        self.distribution.enrol(&self.way, request.into_inner()).await.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certified>, Status> {
        self.distribution.renew(&self.way, request.into_inner()).await.map(Response::new)
    }
}

fn head_from_wire(revision: &proto::Revision) -> Result<Head, Status> {
    let digest: [u8; 32] =
        revision.digest[..].try_into().map_err(|_| Status::invalid_argument("a digest has 32 bytes"))?;
    Ok(Head { revision: revision.number, digest: Digest::from_bytes(&digest) })
}

fn head_to_wire(head: Head) -> proto::Revision {
    proto::Revision { number: head.revision, digest: bytes::Bytes::copy_from_slice(&head.digest.to_bytes()) }
}
