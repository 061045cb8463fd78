//! Light nodes: each speaks the whole protocol over mutual TLS, joins and comes back as a real one does, and takes a
//! revision for served when it has arrived. Very many live in one process, on core 1.
//!
//! The process is asked on its standard input and answers on its standard output, a line of JSON each.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use data_plane::settings::JoinTokenSource;
use data_plane::sync::{Backoff, Timing};
use data_plane::trust::{Files, Trust};
use model::policy::PolicyKind;
use model::resource::KINDS;
use parking_lot::Mutex;
use proto::control_message::Message as FromControl;
use proto::distribution_client::DistributionClient;
use proto::join::NodeName;
use proto::node_message::Message as FromNode;
use proto::{Ack, Hello, NodeHeartbeat, NodeMessage, Revision, Stage, TargetsAck};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// What a real node uses too.
const WINDOW: u32 = 1024 * 1024;
const MAX_MESSAGE: usize = 1024 * 1024;

/// Which nodes to be.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    pub count: usize,
    pub stream_port: u16,
    pub join_token: String,
    /// Where keys and certificates are kept.
    pub folder: PathBuf,
}

/// How the nodes are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub connected: usize,
    /// The oldest and the newest revision that a connected node holds.
    pub oldest: u64,
    pub newest: u64,
    /// When each node came to its present connection, in milliseconds since 1970.
    pub connected_at: Vec<u64>,
    /// When each node had its newest revision.
    pub served_at: Vec<u64>,
    /// Attempts to connect that failed.
    pub failures: u64,
    /// The last failure.
    pub failure: String,
}

/// The process with the nodes in it.
pub struct Nodes {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Nodes {
    pub fn start(plan: &Plan) -> Result<Self> {
        let mut child = Command::new("taskset")
            .args(["-c", "1"])
            .arg(std::env::current_exe()?)
            .args(["nodes", &serde_json::to_string(plan)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (ask, answers) = (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
        Ok(Self { child, ask, answers: BufReader::new(answers) })
    }

    pub fn state(&mut self) -> Result<State> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the nodes have ended")
    }

    /// Looks again and again until the nodes are so.
    pub fn wait_until(&mut self, what: &str, limit: Duration, is_so: impl Fn(&State) -> bool) -> Result<State> {
        let end = std::time::Instant::now() + limit;
        loop {
            let state = self.state()?;
            if is_so(&state) {
                return Ok(state);
            }
            if std::time::Instant::now() > end {
                let State { connected, oldest, newest, failures, failure, .. } = state;
                bail!(
                    "gave up waiting until {what}: {connected} connected, revisions {oldest} to {newest}, \
                     {failures} failures, the last: {failure}"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One node, as the others see it.
#[derive(Default)]
struct Light {
    held: Option<Revision>,
    connected_at: Option<u64>,
    served_at: u64,
}

struct Shared {
    nodes: Vec<Mutex<Light>>,
    failures: Mutex<(u64, String)>,
    endpoint: Endpoint,
    plan: Plan,
}

pub fn run_as_process(arguments: &[String]) -> Result<()> {
    let plan: Plan = serde_json::from_str(arguments.first().context("a plan is missing")?)?;
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", plan.stream_port))?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let nodes = (0..plan.count).map(|_| Mutex::default()).collect();
    let shared = Arc::new(Shared { nodes, failures: Mutex::default(), endpoint, plan });
    let of_runtime = shared.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for number in 0..of_runtime.plan.count {
                tokio::spawn(live(of_runtime.clone(), number));
            }
            std::future::pending::<()>().await;
        });
    });
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", serde_json::to_string(&shared.state())?);
    }
    Ok(())
}

impl Shared {
    fn state(&self) -> State {
        let mut state = State { oldest: u64::MAX, ..State::default() };
        for node in &self.nodes {
            let node = node.lock();
            let Some(connected_at) = node.connected_at else { continue };
            let held = node.held.as_ref().map_or(0, |held| held.number);
            state.connected += 1;
            state.oldest = state.oldest.min(held);
            state.newest = state.newest.max(held);
            state.connected_at.push(connected_at);
            state.served_at.push(node.served_at);
        }
        (state.failures, state.failure) = self.failures.lock().clone();
        state
    }
}

async fn live(shared: Arc<Shared>, number: usize) {
    let name = NodeName { gateway: "default".to_owned(), node_id: format!("light-{number}") };
    let token = JoinTokenSource::Text(shared.plan.join_token.clone());
    let folder = shared.plan.folder.join(&name.node_id);
    let trust = Trust::open(Files::open(&folder, None).expect("a folder"), Some(token), name.clone())
        .expect("a folder for a key");
    let retry = Timing::default().retry;
    let mut backoff = Backoff::new(retry);
    loop {
        let began = Instant::now();
        let ended = converse(&shared, number, &name, &trust).await;
        let was_connected = shared.nodes[number].lock().connected_at.take().is_some();
        if let Err(error) = ended {
            let mut failures = shared.failures.lock();
            failures.0 += u64::from(!was_connected);
            failures.1 = format!("{error:#}");
        }
        if was_connected && began.elapsed() > retry.1 {
            backoff.reset();
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// One connection, to its end.
async fn converse(shared: &Shared, number: usize, name: &NodeName, trust: &Trust) -> Result<()> {
    let Timing { heartbeat, silence, .. } = Timing::default();
    let node = &shared.nodes[number];
    let (outgoing, messages) = mpsc::channel(32);
    let hello = FromNode::Hello(hello(name, node.lock().held.clone()));
    outgoing.try_send(NodeMessage { message: Some(hello) })?;
    let connecting = async {
        let channel = trust.connect(&shared.endpoint).await.map_err(|lost| anyhow!("{lost}"))?;
        let mut client = DistributionClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok::<_, anyhow::Error>(client.subscribe(ReceiverStream::new(messages)).await?.into_inner())
    };
    let mut incoming = timeout(silence, connecting).await??;
    node.lock().connected_at = Some(unix_ms());
    let mut heartbeat = interval(heartbeat);
    let mut arriving = None;
    let mut silent_at = Instant::now() + silence;
    loop {
        tokio::select! {
            message = timeout_at(silent_at, incoming.message()) => {
                silent_at = Instant::now() + silence;
                match message??.context("the control plane ended the stream")?.message {
                    Some(FromControl::Begin(begin)) => arriving = begin.revision,
                    Some(FromControl::Commit(_)) => {
                        let revision = arriving.take().context("a commit of nothing")?;
                        for stage in [Stage::Received, Stage::Compiled, Stage::Serving] {
                            let ack = Ack { revision: Some(revision.clone()), stage: stage.into(), unix_time_ms: unix_ms() };
                            say(&outgoing, FromNode::Ack(ack));
                        }
                        let mut node = node.lock();
                        node.held = Some(revision);
                        node.served_at = unix_ms();
                    }
                    Some(FromControl::Targets(targets)) if !targets.more => {
                        say(&outgoing, FromNode::TargetsAck(TargetsAck { version: targets.version }));
                    }
                    _ => {}
                }
            }
            _ = heartbeat.tick() => {
                let serving = node.lock().held.clone();
                let beat = NodeHeartbeat { serving, unix_time_ms: unix_ms(), ..NodeHeartbeat::default() };
                say(&outgoing, FromNode::Heartbeat(beat));
            }
        }
    }
}

/// Without room it is left out, as by a real node.
fn say(outgoing: &mpsc::Sender<NodeMessage>, message: FromNode) {
    let _ = outgoing.try_send(NodeMessage { message: Some(message) });
}

fn hello(name: &NodeName, held: Option<Revision>) -> Hello {
    Hello {
        node_id: name.node_id.clone(),
        gateway: name.gateway.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kinds: KINDS.iter().map(|info| info.singular.to_owned()).collect(),
        policy_types: PolicyKind::names().map(str::to_owned).collect(),
        held,
        hostname: "light".to_owned(),
        uptime_ms: 1,
        ..Hello::default()
    }
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
