//! `sluice run`: control plane, data plane and SQLite in one process. What a newcomer starts is what production runs:
//! the planes talk over the real stream, and the configuration comes in through the real admin API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http::Method;
use model::resource::service::TargetUrl;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Change, Share, Verdict};
use crate::client::{Client, Query};
use crate::files::{FileArguments, Files};
use crate::logging::Logging;
use crate::roles::AccessLog;
use crate::signals::Signals;
use crate::{Outcome, output, ports, roles};

mod demo;
mod follow;
mod samples;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// The listener that is made when there is none.
const LISTENER: &str = "web";
/// How long the planes may take to come up, and to take a revision over.
const PATIENCE: Duration = Duration::from_secs(20);

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

    /// How many cores serve requests [default: all]
    #[arg(long, env = "SLUICE_CORES", value_name = "N")]
    cores: Option<NonZeroUsize>,

    /// Whether a line of JSON is written for each request
    #[arg(long, env = "SLUICE_ACCESS_LOG", value_enum, default_value = "off")]
    access_log: AccessLog,

    #[command(flatten)]
    logging: Logging,
}

/// The two planes, running.
struct Planes {
    client: Client,
    control: JoinHandle<Result<(), control_plane::RunError>>,
    data: JoinHandle<Result<(), data_plane::RunError>>,
    /// The data plane drains first, while the control plane still answers.
    stop_data: CancellationToken,
    stop_control: CancellationToken,
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
        let mut planes = self.start().await?;
        let working = async {
            let samples = match self.demo {
                true => Some(demo::Samples::start(&self.data_dir).await?),
                false => None,
            };
            self.configure(&planes.client, files.as_ref(), samples.as_ref()).await?;
            self.welcome(&planes.client).await?;
            match files {
                Some(files) => follow::follow(&planes.client, &self.files, files, |body| self.complete(body)).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = working => outcome,
            ended = &mut planes.control => Err(ended_early("control plane", ended)),
            ended = &mut planes.data => Err(ended_early("data plane", ended)),
            () = signals.next() => Ok(()),
        };
        if outcome.is_ok() {
            output::message("draining; once more to stop at once");
        }
        tokio::select! {
            () = planes.stop() => {}
            () = signals.next() => {}
        }
        outcome
    }

    async fn start(&self) -> anyhow::Result<Planes> {
        let (stop_control, stop_data) = (CancellationToken::new(), CancellationToken::new());
        let mut settings = control_plane::settings::Settings::new(self.data_dir.clone());
        settings.admin_bind = self.admin;
        settings.stream_bind = self.stream;
        let (serving, is_serving) = oneshot::channel();
        let ready = |running| drop(serving.send(running));
        let mut control = tokio::spawn(control_plane::run(settings, stop_control.clone(), ready));
        let running = tokio::select! {
            // When it ends before it serves, how it ended says more.
            Ok(running) = is_serving => running,
            ended = &mut control => return Err(ended_early("control plane", ended)),
        };
        let mut settings = data_plane::settings::Settings::new(self.data_dir.clone());
        settings.node_port = self.node;
        settings.access_log = self.access_log == AccessLog::Stdout;
        if let Some(cores) = self.cores {
            settings.cores = cores;
        }
        settings.control_plane = Some(data_plane::settings::ControlPlane {
            url: format!("http://{}", reachable(running.stream)),
            token_file: self.data_dir.join("node-token"),
        });
        // Nobody balances load over the nodes of one process: there is no one who must notice first.
        settings.drain = data_plane::settings::Drain { delay: Duration::ZERO, timeout: Duration::from_secs(30) };
        let data = tokio::spawn(data_plane::run(settings, stop_data.clone()));
        let token = self.data_dir.join("admin-token");
        let token = std::fs::read_to_string(&token).with_context(|| format!("cannot read {}", token.display()))?;
        let server = format!("http://{}", reachable(running.admin)).parse()?;
        let client = Client::new(server, "default".into(), Some(token.trim().to_owned()))?;
        Ok(Planes { client, control, data, stop_data, stop_control })
    }

    /// Brings the configuration to what the arguments say, and waits until it is served.
    async fn configure(
        &self,
        client: &Client,
        files: Option<&Files>,
        samples: Option<&demo::Samples>,
    ) -> anyhow::Result<()> {
        let head = client.head().await?;
        let source = match (files, samples, &self.to) {
            (Some(files), ..) => Some((files.clone(), true, "sluice run --file")),
            (None, Some(samples), _) if head == 0 => Some((samples.example(), false, "sluice run --demo")),
            (None, _, Some(target)) => Some((Files::from_body(proxy_to(target)), true, "sluice run --to")),
            _ => None,
        };
        let mut revision = head;
        let mut applied_files = Files::none();
        if let Some((files, prune, message)) = source {
            let files = files.map_body(|body| self.complete(body));
            let has_listener = head > 0;
            if !has_listener {
                self.check_traffic_port(files.body())?;
            }
            let applied = apply::send(client, &files, &Change { prune, base: None, message: Some(message) }).await?;
            let removed =
                applied.changes.iter().filter(|touched| touched.action == crate::views::Action::Delete).count();
            if removed > 0 {
                output::message(&format!(
                    "{removed} resources of the earlier configuration are gone; `sluice rollback {head}` brings them back"
                ));
            }
            (revision, applied_files) = (applied.revision, files);
        } else {
            if let Some(samples) = samples {
                samples.move_targets(client).await?;
            }
            self.ensure_listener(client).await?;
            revision = client.head().await?.max(revision);
        }
        if revision == 0 {
            return Ok(());
        }
        match apply::watch(client, revision, Share::ALL, PATIENCE, |_| {}).await? {
            Verdict::Served => Ok(()),
            Verdict::Refused(nodes) => bail!("{}", apply::refused(&nodes, &applied_files)),
            Verdict::TooLate { .. } => {
                bail!("the data plane does not serve revision {revision} after {} seconds", PATIENCE.as_secs())
            }
        }
    }

    /// A configuration without any listener gets the usual one.
    fn complete(&self, mut body: Value) -> Value {
        let has_listener = body.get("listeners").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !has_listener {
            body["listeners"] = json!([{ "name": LISTENER, "bind": self.listen.unwrap_or(DEFAULT_LISTEN) }]);
        }
        body
    }

    /// At the first start nothing of ours can hold the ports, so a taken one is told before it is written down.
    fn check_traffic_port(&self, body: &Value) -> anyhow::Result<()> {
        let listeners = body.get("listeners").and_then(Value::as_array).into_iter().flatten();
        let binds = listeners.filter_map(|listener| listener.get("bind")?.as_str()?.parse().ok());
        let binds: Vec<(&str, SocketAddr)> = binds.map(|bind| ("--listen", bind)).collect();
        ports::check(&binds)
    }

    /// Opens the usual listener where there is none, and moves it where --listen says.
    async fn ensure_listener(&self, client: &Client) -> anyhow::Result<()> {
        let listeners: Vec<Value> = client.list(Query::new("listeners")).await?;
        let path = format!("listeners/{LISTENER}");
        if listeners.is_empty() {
            let body = self.complete(json!({}));
            self.check_traffic_port(&body)?;
            let bind = &body["listeners"][0]["bind"];
            client.write::<Value>(Method::PUT, &path, Some(&json!({ "bind": bind }))).await?;
            return Ok(());
        }
        let Some(listen) = self.listen else { return Ok(()) };
        let is_elsewhere = |listener: &Value| {
            listener["name"] == LISTENER && listener["bind"].as_str().and_then(|bind| bind.parse().ok()) != Some(listen)
        };
        if listeners.iter().any(is_elsewhere) {
            ports::check(&[("--listen", listen)])?;
            client.write::<Value>(Method::PATCH, &path, Some(&json!({ "bind": listen }))).await?;
        }
        Ok(())
    }

    async fn welcome(&self, client: &Client) -> anyhow::Result<()> {
        let listeners: Vec<Value> = client.list(Query::new("listeners")).await?;
        let proxies: Vec<String> = listeners.iter().filter_map(proxy_url).collect();
        let admin = client.server();
        let admin = admin.to_string();
        let admin = admin.trim_end_matches('/');
        let token = self.data_dir.join("admin-token");
        let mut text = format!(
            "sluice {} is running.\n\n  proxy        {}\n  admin API    {admin}  (documentation: {admin}/docs)\n  admin token  {}\n",
            env!("CARGO_PKG_VERSION"),
            if proxies.is_empty() { "no listener is open".to_owned() } else { proxies.join(", ") },
            token.display(),
        );
        if let Some(proxy) = proxies.first().filter(|_| self.demo) {
            text.push_str(&demo::try_next(proxy, admin, &token));
        }
        output::message(&text);
        Ok(())
    }
}

impl Planes {
    /// Drains the data plane, then ends the control plane.
    async fn stop(&mut self) {
        self.stop_data.cancel();
        report_end("data plane", &mut self.data).await;
        self.stop_control.cancel();
        report_end("control plane", &mut self.control).await;
    }
}

async fn report_end<E: std::error::Error>(what: &str, plane: &mut JoinHandle<Result<(), E>>) {
    // One that ended before was reported then.
    if plane.is_finished() {
        return;
    }
    match plane.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => output::message(&format!("the {what} ended with an error: {error}")),
        Err(error) => output::message(&format!("the {what} broke down: {error}")),
    }
}

fn ended_early<E>(what: &str, ended: Result<Result<(), E>, JoinError>) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("the {what} ended"),
        Ok(Err(error)) => anyhow::Error::new(error).context(format!("the {what} cannot run")),
        Err(error) => anyhow::anyhow!("the {what} broke down: {error}"),
    }
}

/// The configuration of a proxy to one address.
fn proxy_to(target: &TargetUrl) -> Value {
    json!({
        "version": 1,
        "services": [{ "name": "to", "url": target }],
        "routes": [{ "name": "everything", "service": "to" }],
    })
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
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        let url = |listener: Value| proxy_url(&listener);
        assert_eq!(url(json!({ "bind": "0.0.0.0:8080" })).as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(url(json!({ "bind": "[::]:8443", "tls": {} })).as_deref(), Some("https://[::1]:8443"));
        assert_eq!(url(json!({ "bind": "0.0.0.0:1", "enabled": false })), None);
    }
}
