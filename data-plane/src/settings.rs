//! What this node is told by flags and environment; everything else comes with the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// What this node is told by flags and environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway that this node belongs to.
    pub gateway: String,
    /// Its name in the fleet; without one, it makes one up and keeps it in `data_dir`.
    pub node_id: Option<String>,
    /// Where it keeps its last good configuration.
    pub data_dir: PathBuf,
    /// Where its configuration comes from; without one it serves the last good.
    pub control_plane: Option<ControlPlane>,
    /// Where metrics and health are served.
    pub node_port: SocketAddr,
    /// How many cores serve requests.
    pub cores: NonZeroUsize,
    pub limits: Limits,
    pub drain: Drain,
    /// Add a `Via` field (RFC 9110 section 7.6.3) to what passes.
    pub via: bool,
    /// Write a line for each request to standard output.
    pub access_log: bool,
}

/// The stream of configuration.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// `http://127.0.0.1:8082`
    pub url: String,
    /// A file with the authorities that an https control plane is trusted by, in PEM form; without it, those of the system.
    pub ca_file: Option<PathBuf>,
    /// A file that holds the node token.
    pub token_file: PathBuf,
}

/// Bounds that hold for every client.
#[derive(Clone, Debug)]
pub struct Limits {
    pub tls_handshake: Duration,
    /// From the first byte of a request until the end of its head.
    pub header: Duration,
    /// Between two requests, and without progress of a response that the client does not take.
    pub idle: Duration,
    /// When a connection is asked to go, give or take a tenth, so that clients spread over new nodes.
    pub connection_age: Duration,
    /// Sum of names and values of all header fields, each with 32 bytes for its bookkeeping (RFC 9113 section 6.5.2).
    pub header_bytes: usize,
    pub header_fields: usize,
    pub uri_bytes: usize,
    /// Largest request body.
    pub body_bytes: u64,
    /// Least bytes per second of a request body that the gateway waits for.
    pub body_rate: u64,
    /// How long a request body may be slower than that.
    pub body_grace: Duration,
    pub streams: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    /// Connections of one core; further ones wait to be accepted.
    pub connections_per_core: usize,
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
            data_dir,
            control_plane: None,
            node_port: SocketAddr::from((Ipv4Addr::LOCALHOST, 8083)),
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
            drain: Drain::default(),
            via: false,
            access_log: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            connection_age: Duration::from_secs(3600),
            header_bytes: 32 * 1024,
            header_fields: 128,
            uri_bytes: 8 * 1024,
            body_bytes: 1024 * 1024 * 1024,
            body_rate: 1024,
            body_grace: Duration::from_secs(10),
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            connections_per_core: 16 * 1024,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), timeout: Duration::from_secs(60) }
    }
}
