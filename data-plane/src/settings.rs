//! What this node is told by flags and environment; everything else comes with the configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use model::resource::Labels;

/// What this node is told by flags and environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway that this node belongs to.
    pub gateway: String,
    /// Its name in the fleet; without one, it makes one up and keeps it in `data_dir`.
    pub node_id: Option<String>,
    /// Where it stands: targets of services in the same zone come first.
    pub zone: Option<String>,
    /// By which operators choose nodes.
    pub labels: Labels,
    /// Where it keeps its last good configuration.
    pub data_dir: PathBuf,
    /// Where it keeps its key, from which that of its files is derived; without one, in `data_dir`.
    pub node_key_file: Option<PathBuf>,
    /// Where its configuration comes from; without one it serves the last good.
    pub control_plane: Option<ControlPlane>,
    /// Where metrics and health are served.
    pub node_port: SocketAddr,
    /// Where listeners of all addresses are opened; without one, on all.
    pub listen_address: Option<IpAddr>,
    /// How many cores serve requests.
    pub cores: NonZeroUsize,
    /// Connections of one core, over all listeners; further ones wait to be accepted. What clients may ask of a
    /// listener is a matter of its `limits`.
    pub connections_per_core: usize,
    /// Bytes of memory that the process may have: from 80% of them on it gives up what it can ([`crate::memory`]).
    pub memory_budget: u64,
    pub drain: Drain,
    /// Add a `Via` field (RFC 9110 section 7.6.3) to what passes.
    pub via: bool,
    /// Write a line for each request to standard output.
    pub access_log: bool,
}

/// The stream of configuration.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// `https://control.internal:8082`, or `http://127.0.0.1:8082` with a shared token.
    pub url: String,
    pub proof: Proof,
}

/// How a node proves who it is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By its certificate, for which it needs a join token once.
    Certificate { join_token: Option<JoinTokenSource> },
    /// By a token that nodes on loopback share, in a file.
    SharedToken(PathBuf),
}

/// Where a join token comes from.
#[derive(Clone)]
pub enum JoinTokenSource {
    File(PathBuf),
    /// The token itself.
    Text(String),
}

/// Says where it comes from, and nothing of it.
impl fmt::Debug for JoinTokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

/// How the node leaves.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// How long it accepts requests after its readiness fails, so that load balancers notice.
    pub delay: Duration,
    /// When it ends what still runs, counted from the first moment.
    pub timeout: Duration,
}

impl Settings {
    /// Defaults for a node of the gateway `default` that keeps its files in `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            gateway: "default".into(),
            node_id: None,
            zone: None,
            labels: Labels::new(),
            data_dir,
            node_key_file: None,
            control_plane: None,
            node_port: SocketAddr::from((Ipv4Addr::LOCALHOST, 8083)),
            listen_address: None,
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            connections_per_core: 16 * 1024,
            memory_budget: crate::memory::available(),
            drain: Drain::default(),
            via: false,
            access_log: true,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), timeout: Duration::from_secs(60) }
    }
}
