//! Both planes as the tests of the stream start, stop and watch them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control_plane::distribution::{self, Distribution};
use control_plane::nodes::{Goal, NodeStatus, Nodes, Quorum, WaitOutcome};
use control_plane::publish::{Change, Publisher, Staging};
use control_plane::store::{self, Store, StoredToken};
use control_plane::targets::Lanes;
use control_plane::ticket_keys::TicketKeys;
use control_plane::token::{Role, Tokens};
use control_plane::trust::{CERTIFICATE_LIFETIME, Trust};
use data_plane::settings::{ControlPlane as From, Proof, Settings};
use data_plane::sync::{self, Adopt, Status, Sync, TicketSecret};
use model::config::Edit;
use model::digest::{Digest, sha256};
use model::membership::Membership;
use model::problem::{Fault, Problems};
use model::resource::{Key, Kind, Name};
use model::sealing::{KEY_BYTES, SealingKey};
use model::snapshot::Snapshot;
use serde_json::json;
use tempfile::TempDir;
use tests::address::free_address;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const GATEWAY: &str = "default";
pub const TOKEN: &str = "the token of the nodes";
pub const ADMIN_TOKEN: &str = "the token of the admins";

/// Longer than anything here takes; a test that gets there has failed.
pub const LONG: Duration = Duration::from_secs(30);

/// Short enough to see liveness at work, long enough for two busy cores.
const HEARTBEAT: Duration = Duration::from_millis(50);
const SILENCE: Duration = Duration::from_secs(2);

/// A control plane on a database and a port that survive its restarts.
pub struct ControlPlane {
    pub publisher: Arc<Publisher>,
    pub nodes: Arc<Nodes>,
    pub ticket_keys: Arc<TicketKeys>,
    pub lanes: Arc<Lanes>,
    pub distribution: Arc<Distribution>,
    pub address: SocketAddr,
    directory: TempDir,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory).await;
        for (token, role) in [(TOKEN, Role::Node), (ADMIN_TOKEN, Role::Admin)] {
            let token = StoredToken { hash: sha256(token.as_bytes()), role, name: format!("the {role}s") };
            store.add_token(&token).await.expect("a token");
        }
        let listener = TcpListener::bind(free_address()).await.expect("a port");
        Self::on(directory, store, listener).await
    }

    async fn on(directory: TempDir, store: Arc<dyn Store>, listener: TcpListener) -> Self {
        let publisher = Publisher::start(store.clone()).await.expect("a publisher");
        let ticket_keys = TicketKeys::start(store.clone()).await.expect("ticket keys");
        let lanes = Lanes::start(publisher.clone()).await.expect("lanes");
        let seal = Arc::new(SealingKey::new(&[7; KEY_BYTES]));
        let trust = Trust::start(store.clone(), seal, None, CERTIFICATE_LIFETIME).await.expect("an authority");
        let (nodes, tokens) = (Nodes::new(), Tokens::new(store));
        let timing = distribution::Timing { heartbeat: HEARTBEAT, silence: SILENCE };
        let (revisions, keys) = (publisher.clone(), ticket_keys.clone());
        let distribution = Distribution::new(revisions, tokens, nodes.clone(), keys, lanes.clone(), trust, timing);
        let address = listener.local_addr().expect("it is bound");
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(distribution.clone().serve(listener, None, shutdown.clone()));
        Self { publisher, nodes, ticket_keys, lanes, distribution, address, directory, shutdown, served }
    }

    /// Ends the stream and the memory of it; the database stays.
    pub async fn stop(self) -> Stopped {
        self.shutdown.cancel();
        self.served.await.expect("it ends");
        Stopped { directory: self.directory, address: self.address }
    }

    /// Makes a revision.
    pub async fn publish(&self, edits: Vec<Edit>) -> u64 {
        let (before, revision) = (self.head().0, self.publish_if_new(edits).await);
        assert!(revision > before, "the edits change something");
        revision
    }

    /// The head afterwards.
    pub async fn publish_if_new(&self, edits: Vec<Edit>) -> u64 {
        let edits = Arc::new(move |_: &Snapshot| Ok(edits.clone()));
        let change = Change {
            author: "a test".to_owned(),
            message: String::new(),
            base: None,
            edits,
            staging: Staging::Default,
        };
        self.publisher.publish(GATEWAY, change).await.expect("good edits").revision
    }

    pub fn head(&self) -> (u64, Digest) {
        let head = self.publisher.head(GATEWAY).expect("a gateway");
        (head.revision, head.config.digest())
    }

    pub async fn all_serve(&self, revision: u64) -> WaitOutcome {
        self.nodes.wait_serving(GATEWAY, Goal::Revision(revision), &Quorum::default(), LONG).await
    }

    pub fn node(&self) -> NodeStatus {
        let mut nodes = self.nodes.list(GATEWAY);
        assert_eq!(nodes.len(), 1);
        nodes.remove(0)
    }

    pub async fn until(&self, what: &str, mut is_true: impl FnMut(&Nodes) -> bool) {
        let mut changes = self.nodes.changes();
        let waiting = async {
            while !is_true(&self.nodes) {
                changes.changed().await.expect("the nodes are watched");
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

async fn open(directory: &TempDir) -> Arc<dyn Store> {
    let path = directory.path().join("sluice.db");
    store::open(path.to_str().expect("a path in UTF-8")).await.expect("a database")
}

pub struct Stopped {
    directory: TempDir,
    address: SocketAddr,
}

impl Stopped {
    pub async fn start(self) -> ControlPlane {
        let store = open(&self.directory).await;
        let listener = TcpListener::bind(self.address).await.expect("its port");
        ControlPlane::on(self.directory, store, listener).await
    }
}

/// Cores that only remember what they were given, and refuse what holds a route called `refused`, and everything while
/// another process has their port.
#[derive(Clone)]
pub struct FakeCores {
    adopted: Arc<std::sync::Mutex<Vec<u64>>>,
    served: watch::Sender<Option<Arc<Snapshot>>>,
    /// Adopting waits until this is open.
    gate: watch::Sender<bool>,
    port_is_taken: watch::Sender<bool>,
    pub ticket_keys: watch::Sender<Vec<TicketSecret>>,
    pub cookie_key: watch::Sender<Option<TicketSecret>>,
    pub targets: watch::Sender<Membership>,
}

impl FakeCores {
    pub fn new() -> Self {
        let (served, gate) = (watch::Sender::new(None), watch::Sender::new(true));
        let port_is_taken = watch::Sender::new(false);
        let (ticket_keys, cookie_key, targets) = Default::default();
        Self { adopted: Arc::default(), served, gate, port_is_taken, ticket_keys, cookie_key, targets }
    }

    pub fn with_port_taken() -> Self {
        let cores = Self::new();
        cores.port_is_taken.send_replace(true);
        cores
    }

    pub fn free_port(&self) {
        self.port_is_taken.send_replace(false);
    }

    pub fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// The revisions that came, in order.
    pub fn adopted(&self) -> Vec<u64> {
        self.adopted.lock().expect("no panics").clone()
    }

    pub fn served(&self) -> Option<Arc<Snapshot>> {
        self.served.borrow().clone()
    }

    /// Waits until something is being adopted.
    pub async fn until_adopting(&self, revision: u64) {
        self.until_adopted(|adopted| adopted.last() == Some(&revision)).await;
    }

    /// Waits until what came is what is waited for.
    pub async fn until_adopted(&self, is_true: impl Fn(&[u64]) -> bool) {
        let waiting = async {
            while !is_true(&self.adopted()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("it comes");
    }
}

impl Adopt for FakeCores {
    async fn adopt(&self, snapshot: Arc<Snapshot>) -> Result<(), Problems> {
        self.adopted.lock().expect("no panics").push(snapshot.revision);
        self.gate.subscribe().wait_for(|is_open| *is_open).await.expect("the gate is there");
        if snapshot.routes.find("refused").is_some() {
            let key = Key::new(Kind::Route, "refused".parse().expect("a name"));
            return Err(vec![Fault::new("/hosts/0", "invalid-value", "it cannot be served here").at(&key)]);
        }
        if *self.port_is_taken.borrow() {
            return Err(vec![
                Fault::new("/bind", "address-in-use", "the port is taken").in_resource(Kind::Listener, "web"),
            ]);
        }
        self.served.send_replace(Some(snapshot));
        Ok(())
    }

    fn retarget(&self, membership: Membership, _: Vec<Name>) -> impl Future<Output = ()> + Send + 'static {
        self.targets.send_replace(membership);
        std::future::ready(())
    }

    fn use_ticket_keys(&self, secrets: &[TicketSecret]) {
        self.ticket_keys.send_replace(secrets.to_vec());
    }

    fn use_cookie_key(&self, secret: &TicketSecret) {
        self.cookie_key.send_replace(Some(*secret));
    }
}

/// A node with its data directory.
pub struct Node {
    pub cores: FakeCores,
    pub status: watch::Receiver<Status>,
    shutdown: CancellationToken,
    ran: JoinHandle<()>,
}

impl Node {
    pub async fn start(control_plane: SocketAddr, data_dir: &Path) -> Self {
        Self::with_token(control_plane, data_dir, TOKEN).await
    }

    pub async fn with_token(control_plane: SocketAddr, data_dir: &Path, token: &str) -> Self {
        let token_file = data_dir.join("node-token");
        std::fs::write(&token_file, format!("{token}\n")).expect("a file");
        let url = format!("http://{control_plane}");
        Self::with_source(Some(From { url, proof: Proof::SharedToken(token_file) }), data_dir).await
    }

    pub async fn with_source(source: Option<From>, data_dir: &Path) -> Self {
        Self::with_cores(FakeCores::new(), source, data_dir).await
    }

    pub async fn with_cores(cores: FakeCores, source: Option<From>, data_dir: &Path) -> Self {
        let settings = Settings { control_plane: source, ..Settings::new(data_dir.to_owned()) };
        let retry = (Duration::from_millis(5), Duration::from_millis(100));
        let timing = sync::Timing { heartbeat: HEARTBEAT, silence: SILENCE, retry };
        let sync = Sync::start(&settings, cores.clone()).await.expect("a data directory").with_timing(timing);
        let (status, shutdown) = (sync.status(), CancellationToken::new());
        let ran = tokio::spawn(sync.run(shutdown.clone()));
        Self { cores, status, shutdown, ran }
    }

    pub async fn until(&mut self, what: &str, is_true: impl FnMut(&Status) -> bool) -> Status {
        let waited = tokio::time::timeout(LONG, self.status.wait_for(is_true)).await;
        waited.unwrap_or_else(|_| panic!("never: {what}")).expect("the node runs").clone()
    }

    pub async fn until_serving(&mut self, (revision, digest): (u64, Digest)) -> Status {
        let what = format!("revision {revision} is served");
        let is_served = |status: &Status| {
            status.serving.is_some_and(|serving| serving.revision == revision && serving.digest == digest)
        };
        self.until(&what, is_served).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.ran.await.expect("it ends");
    }
}

/// A route that differs by `status`.
pub fn put(name: &str, status: u16) -> Edit {
    let spec = json!({"hosts": ["a.test"], "paths": [format!("/{name}")], "respond": {"status": status}});
    Edit::Put { kind: Kind::Route, name: name.to_owned(), spec }
}

pub fn remove(name: &str) -> Edit {
    Edit::Remove { key: Key::new(Kind::Route, name.parse().expect("a name")) }
}
