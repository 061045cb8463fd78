//! The whole system, seen from outside: one file per behaviour.

mod authority;
mod backends;
mod browser;
mod clocks;
mod config_change;
mod database;
mod drain;
mod events;
mod faults;
mod fleet;
mod gateways;
mod memory;
mod node_disk;
mod partitions;
mod randomized;
mod refusals;
mod replicas;
mod rollout;
mod rotation;
mod targets;
mod tls;
mod trust;

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;
use tests::address::free_address;
use tests::gateway::{ControlPlane, Node};

/// A control plane on SQLite and one node, with nothing configured.
struct Gateway {
    control: ControlPlane,
    node: Node,
    folder: TempDir,
}

impl Gateway {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let database = folder.path().join("sluice.db");
        let control = ControlPlane::start(&database.to_string_lossy(), &folder.path().join("control"))?;
        let node = Self::node(&control, &folder.path().join("node"))?;
        node.wait_until_ready()?;
        Ok(Self { control, node, folder })
    }

    fn node(control: &ControlPlane, data: &Path) -> Result<Node> {
        Node::start(control.stream, &control.node_token(), data)
    }
}

/// A file with a listener, one service and one route to it.
fn simple_file(listener: std::net::SocketAddr, backend: &str) -> String {
    format!(
        "version: 1
listeners: [{{ name: web, bind: \"{listener}\" }}]
services: [{{ name: orders, url: \"{backend}\" }}]
routes: [{{ name: orders, hosts: [shop.example], paths: [/orders], service: orders }}]
"
    )
}

/// An address for a listener.
fn listener_address() -> std::net::SocketAddr {
    free_address()
}
