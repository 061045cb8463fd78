//! `sluice control-plane` and `sluice data-plane`: the roles of a production installation, each in a process of its own.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use control_plane::trust::master_key::MasterKeySource;
use data_plane::settings::{JoinTokenSource, Proof};
use model::value::Span;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::labels::NodeLabels;
use crate::logging::Logging;
use crate::signals::Signals;
use crate::{Outcome, descriptors, output, ports};

/// Keep the configuration and publish it to the nodes
#[derive(Args)]
pub struct ControlPlane {
    /// `postgres://user@host/name`, or a path of a SQLite file [default: sluice.db in the data folder]
    #[arg(long, env = "SLUICE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// Where the tokens are written at the first start
    #[arg(long, env = "SLUICE_DATA_DIR", default_value = "./sluice-data", value_name = "FOLDER")]
    data_dir: PathBuf,

    /// Where the admin API is
    #[arg(long, env = "SLUICE_ADMIN", default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    admin: SocketAddr,

    /// Where the configuration stream is: over TLS, and on loopback over plain text too
    #[arg(long, env = "SLUICE_STREAM", default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    stream: SocketAddr,

    /// A file with the keys that seal secrets in the database: a line of 64 hexadecimal digits for each, as
    /// `openssl rand -hex 32` makes. The first seals, all open. SLUICE_MASTER_KEY may hold the keys themselves
    /// [default: with SQLite, `master-key` in the data folder, made at the first start]
    #[arg(long, env = "SLUICE_MASTER_KEY_FILE", value_name = "FILE")]
    master_key_file: Option<PathBuf>,

    /// The certificate of an authority of your own for nodes, in PEM form [default: one that is made at the first start
    /// and kept in the database]
    #[arg(long, env = "SLUICE_AUTHORITY_CERT", value_name = "FILE", requires = "authority_key")]
    authority_cert: Option<PathBuf>,

    /// The private key of that authority, ECDSA on P-256, in PEM form. While one takes the place of another, both files hold
    /// both: the first certifies
    #[arg(long, env = "SLUICE_AUTHORITY_KEY", value_name = "FILE", requires = "authority_cert")]
    authority_key: Option<PathBuf>,

    /// How long the certificate of a node is good; it renews it when two thirds of that are over
    #[arg(long, env = "SLUICE_CERTIFICATE_LIFETIME", default_value = "24h", value_name = "DURATION")]
    certificate_lifetime: Span,

    /// How many revisions of each gateway are kept, to look at and to go back to. Those that nodes serve are kept anyway
    #[arg(long, env = "SLUICE_KEEP_REVISIONS", default_value = "100000", value_name = "N")]
    keep_revisions: NonZeroU64,

    /// How long they are kept at most [default: for ever]
    #[arg(long, env = "SLUICE_KEEP_REVISIONS_FOR", value_name = "DURATION")]
    keep_revisions_for: Option<Span>,

    #[command(flatten)]
    logging: Logging,
}

/// Forward traffic, with the configuration of a control plane
#[derive(Args)]
pub struct DataPlane {
    /// The configuration stream of a control plane: https://control.internal:8082, or http://127.0.0.1:8082 on loopback
    #[arg(long, env = "SLUICE_CONTROL_PLANE", value_name = "URL")]
    control_plane: String,

    /// A file with a join token, which a node needs once: `sluice join-token create` makes it. SLUICE_JOIN_TOKEN may
    /// hold the token itself
    #[arg(long, env = "SLUICE_JOIN_TOKEN_FILE", value_name = "FILE", conflicts_with = "token_file")]
    join_token_file: Option<PathBuf>,

    /// A file with the token that nodes on loopback share, for an http control plane
    #[arg(long, env = "SLUICE_NODE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The gateway that this node belongs to [default: that of the join token, or the one it has joined, or `default`]
    #[arg(long, env = "SLUICE_GATEWAY", value_name = "NAME")]
    gateway: Option<String>,

    /// Where the node keeps its identity and its last good configuration
    #[arg(long, env = "SLUICE_DATA_DIR", default_value = "./sluice-data", value_name = "FOLDER")]
    data_dir: PathBuf,

    /// The private key of the node, ECDSA on P-256 in PEM form, made at the first start if it is not there. What the node
    /// keeps on its disk is sealed by it: away from the data folder, that folder alone is of no use to a thief
    /// [default: trust/node.key in the data folder]
    #[arg(long, env = "SLUICE_NODE_KEY_FILE", value_name = "FILE")]
    node_key_file: Option<PathBuf>,

    /// Where metrics and health are
    #[arg(long, env = "SLUICE_NODE", default_value = "127.0.0.1:8083", value_name = "ADDRESS")]
    node: SocketAddr,

    /// Where listeners that are bound to all addresses are opened: for a machine with several networks, or several nodes
    /// [default: on all addresses]
    #[arg(long, env = "SLUICE_LISTEN_ADDRESS", value_name = "IP")]
    listen_address: Option<IpAddr>,

    /// Where the node stands: targets of services in the same zone come first [default: nowhere]
    #[arg(long, env = "SLUICE_ZONE", value_name = "NAME")]
    zone: Option<String>,

    #[command(flatten)]
    labels: NodeLabels,

    #[command(flatten)]
    capacity: Capacity,

    /// Whether a line of JSON is written for each request
    #[arg(long, env = "SLUICE_ACCESS_LOG", value_enum, default_value = "stdout")]
    access_log: AccessLog,

    #[command(flatten)]
    logging: Logging,
}

/// What serving requests may take of the machine.
#[derive(Args)]
pub struct Capacity {
    /// How many cores serve requests [default: all]
    #[arg(long, env = "SLUICE_CORES", value_name = "N")]
    cores: Option<NonZeroUsize>,

    /// Memory that the process may have: from 80% on it closes waiting connections, from 90% it takes nothing new,
    /// from 95% it resets the largest connections [default: that of the control group or the machine]
    #[arg(long, env = "SLUICE_MEMORY_MIB", value_name = "MIB")]
    memory_mib: Option<NonZeroU32>,
}

/// Where the access log goes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    Stdout,
    Off,
}

impl ControlPlane {
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.logging.start("info")?;
        ports::check(&[("--admin", self.admin), ("--stream", self.stream)])?;
        let mut settings = control_plane::settings::Settings::new(self.data_dir);
        settings.admin_bind = self.admin;
        settings.stream_bind = self.stream;
        settings.master_key = master_key(self.master_key_file);
        settings.authority = self
            .authority_cert
            .zip(self.authority_key)
            .map(|(certificate, key)| control_plane::settings::AuthorityFiles { certificate, key });
        settings.certificate_lifetime = self.certificate_lifetime.get();
        settings.history.revisions = self.keep_revisions.get();
        settings.history.age = self.keep_revisions_for.map(Span::get);
        if let Some(url) = self.database_url {
            settings.database_url = url;
        }
        until_signalled(|stop| async { Ok(control_plane::run(settings, stop, |_| {}).await?) })
    }
}

/// A file that is named comes before keys in the environment. They are no argument: everybody sees those.
pub fn master_key(file: Option<PathBuf>) -> Option<MasterKeySource> {
    let written = || std::env::var("SLUICE_MASTER_KEY").ok().filter(|keys| !keys.is_empty());
    file.map(MasterKeySource::File).or_else(|| written().map(MasterKeySource::Text))
}

/// The same for a join token.
fn join_token(file: Option<PathBuf>) -> Option<JoinTokenSource> {
    let written = || std::env::var("SLUICE_JOIN_TOKEN").ok().filter(|token| !token.is_empty());
    file.map(JoinTokenSource::File).or_else(|| written().map(JoinTokenSource::Text))
}

impl DataPlane {
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.logging.start("info")?;
        ports::check(&[("--node", self.node)])?;
        let mut settings = data_plane::settings::Settings::new(self.data_dir);
        let join_token = join_token(self.join_token_file);
        let joined = || data_plane::trust::gateway_of(&settings.data_dir);
        let gateway = self.gateway.or_else(|| join_token.as_ref()?.gateway()).or_else(joined);
        if let Some(gateway) = gateway {
            settings.gateway = gateway;
        }
        settings.node_port = self.node;
        settings.listen_address = self.listen_address;
        settings.node_key_file = self.node_key_file;
        settings.zone = self.zone;
        self.labels.apply(&mut settings);
        settings.access_log = self.access_log == AccessLog::Stdout;
        self.capacity.apply(&mut settings);
        let proof = match self.token_file {
            Some(file) => Proof::SharedToken(file),
            None => Proof::Certificate { join_token },
        };
        settings.control_plane = Some(data_plane::settings::ControlPlane { url: self.control_plane, proof });
        until_signalled(|stop| async { Ok(data_plane::run(settings, stop).await?) })
    }
}

impl Capacity {
    pub fn apply(&self, settings: &mut data_plane::settings::Settings) {
        if let Some(cores) = self.cores {
            settings.cores = cores;
        }
        if let Some(mib) = self.memory_mib {
            settings.memory_budget = u64::from(mib.get()) * 1024 * 1024;
        }
    }
}

/// Runs a plane; the first signal asks it to end, the second does not wait for that.
fn until_signalled<F>(plane: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<Outcome>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let stop = CancellationToken::new();
        let mut plane = std::pin::pin!(plane(stop.clone()));
        tokio::select! {
            ended = &mut plane => return ended,
            () = signals.next() => stop.cancel(),
        }
        output::message("draining; once more to stop at once");
        tokio::select! {
            ended = plane => ended,
            () = signals.next() => Ok(()),
        }
    });
    runtime.shutdown_background();
    outcome.map(|()| Outcome::Done)
}

/// For everything but requests, which have cores of their own. What runs on it opens many sockets.
pub fn runtime() -> anyhow::Result<Runtime> {
    descriptors::raise_limit();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("sluice")
        .enable_all()
        .build()
        .context("cannot start threads")
}
