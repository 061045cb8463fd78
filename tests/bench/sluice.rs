//! What is under measurement: a control plane on core 0, and in a gateway a node on core 1 with a counting relay between
//! them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tests::http::{Answer, Connection};

use crate::load::Plan;
use crate::process::{Process, free_port, wait_for_port, wait_until};

/// Both planes, running.
pub struct Gateway {
    pub node: Process,
    pub control: Control,
    pub traffic_port: u16,
    relay_port: u16,
    /// Bytes that the control plane sent to the node.
    pub sent: Arc<AtomicU64>,
}

/// A control plane on its own.
pub struct Control {
    pub process: Process,
    pub stream_port: u16,
    admin_port: u16,
    token: String,
    binary: String,
    folder: tempfile::TempDir,
}

impl Gateway {
    pub fn start(binary: &Path) -> Result<Self> {
        let control = Control::start(binary)?;
        let traffic_port = free_port()?;
        let sent = Arc::new(AtomicU64::new(0));
        let relay_port = relay(control.stream_port, sent.clone())?;
        let node = control.start_node("node", relay_port, &[])?;
        Ok(Self { node, control, traffic_port, relay_port, sent })
    }

    /// Another node of the same name in the place of the one that runs; seconds until it is ready.
    pub fn restart_node(&mut self, name: &str) -> Result<f64> {
        self.node.end();
        let start = Instant::now();
        self.node = self.control.start_node(name, self.relay_port, &[])?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// CPU of the node for each request of a plan, of which every answer has to be the expected one.
    pub fn cpu_us(&self, plan: &Plan) -> Result<f64> {
        plan.run()?;
        let before = self.node.cpu_ns()?;
        let outcome = plan.run()?;
        if outcome.failures > 0 {
            bail!("{} of {} answers were not {}", outcome.failures, outcome.requests, plan.expect_status);
        }
        Ok((self.node.cpu_ns()? - before) as f64 / 1000.0 / outcome.requests as f64)
    }
}

impl std::ops::Deref for Gateway {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Control {
    pub fn start(binary: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let binary = binary.to_string_lossy().into_owned();
        let (admin_port, stream_port) = (free_port()?, free_port()?);
        let process = Self::run(&binary, &folder, admin_port, stream_port)?;
        let token_file = folder.path().join("control/admin-token");
        wait_until("the control plane has made its tokens", || {
            token_file.exists() && folder.path().join("control/node-token").exists()
        })?;
        let token = std::fs::read_to_string(token_file)?.trim().to_owned();
        Ok(Self { process, stream_port, admin_port, token, binary, folder })
    }

    /// Kills it and starts it again, on the same ports; returns when it listens.
    pub fn restart(&mut self) -> Result<()> {
        self.process.end();
        self.process = Self::run(&self.binary, &self.folder, self.admin_port, self.stream_port)?;
        Ok(())
    }

    fn run(binary: &str, folder: &tempfile::TempDir, admin: u16, stream: u16) -> Result<Process> {
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let process = Process::start(
            "control plane",
            0,
            &[binary, "control-plane", "--database-url", &at("control.db"), "--data-dir", &at("control")],
            &[("SLUICE_ADMIN", format!("127.0.0.1:{admin}")), ("SLUICE_STREAM", format!("127.0.0.1:{stream}"))],
            Path::new(&at("control.log")),
        )?;
        wait_for_port(admin, "the admin API")?;
        wait_for_port(stream, "the config stream")?;
        Ok(process)
    }

    /// A node on core 1 that gets its configuration from `port`; returns when it is ready, or lives without any.
    pub fn start_node(&self, name: &str, port: u16, settings: &[(&str, String)]) -> Result<Process> {
        let at = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        let node_port = free_port()?;
        let node = Process::start(
            "node",
            1,
            &[
                &self.binary,
                "data-plane",
                "--control-plane",
                &format!("http://127.0.0.1:{port}"),
                "--token-file",
                &at("control/node-token"),
                "--data-dir",
                &at(name),
                "--cores",
                "1",
                "--access-log",
                "off",
            ],
            &[&[("SLUICE_NODE", format!("127.0.0.1:{node_port}"))], settings].concat(),
            Path::new(&at(&format!("{name}.log"))),
        )?;
        wait_for_port(node_port, "the node")?;
        wait_for_status(node_port, "node", "/readyz", 200)?;
        Ok(node)
    }

    /// Applies a file and waits until the node serves it.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let path = "/v1/gateways/default/config:apply?wait=serving&timeout=60s";
        self.call(&mut self.connect()?, "POST", path, "application/yaml", yaml).map(drop)
    }

    /// Applies a file; nobody is there to serve it.
    pub fn load(&self, yaml: &str) -> Result<()> {
        let path = "/v1/gateways/default/config:apply";
        self.call(&mut self.connect()?, "POST", path, "application/yaml", yaml).map(drop)
    }

    /// Number of the newest revision.
    pub fn head(&self) -> Result<u64> {
        let answer = self.call(&mut self.connect()?, "GET", "/v1/gateways/default/status", "", "")?;
        answer.field("sluice-revision").context("no revision")?.parse().context("a revision is a number")
    }

    /// A token with which so many nodes may join.
    pub fn join_token(&self, uses: usize) -> Result<String> {
        let (path, body) = ("/v1/gateways/default/join-tokens", format!(r#"{{"ttl":"1h","uses":{uses}}}"#));
        let answer = self.call(&mut self.connect()?, "POST", path, "application/json", &body)?.json()?;
        Ok(answer["token"].as_str().context("no token")?.to_owned())
    }

    /// Writes one route; returns as soon as the API has answered.
    pub fn put_route(&self, connection: &mut Connection, name: &str, body: &str) -> Result<()> {
        let path = format!("/v1/gateways/default/routes/{name}");
        self.call(connection, "PUT", &path, "application/json", body).map(drop)
    }

    /// Says something about a target, `host:port`, beside the configuration.
    pub fn put_target(&self, connection: &mut Connection, service: &str, target: &str, body: &str) -> Result<()> {
        let path = format!("/v1/gateways/default/services/{service}/targets/{target}");
        self.call(connection, "PUT", &path, "application/json", body).map(drop)
    }

    /// Asks which route a request finds, and why.
    pub fn explain(&self, connection: &mut Connection, question: &str) -> Result<()> {
        self.call(connection, "POST", "/v1/gateways/default/explain", "application/json", question).map(drop)
    }

    pub fn connect(&self) -> Result<Connection> {
        Connection::open(local(self.admin_port))
    }

    pub fn call(
        &self,
        to: &mut Connection,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Result<Answer> {
        let authorization = format!("Bearer {}", self.token);
        let fields = [("Host", "admin"), ("Authorization", authorization.as_str()), ("Content-Type", content_type)];
        let answer = to.send(method, path, &fields, body.as_bytes())?;
        // 202 says that nobody serves it in time.
        if !matches!(answer.status, 200 | 201) {
            bail!("{method} {path} answered {}: {}", answer.status, answer.text());
        }
        Ok(answer)
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Passes connections on to `target` and counts what comes back.
fn relay(target: u16, sent: Arc<AtomicU64>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
            let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let sent = sent.clone();
            std::thread::spawn(move || pass(client_too, server_too, &AtomicU64::new(0)));
            std::thread::spawn(move || pass(server, client, &sent));
        }
    });
    Ok(port)
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Waits until a request gets this status.
pub fn wait_for_status(port: u16, host: &str, path: &str, wanted: u16) -> Result<()> {
    let mut kept = None;
    wait_until(&format!("{wanted} from {host}{path}"), || status_of(&mut kept, port, host, path) == Some(wanted))
}

/// The status of one request on a connection that is kept while it works.
pub fn status_of(kept: &mut Option<Connection>, port: u16, host: &str, path: &str) -> Option<u16> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(local(port)).ok()?,
    };
    let answer = connection.send("GET", path, &[("Host", host)], b"").ok()?;
    *kept = Some(connection);
    Some(answer.status)
}
