//! `sluice control-plane` and `sluice data-plane`: the roles of a production installation, each in a process of its own.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::logging::Logging;
use crate::signals::Signals;
use crate::{Outcome, output, ports};

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

    /// Where the configuration stream is
    #[arg(long, env = "SLUICE_STREAM", default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    stream: SocketAddr,

    /// A certificate in PEM form, with its chain, for the stream: nodes then connect to https. It is read again for
    /// every connection
    #[arg(long, env = "SLUICE_STREAM_CERT", value_name = "FILE", requires = "stream_key")]
    stream_cert: Option<PathBuf>,

    /// The private key of that certificate, in PEM form
    #[arg(long, env = "SLUICE_STREAM_KEY", value_name = "FILE", requires = "stream_cert")]
    stream_key: Option<PathBuf>,

    #[command(flatten)]
    logging: Logging,
}

/// Forward traffic, with the configuration of a control plane
#[derive(Args)]
pub struct DataPlane {
    /// The configuration stream of a control plane, http://127.0.0.1:8082 for example, or https
    #[arg(long, env = "SLUICE_CONTROL_PLANE", value_name = "URL")]
    control_plane: String,

    /// A file with the authorities, in PEM form, that an https control plane is trusted by [default: those of the
    /// system]
    #[arg(long, env = "SLUICE_CONTROL_PLANE_CA", value_name = "FILE")]
    control_plane_ca: Option<PathBuf>,

    /// A file with the node token
    #[arg(long, env = "SLUICE_NODE_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,

    /// The gateway that this node belongs to
    #[arg(long, env = "SLUICE_GATEWAY", default_value = "default", value_name = "NAME")]
    gateway: String,

    /// Where the node keeps its identity and its last good configuration
    #[arg(long, env = "SLUICE_DATA_DIR", default_value = "./sluice-data", value_name = "FOLDER")]
    data_dir: PathBuf,

    /// Where metrics and health are
    #[arg(long, env = "SLUICE_NODE", default_value = "127.0.0.1:8083", value_name = "ADDRESS")]
    node: SocketAddr,

    /// Where the node stands: targets of services in the same zone come first [default: nowhere]
    #[arg(long, env = "SLUICE_ZONE", value_name = "NAME")]
    zone: Option<String>,

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
        settings.stream_tls = self
            .stream_cert
            .zip(self.stream_key)
            .map(|(certificate, key)| control_plane::settings::StreamTls { certificate, key });
        if let Some(url) = self.database_url {
            settings.database_url = url;
        }
        until_signalled(|stop| async { Ok(control_plane::run(settings, stop, |_| {}).await?) })
    }
}

impl DataPlane {
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.logging.start("info")?;
        ports::check(&[("--node", self.node)])?;
        let mut settings = data_plane::settings::Settings::new(self.data_dir);
        settings.gateway = self.gateway;
        settings.node_port = self.node;
        settings.zone = self.zone;
        settings.access_log = self.access_log == AccessLog::Stdout;
        self.capacity.apply(&mut settings);
        let (url, ca_file, token_file) = (self.control_plane, self.control_plane_ca, self.token_file);
        settings.control_plane = Some(data_plane::settings::ControlPlane { url, ca_file, token_file });
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

/// For everything but requests, which have cores of their own.
pub fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("sluice")
        .enable_all()
        .build()
        .context("cannot start threads")
}
