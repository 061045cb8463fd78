//! `--demo`: the example configuration and the sample services behind it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::samples::Sample;
use crate::client::{Client, Refusal};
use crate::files::Files;

const EXAMPLE: &str = include_str!("../../../deploy/examples/demo.yaml");

/// The sample services, until this is dropped.
pub struct Samples {
    addresses: BTreeMap<&'static str, SocketAddr>,
    /// Where they were at the last start.
    earlier: BTreeMap<String, u16>,
    _stop: DropGuard,
}

impl Samples {
    /// Starts them, on the ports of the last start where these are free.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let ports_file = data_dir.join("demo-ports.json");
        let earlier: BTreeMap<String, u16> = std::fs::read(&ports_file)
            .ok()
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default();
        let mut addresses = BTreeMap::new();
        let tasks = TaskTracker::new();
        for sample in Sample::ALL {
            let preferred = earlier.get(sample.name()).copied();
            let address =
                sample.start(preferred, &tasks, stop.clone()).await.context("cannot start a sample service")?;
            addresses.insert(sample.name(), address);
        }
        let ports: BTreeMap<&str, u16> = addresses.iter().map(|(name, address)| (*name, address.port())).collect();
        write(&ports_file, &serde_json::to_vec(&ports)?)?;
        Ok(Self { addresses, earlier, _stop: stop.drop_guard() })
    }

    /// The example configuration with their addresses in it.
    pub fn example(&self) -> Files {
        Files::from_text("demo.yaml", EXAMPLE, &|name| {
            let sample = Sample::ALL.into_iter().find(|sample| sample.variable() == name)?;
            Some(url(self.addresses[sample.name()]))
        })
    }

    /// Services that still lead to where a sample service was at the last start lead to where it is now.
    pub async fn move_targets(&self, client: &Client) -> anyhow::Result<()> {
        for (name, address) in &self.addresses {
            let Some(earlier) = self.earlier.get(*name).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
            else {
                continue;
            };
            if earlier == *address {
                continue;
            }
            let path = format!("services/{name}");
            let service: Value = match client.get(&path).await {
                Ok(service) => service,
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(error),
            };
            let leads_there = service["targets"]
                .as_array()
                .is_some_and(|targets| targets.len() == 1 && targets[0]["url"].as_str() == Some(&url(earlier)));
            if leads_there {
                let patch = json!({ "targets": [{ "url": url(*address) }] });
                client.write::<Value>(Method::PATCH, &path, Some(&patch)).await?;
            }
        }
        Ok(())
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == StatusCode::NOT_FOUND.as_u16())
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn write(file: &PathBuf, content: &[u8]) -> anyhow::Result<()> {
    std::fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}

/// Three commands to paste.
pub fn try_next(proxy: &str, admin: &str, token: &Path) -> String {
    let token = token.display();
    let route = format!("{admin}/v1/gateways/default/routes/hello");
    format!(
        r#"
Three things to try:

  A request through the gateway, to the sample service `orders`:
    curl {proxy}/orders/1

  A change through the API, and a request that shows it served:
    curl -X PUT '{route}?wait=serving' \
      -H "Authorization: Bearer $(cat '{token}')" -H 'Content-Type: application/json' \
      -d '{{"paths": ["/hello"], "respond": {{"body": "hello\n"}}}}' && curl {proxy}/hello

  A bad change, refused with the reason: there is no service `order`.
    curl -X PUT '{route}' \
      -H "Authorization: Bearer $(cat '{token}')" -H 'Content-Type: application/json' \
      -d '{{"paths": ["/hello"], "service": "order"}}'
"#
    )
}
