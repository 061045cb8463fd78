//! A fleet on one machine: control planes on one PostgreSQL, nodes that have joined, and a relay on each way between two
//! of them that a test can harm.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tests::address::free_address;
use tests::gateway::{ControlPlane, Node, wait_until};
use tests::http;
use tests::postgres::Postgres;
use tests::relay::Relay;

use crate::gateways::succeed;

/// See the head of this file.
pub struct Fleet {
    pub nodes: Vec<Node>,
    pub controls: Vec<ControlPlane>,
    /// From each control plane to PostgreSQL.
    pub to_database: Vec<Relay>,
    /// From each node to the control planes; each prefers another one.
    pub to_control: Vec<Relay>,
    pub postgres: Postgres,
    /// The listener of every node has it, at an address of its own.
    port: u16,
    pub folder: TempDir,
    token: PathBuf,
}

impl Fleet {
    pub fn start(controls: usize, nodes: usize) -> Result<Self> {
        Self::start_with(controls, nodes, &[])
    }

    /// The same with further arguments for the control planes.
    pub fn start_with(controls: usize, nodes: usize, more: &[&str]) -> Result<Self> {
        Self::start_on(Postgres::start(), controls, nodes, more)
    }

    /// The same on a server that was started for it.
    pub fn start_on(postgres: Postgres, controls: usize, nodes: usize, more: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let token = folder.path().join("join-token");
        let mut fleet = Self {
            nodes: Vec::new(),
            controls: Vec::new(),
            to_database: Vec::new(),
            to_control: Vec::new(),
            postgres,
            port: free_address().port(),
            folder,
            token,
        };
        for number in 0..controls {
            fleet.add_control_plane(number, more)?;
        }
        let to = fleet.token.to_string_lossy();
        succeed(fleet.admin(0), &["join-token", "create", "--uses", "10000", "--ttl", "24h", "--to", &to])?;
        for _ in 0..nodes {
            fleet.add_node()?;
        }
        Ok(fleet)
    }

    fn add_control_plane(&mut self, number: usize, more: &[&str]) -> Result<()> {
        let relay = Relay::start(&[self.postgres.address()]);
        let data = self.folder.path().join(format!("control-{number}"));
        std::fs::create_dir_all(&data)?;
        if let Some(first) = self.controls.first() {
            // The second finds the token in the database and makes none; its operator gives it the same file.
            std::fs::copy(first.data.join("admin-token"), data.join("admin-token"))?;
        }
        self.controls.push(ControlPlane::start_with(&self.postgres.url_through(relay.address), &data, more)?);
        self.to_database.push(relay);
        Ok(())
    }

    /// A node that comes to the control planes through a relay of its own, and has joined when this returns.
    pub fn add_node(&mut self) -> Result<&mut Node> {
        let number = self.nodes.len();
        let mut streams: Vec<SocketAddr> = self.controls.iter().map(|control| control.stream).collect();
        let count = streams.len();
        streams.rotate_left(number % count);
        let relay = Relay::start(&streams);
        let ip = ip_of(number).to_string();
        let (url, data) = (format!("https://{}", relay.address), self.folder.path().join(format!("node-{number}")));
        let node = Node::join(&url, Some(&self.token), &data, &["--listen-address", &ip])?;
        node.wait_until_ready()?;
        self.to_control.push(relay);
        self.nodes.push(node);
        self.nodes.last_mut().context("it was just added")
    }

    pub fn admin(&self, control: usize) -> &tests::gateway::Admin {
        &self.controls[control].admin
    }

    /// Where the listener of a node is.
    pub fn listener(&self, node: usize) -> SocketAddr {
        SocketAddr::new(ip_of(node).into(), self.port)
    }

    /// The address of the listener, as it is written.
    pub fn bind(&self) -> String {
        format!("0.0.0.0:{}", self.port)
    }

    /// Waits until each control plane says that all nodes serve the head that all of them know.
    pub fn wait_until_converged(&self) -> Result<()> {
        let told = |control: &ControlPlane| control.admin.get("status").ok();
        let mut last = Vec::new();
        let is_so = || {
            last = self.controls.iter().map(told).collect();
            let good = |status: &Option<serde_json::Value>| {
                status.as_ref().is_some_and(|status| {
                    status["is_converged"] == true
                        && status["total"] == self.nodes.len()
                        && Some(&status["digest"]) == last[0].as_ref().map(|first| &first["digest"])
                })
            };
            last.iter().all(good)
        };
        let waited = wait_until("all nodes serve the head of all control planes", is_so);
        waited.with_context(|| format!("{:#?}", self.controls.iter().map(told).collect::<Vec<_>>()))
    }

    /// What a node answers on its listener.
    pub fn get(&self, node: usize, host: &str, path: &str) -> Result<http::Answer> {
        http::get(self.listener(node), host, path)
    }
}

/// An address of loopback for each of several nodes that open the same port.
fn ip_of(node: usize) -> Ipv4Addr {
    let [.., middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + u8::try_from(node).expect("few nodes"), middle, low)
}
