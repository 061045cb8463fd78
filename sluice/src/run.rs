//! `sluice run`: control plane, data plane and SQLite in one process. What a newcomer starts is what production runs:
//! the planes talk over the real stream, and the configuration comes in through the real admin API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use data_plane::settings::{JoinTokenSource, Proof};
use http::Method;
use model::resource::service::TargetUrl;
use serde_json::Value;
use tokio::sync::oneshot;

use self::plane::Plane;
use crate::client::{Client, Query};
use crate::files::{FileArguments, Files};
use crate::labels::NodeLabels;
use crate::logging::Logging;
use crate::roles::{AccessLog, Capacity};
use crate::signals::Signals;
use crate::views::MadeJoinToken;
use crate::{Outcome, output, ports, roles};

mod configuration;
mod demo;
mod follow;
mod plane;
mod samples;

type ControlPlane = Plane<control_plane::RunError>;
type DataPlane = Plane<data_plane::RunError>;

/// Everything in one process: control plane, data plane, SQLite
///
/// The configuration is kept in the data folder, so that the next start finds it again. `--to` and `--file` replace
/// it, `--demo` is for the first start; without any of them the gateway goes on with what it has.
#[derive(Args)]
pub struct Run {
    /// Start with a commented example and two sample services inside
    #[arg(long, conflicts_with_all = ["to", "files"])]
    demo: bool,

    /// Proxy everything to this address, http://localhost:3000 for example
    #[arg(long, value_name = "URL", conflicts_with = "files")]
    to: Option<TargetUrl>,

    /// Load these files and follow their changes
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Where traffic comes in, for the listener `web` [default: 0.0.0.0:8080]
    #[arg(long, env = "SLUICE_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Where the admin API is
    #[arg(long, env = "SLUICE_ADMIN", default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    admin: SocketAddr,

    /// Where the configuration stream is
    #[arg(long, env = "SLUICE_STREAM", default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    stream: SocketAddr,

    /// Where metrics and health of the node are
    #[arg(long, env = "SLUICE_NODE", default_value = "127.0.0.1:8083", value_name = "ADDRESS")]
    node: SocketAddr,

    /// Where everything is kept
    #[arg(long, env = "SLUICE_DATA_DIR", default_value = "./sluice-data", value_name = "FOLDER")]
    data_dir: PathBuf,

    /// Where the node stands: targets of services in the same zone come first [default: nowhere]
    #[arg(long, env = "SLUICE_ZONE", value_name = "NAME")]
    zone: Option<String>,

    #[command(flatten)]
    labels: NodeLabels,

    #[command(flatten)]
    capacity: Capacity,

    /// Whether a line of JSON is written for each request
    #[arg(long, env = "SLUICE_ACCESS_LOG", value_enum, default_value = "off")]
    access_log: AccessLog,

    #[command(flatten)]
    logging: Logging,
}

impl Run {
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.logging.start("warn")?;
        // A file that cannot be read is known before anything is started.
        let files = match self.files.is_empty() {
            true => None,
            false => Some(FileArguments::new(self.files.clone()).read()?),
        };
        ports::check(&[("--admin", self.admin), ("--stream", self.stream), ("--node", self.node)])?;
        let runtime = roles::runtime()?;
        let outcome = runtime.block_on(self.serve(files));
        runtime.shutdown_background();
        outcome.map(|()| Outcome::Done)
    }

    async fn serve(&self, files: Option<Files>) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let (mut control, running) = self.start_control_plane().await?;
        let client = self.client(&running)?;
        // The configuration comes first, so that the node finds it when it starts.
        let preparing = async {
            let prepared = self.prepare(&client, files.as_ref()).await?;
            anyhow::Ok((prepared, self.proof(&client, &running).await?))
        };
        let prepared = tokio::select! {
            prepared = preparing => prepared.map(Some),
            error = control.ended() => Err(error),
            () = signals.next() => Ok(None),
        };
        let (prepared, proof) = match prepared {
            Ok(Some(prepared)) => prepared,
            other => {
                control.stop().await;
                return other.map(|_| ());
            }
        };
        let mut data = self.start_data_plane(&running, proof);
        let working = async {
            prepared.wait_until_served(&client).await?;
            self.welcome(&client).await?;
            match files {
                Some(files) => follow::follow(&client, &self.files, files, |body| self.complete(body)).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = working => outcome,
            error = control.ended() => Err(error),
            error = data.ended() => Err(error),
            () = signals.next() => Ok(()),
        };
        if outcome.is_ok() {
            output::message("draining; once more to stop at once");
        }
        // The data plane drains first, while the control plane still answers.
        let stopping = async {
            data.stop().await;
            control.stop().await;
        };
        tokio::select! {
            () = stopping => {}
            () = signals.next() => {}
        }
        outcome
    }

    async fn start_control_plane(&self) -> anyhow::Result<(ControlPlane, control_plane::Running)> {
        let mut settings = control_plane::settings::Settings::new(self.data_dir.clone());
        settings.admin_bind = self.admin;
        settings.stream_bind = self.stream;
        settings.master_key = roles::master_key(None);
        let (serving, is_serving) = oneshot::channel();
        let mut plane = Plane::start("control plane", |stop| {
            control_plane::run(settings, stop, |running| drop(serving.send(running)))
        });
        tokio::select! {
            // When it ends before it serves, how it ended says more.
            Ok(running) = is_serving => Ok((plane, running)),
            error = plane.ended() => Err(error),
        }
    }

    /// On loopback the planes share a token; elsewhere the node joins as any other does.
    async fn proof(&self, client: &Client, running: &control_plane::Running) -> anyhow::Result<Proof> {
        if running.stream.ip().is_loopback() {
            return Ok(Proof::SharedToken(self.data_dir.join("node-token")));
        }
        let wanted = serde_json::json!({ "ttl": "10m" });
        let made: MadeJoinToken = client.write(Method::POST, "join-tokens", Some(&wanted)).await?;
        Ok(Proof::Certificate { join_token: Some(JoinTokenSource::Text(made.token)) })
    }

    fn start_data_plane(&self, running: &control_plane::Running, proof: Proof) -> DataPlane {
        let mut settings = data_plane::settings::Settings::new(self.data_dir.clone());
        settings.node_port = self.node;
        settings.zone.clone_from(&self.zone);
        self.labels.apply(&mut settings);
        settings.access_log = self.access_log == AccessLog::Stdout;
        self.capacity.apply(&mut settings);
        settings.control_plane = Some(data_plane::settings::ControlPlane {
            url: format!(
                "{}://{}",
                if running.stream.ip().is_loopback() { "http" } else { "https" },
                reachable(running.stream)
            ),
            proof,
        });
        // Nobody balances load over the nodes of one process: there is no one who must notice first.
        settings.drain = data_plane::settings::Drain { delay: Duration::ZERO, timeout: Duration::from_secs(30) };
        Plane::start("data plane", |stop| data_plane::run(settings, stop))
    }

    fn client(&self, running: &control_plane::Running) -> anyhow::Result<Client> {
        let file = self.data_dir.join("admin-token");
        let token = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let server = format!("http://{}", reachable(running.admin)).parse()?;
        Client::new(server, "default".into(), Some(token.trim().to_owned()))
    }

    async fn welcome(&self, client: &Client) -> anyhow::Result<()> {
        let listeners: Vec<Value> = client.list(Query::new("listeners")).await?;
        let proxies: Vec<String> = listeners.iter().filter_map(proxy_url).collect();
        let admin = client.server();
        let token = self.data_dir.join("admin-token");
        let mut text = format!(
            "sluice {} is running.\n\n  proxy        {}\n  admin API    {admin}  (documentation: {admin}/docs)\n  admin token  {}\n",
            env!("CARGO_PKG_VERSION"),
            if proxies.is_empty() { "no listener is open".to_owned() } else { proxies.join(", ") },
            token.display(),
        );
        if let Some(proxy) = proxies.first().filter(|_| self.demo) {
            text.push_str(&match client.get::<Value>("routes/orders").await {
                Ok(_) => demo::try_next(proxy, admin, &token),
                Err(_) => {
                    "\nThe gateway has a configuration of its own already: the example is not applied.\n".to_owned()
                }
            });
        }
        text.push_str("\nctrl-C drains and ends.");
        output::message(&text);
        Ok(())
    }
}

/// Where a client on this machine reaches a listener.
fn proxy_url(listener: &Value) -> Option<String> {
    if listener.get("enabled") == Some(&Value::Bool(false)) {
        return None;
    }
    let bind: SocketAddr = listener.get("bind")?.as_str()?.parse().ok()?;
    let scheme = if listener.get("tls").is_some_and(|tls| !tls.is_null()) { "https" } else { "http" };
    Some(format!("{scheme}://{}", reachable(bind)))
}

/// The loopback address, where a server listens on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        let url = |listener: Value| proxy_url(&listener);
        assert_eq!(url(json!({ "bind": "0.0.0.0:8080" })).as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(url(json!({ "bind": "[::]:8443", "tls": {} })).as_deref(), Some("https://[::1]:8443"));
        assert_eq!(url(json!({ "bind": "0.0.0.0:1", "enabled": false })), None);
    }
}
