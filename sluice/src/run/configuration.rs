//! What `sluice run` makes of the configuration before the node starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use http::Method;
use model::resource::service::TargetUrl;
use serde_json::{Value, json};

use super::{Run, demo};
use crate::apply::{self, Awaited, Change, Share, Verdict};
use crate::client::{Client, Query};
use crate::files::Files;
use crate::views::Action;
use crate::{output, ports};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// The listener that is made when there is none.
const LISTENER: &str = "web";
/// How long the node may take to come up and serve.
const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration that is published, for a node that is to start.
pub struct Prepared {
    revision: u64,
    /// Where it was written, for what the node may say about it.
    files: Files,
    /// They run as long as this is kept.
    _samples: Option<demo::Samples>,
}

impl Run {
    /// Brings the configuration to what the arguments say.
    pub(super) async fn prepare(&self, client: &Client, files: Option<&Files>) -> anyhow::Result<Prepared> {
        let samples = match self.demo {
            true => Some(demo::Samples::start(&self.data_dir).await?),
            false => None,
        };
        let head = client.head().await?;
        let (files, prune, message) = match (files, &samples, &self.to) {
            (Some(files), ..) => (files.clone(), true, "sluice run --file"),
            (None, Some(samples), _) if head == 0 => (samples.example(), false, "sluice run --demo"),
            (None, _, Some(target)) => (Files::from_body(proxy_to(target)), true, "sluice run --to"),
            (None, _, None) => {
                if let Some(samples) = &samples {
                    samples.move_targets(client).await?;
                }
                self.ensure_listener(client).await?;
                let revision = client.head().await?;
                return Ok(Prepared { revision, files: Files::none(), _samples: samples });
            }
        };
        let files = files.map_body(|body| self.complete(body));
        check_ports(files.body().get("listeners").and_then(Value::as_array).into_iter().flatten())?;
        // Whoever starts with a file has said that this is all there shall be.
        let change = Change { prune, allow_mass_delete: true, base: None, message: Some(message), rollout: None };
        let applied = apply::send(client, &files, &change).await?;
        let removed = applied.changes.iter().filter(|touched| touched.action == Action::Delete).count();
        if removed > 0 {
            output::message(&format!(
                "{removed} resources of the earlier configuration are gone; `sluice rollback {head}` brings them back"
            ));
        }
        Ok(Prepared { revision: applied.revision, files, _samples: samples })
    }

    /// A configuration without any listener gets the usual one.
    pub(super) fn complete(&self, mut body: Value) -> Value {
        let has_listener = body.get("listeners").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !has_listener {
            body["listeners"] = json!([{ "name": LISTENER, "bind": self.listen.unwrap_or(DEFAULT_LISTEN) }]);
        }
        body
    }

    /// Opens the usual listener where there is none, and moves it where --listen says.
    async fn ensure_listener(&self, client: &Client) -> anyhow::Result<()> {
        let mut listeners: Vec<Value> = client.list(Query::new("listeners")).await?;
        let is_empty = listeners.is_empty();
        let usual = listeners.iter_mut().find(|listener| listener["name"] == LISTENER);
        let change = match (usual, self.listen) {
            (Some(usual), Some(listen)) if bind(usual) != Some(listen) => {
                usual["bind"] = json!(listen);
                Some((Method::PATCH, json!({ "bind": listen })))
            }
            (None, _) if is_empty => {
                let listen = self.listen.unwrap_or(DEFAULT_LISTEN);
                listeners.push(json!({ "name": LISTENER, "bind": listen }));
                Some((Method::PUT, json!({ "bind": listen })))
            }
            _ => None,
        };
        check_ports(&listeners)?;
        if let Some((method, body)) = change {
            client.write::<Value>(method, &format!("listeners/{LISTENER}"), Some(&body)).await?;
        }
        Ok(())
    }
}

impl Prepared {
    /// Waits until the node serves it.
    pub async fn wait_until_served(&self, client: &Client) -> anyhow::Result<()> {
        match apply::watch(
            client,
            Awaited { revision: self.revision, share: Share::ALL, labels: &[] },
            PATIENCE,
            |_| {},
        )
        .await?
        {
            Verdict::Served => Ok(()),
            Verdict::Refused(nodes) => bail!("{}", apply::refused(&nodes, &self.files)),
            Verdict::TooLate { .. } => {
                bail!("the data plane does not serve revision {} after {} seconds", self.revision, PATIENCE.as_secs())
            }
        }
    }
}

/// While the node is not started, nothing of ours holds the ports of listeners: one that is taken is told before it
/// is written down.
fn check_ports<'a>(listeners: impl IntoIterator<Item = &'a Value>) -> anyhow::Result<()> {
    let open = listeners.into_iter().filter(|listener| listener.get("enabled") != Some(&Value::Bool(false)));
    let chosen_by = |listener: &Value| match listener["name"].as_str() {
        Some(LISTENER) | None => "--listen".to_owned(),
        Some(name) => format!("`bind` of listener `{name}`"),
    };
    let wanted: Vec<(String, SocketAddr)> =
        open.filter_map(|listener| Some((chosen_by(listener), bind(listener)?))).collect();
    ports::check(&wanted.iter().map(|(chosen_by, address)| (&**chosen_by, *address)).collect::<Vec<_>>())
}

fn bind(listener: &Value) -> Option<SocketAddr> {
    listener.get("bind")?.as_str()?.parse().ok()
}

/// The configuration of a proxy to one address.
fn proxy_to(target: &TargetUrl) -> Value {
    json!({
        "version": model::file::VERSION,
        "services": [{ "name": "to", "url": target }],
        "routes": [{ "name": "everything", "service": "to" }],
    })
}
