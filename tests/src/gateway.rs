//! The planes as real processes: started, killed, frozen and started again.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::address::free_address;
use crate::http::{self, Answer, Connection};

/// Waits for a condition and says which one when it gives up.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if is_so() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("gave up waiting until {what}")
}

/// The `sluice` binary of this build.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("tests run from target/*/deps")?;
    let binary = folder.join("sluice");
    if !binary.exists() {
        bail!("{} is not built: run `cargo build`, or tests/run, first", binary.display());
    }
    Ok(binary)
}

/// What every control plane of the tests seals secrets with.
const MASTER_KEY: &str = "5107e24be36df0d4c2cc31b9a1a4bd3e6cd5a3a8ce8b91ef26d8f0c7b4a1975e";

/// A process of ours with its output in a file.
pub struct Process {
    child: Option<Child>,
    arguments: Vec<String>,
    /// Variables beside those that every process has, from the next start on.
    pub environment: Vec<(String, String)>,
    pub log: PathBuf,
}

impl Process {
    pub fn start(arguments: &[&str], log: PathBuf) -> Result<Self> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut process = Self { child: None, arguments, environment: Vec::new(), log };
        process.start_again()?;
        Ok(process)
    }

    pub fn start_again(&mut self) -> Result<()> {
        let output = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(binary()?)
            .args(&self.arguments)
            .env_remove("SLUICE_TOKEN")
            .env("SLUICE_MASTER_KEY", MASTER_KEY)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL: nothing is said, nothing is flushed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it has neither been killed nor ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.as_ref().context("the process is not running")?.id();
        let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{name} {pid} failed") }
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<i32> {
        let mut child = self.child.take().context("the process is not running")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return status.code().context("it was ended by a signal");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        bail!("the process did not end:\n{}", self.output())
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.arguments.join(" "), self.output());
        }
    }
}

/// A control plane.
pub struct ControlPlane {
    pub process: Process,
    pub admin: Admin,
    pub stream: SocketAddr,
    pub data: PathBuf,
}

impl ControlPlane {
    /// `database` is a URL of Postgres or a path for SQLite; `data` is where the tokens lie.
    pub fn start(database: &str, data: &Path) -> Result<Self> {
        Self::start_with(database, data, &[])
    }

    /// The same with further arguments.
    pub fn start_with(database: &str, data: &Path, more: &[&str]) -> Result<Self> {
        Self::start_on(database, data, None, more)
    }

    /// The same with the stream on some address. What comes back has the one on loopback.
    pub fn start_on(database: &str, data: &Path, stream: Option<IpAddr>, more: &[&str]) -> Result<Self> {
        let (admin, reached) = (free_address(), free_address());
        let stream = SocketAddr::new(stream.unwrap_or(reached.ip()), reached.port());
        let data_text = data.to_string_lossy();
        let arguments = [
            "control-plane",
            "--database-url",
            database,
            "--data-dir",
            &data_text,
            "--admin",
            &admin.to_string(),
            "--stream",
            &stream.to_string(),
        ];
        std::fs::create_dir_all(data)?;
        let process = Process::start(&[&arguments, more].concat(), data.join("control-plane.log"))?;
        let mut control =
            Self { process, admin: Admin { address: admin, token: String::new() }, stream: reached, data: data.into() };
        control.wait_until_ready()?;
        Ok(control)
    }

    pub fn start_again(&mut self) -> Result<()> {
        self.process.start_again()?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let address = self.admin.address;
        let ready = || http::get(address, "admin", "/readyz").is_ok_and(|answer| answer.status == 200);
        wait_until("the control plane is ready", ready).with_context(|| self.process.output())?;
        if let Ok(token) = std::fs::read_to_string(self.data.join("admin-token")) {
            token.trim().clone_into(&mut self.admin.token);
        }
        Ok(())
    }

    pub fn node_token(&self) -> PathBuf {
        self.data.join("node-token")
    }
}

/// A client of the admin API.
#[derive(Clone)]
pub struct Admin {
    pub address: SocketAddr,
    pub token: String,
}

impl Admin {
    /// The same API for the bearer of another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// A request below `/v1/gateways/default/`.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.call_as(method, path, "application/json", body)
    }

    pub fn call_as(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<Answer> {
        let authorization = format!("Bearer {}", self.token);
        let fields = [
            ("Host", "admin"),
            ("Authorization", authorization.as_str()),
            ("Content-Type", content_type),
            ("Connection", "close"),
        ];
        Connection::open(self.address)?.send(method, &format!("/v1/gateways/default/{path}"), &fields, body.as_bytes())
    }

    /// The same, and anything but success is an error with the answer in it.
    pub fn succeed(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let answer = self.call(method, path, body)?;
        if answer.status >= 300 {
            bail!("{method} {path} answered {}: {}", answer.status, answer.text());
        }
        Ok(answer)
    }

    /// Applies a file and waits until every connected node serves it; the revision that is live then.
    pub fn apply(&self, yaml: &str) -> Result<u64> {
        let path = "config:apply?prune=true&wait=serving&timeout=30s";
        let answer = self.call_as("POST", path, "application/yaml", yaml)?;
        if answer.status >= 300 {
            bail!("apply answered {}: {}", answer.status, answer.text());
        }
        revision_of(&answer)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.succeed("GET", path, "")?.json()
    }

    /// Number of the newest revision.
    pub fn head(&self) -> Result<u64> {
        self.get("revisions?limit=1")?["items"][0]["number"].as_u64().context("no revisions")
    }

    /// What `GET nodes` says of the node, by its place in the list.
    pub fn nodes(&self) -> Result<Vec<Value>> {
        Ok(self.get("nodes")?["items"].as_array().context("no list of nodes")?.clone())
    }
}

/// The revision that a write made.
pub fn revision_of(answer: &Answer) -> Result<u64> {
    answer.field("sluice-revision").context("no Sluice-Revision field")?.parse().context("a revision is a number")
}

/// A data-plane node.
pub struct Node {
    pub process: Process,
    pub port: SocketAddr,
    pub data: PathBuf,
}

impl Node {
    /// Starts it without waiting: it may have no control plane to be ready by.
    pub fn start(stream: SocketAddr, token: &Path, data: &Path) -> Result<Self> {
        Self::start_with(&format!("http://{stream}"), token, data, &[])
    }

    /// The same with any URL and further arguments.
    pub fn start_with(control_plane: &str, token: &Path, data: &Path, more: &[&str]) -> Result<Self> {
        Self::run(control_plane, data, &[&["--token-file", &token.to_string_lossy()], more].concat())
    }

    /// A node that is who its certificate says, with a join token if it has one.
    pub fn join(control_plane: &str, token: Option<&Path>, data: &Path, more: &[&str]) -> Result<Self> {
        match token {
            Some(token) => {
                Self::run(control_plane, data, &[&["--join-token-file", &token.to_string_lossy()], more].concat())
            }
            None => Self::run(control_plane, data, more),
        }
    }

    fn run(control_plane: &str, data: &Path, more: &[&str]) -> Result<Self> {
        let port = free_address();
        std::fs::create_dir_all(data)?;
        let arguments = [
            "data-plane",
            "--control-plane",
            control_plane,
            "--data-dir",
            &data.to_string_lossy(),
            "--node",
            &port.to_string(),
            "--cores",
            "2",
        ];
        let process = Process::start(&[&arguments, more].concat(), data.join("node.log"))?;
        Ok(Self { process, port, data: data.into() })
    }

    pub fn wait_until_ready(&self) -> Result<()> {
        let ready = || http::get(self.port, "node", "/readyz").is_ok_and(|answer| answer.status == 200);
        wait_until("the node is ready", ready).with_context(|| self.process.output())
    }
}
