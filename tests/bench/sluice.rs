//! A gateway under measurement: control plane on core 0, node on core 1, a counting relay between them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Process, free_port, wait_for_port, wait_until};

/// Both planes, running.
pub struct Gateway {
    pub node: Process,
    pub control: Process,
    pub traffic_port: u16,
    admin_port: u16,
    token: String,
    /// Bytes that the control plane sent to the node.
    pub sent: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    pub fn start(binary: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (admin, stream, node_port, traffic_port) = (free_port()?, free_port()?, free_port()?, free_port()?);
        let binary = binary.to_string_lossy().into_owned();
        let control_data = at("control");
        let database = at("control.db");
        let control = Process::start(
            "control plane",
            0,
            &[&binary, "control-plane", "--database-url", &database, "--data-dir", &control_data],
            &[("SLUICE_ADMIN", format!("127.0.0.1:{admin}")), ("SLUICE_STREAM", format!("127.0.0.1:{stream}"))],
            Path::new(&at("control.log")),
        )?;
        wait_for_port(admin, "the admin API")?;
        wait_for_port(stream, "the config stream")?;
        let token_file = format!("{control_data}/admin-token");
        wait_until("the control plane has made its tokens", || {
            Path::new(&token_file).exists() && Path::new(&format!("{control_data}/node-token")).exists()
        })?;
        let token = std::fs::read_to_string(token_file)?.trim().to_owned();
        let sent = Arc::new(AtomicU64::new(0));
        let relay = relay(stream, sent.clone())?;
        let node = Process::start(
            "node",
            1,
            &[
                &binary,
                "data-plane",
                "--control-plane",
                &format!("http://127.0.0.1:{relay}"),
                "--token-file",
                &format!("{control_data}/node-token"),
                "--data-dir",
                &at("node"),
                "--cores",
                "1",
                "--access-log",
                "off",
            ],
            &[("SLUICE_NODE", format!("127.0.0.1:{node_port}"))],
            Path::new(&at("node.log")),
        )?;
        wait_for_port(node_port, "the node")?;
        Ok(Self { node, control, traffic_port, admin_port: admin, token, sent, _folder: folder })
    }

    /// Applies a whole file and waits until the node serves it.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let path = "/v1/gateways/default/config:apply?prune=true&wait=serving&timeout=60s";
        let (status, body) = self.call("POST", path, "application/yaml", yaml.as_bytes())?;
        if status != 200 && status != 201 {
            bail!("apply answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }

    /// Writes one route; returns as soon as the API has answered.
    pub fn put_route(&self, connection: &mut TcpStream, name: &str, body: &str) -> Result<()> {
        let path = format!("/v1/gateways/default/routes/{name}");
        let (status, answer) = self.call_on(connection, "PUT", &path, "application/json", body.as_bytes())?;
        if !(200..300).contains(&status) {
            bail!("PUT {name} answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.admin_port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(stream)
    }

    fn call(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.call_on(&mut self.connect()?, method, path, content_type, body)
    }

    fn call_on(
        &self,
        stream: &mut TcpStream,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request)?;
        read_answer(stream)
    }
}

/// Status and body of an answer with a Content-Length.
pub fn read_answer(stream: &mut TcpStream) -> Result<(u16, Vec<u8>)> {
    let mut held = Vec::new();
    let mut buffer = [0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            bail!("the connection was closed before the answer ended");
        }
        held.extend_from_slice(&buffer[..count]);
        let Some(head_end) = held.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&held[..head_end])?.to_ascii_lowercase();
        let status: u16 = head.get(9..12).context("no status line")?.parse()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
        if held.len() >= head_end + 4 + length {
            return Ok((status, held.split_off(head_end + 4)));
        }
    }
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

/// Waits until a request gets this status; the connection is kept.
pub fn wait_for_status(port: u16, host: &str, path: &str, wanted: u16) -> Result<()> {
    let mut stream: Option<TcpStream> = None;
    wait_until(&format!("{wanted} from {host}{path}"), || status_of(&mut stream, port, host, path) == Some(wanted))
}

/// The status of one request on a connection that is kept while it works.
pub fn status_of(stream: &mut Option<TcpStream>, port: u16, host: &str, path: &str) -> Option<u16> {
    let mut connection = match stream.take() {
        Some(connection) => connection,
        None => TcpStream::connect(("127.0.0.1", port)).ok()?,
    };
    connection.set_nodelay(true).ok()?;
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let (status, _) = read_answer(&mut connection).ok()?;
    *stream = Some(connection);
    Some(status)
}
