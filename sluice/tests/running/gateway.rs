//! A gateway as a newcomer starts it: `sluice run` with a folder and ports of its own.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its message")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

#[path = "../../../tests/src/address.rs"]
mod address;

use address::free_address;

/// Generous: machines that run tests do much at once.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Gateway {
    pub folder: TempDir,
    pub traffic: SocketAddr,
    pub admin: SocketAddr,
    stream: SocketAddr,
    node: SocketAddr,
    child: Option<Child>,
    said: Arc<Mutex<String>>,
}

impl Gateway {
    pub fn new() -> Self {
        let [traffic, admin, stream, node] = std::array::from_fn(|_| free_address());
        let folder = tempfile::tempdir().unwrap();
        Self { folder, traffic, admin, stream, node, child: None, said: Arc::default() }
    }

    /// Starts it and waits for its welcome.
    pub fn start(arguments: &[&str]) -> Self {
        let mut gateway = Self::new();
        gateway.start_again(arguments);
        gateway
    }

    pub fn start_again(&mut self, arguments: &[&str]) {
        self.spawn(arguments);
        self.wait_for("is running.");
    }

    pub fn spawn(&mut self, arguments: &[&str]) {
        self.said.lock().unwrap().clear();
        let mut child = sluice(self.folder.path())
            .arg("run")
            .args(["--listen", &self.traffic.to_string(), "--admin", &self.admin.to_string()])
            .args(["--stream", &self.stream.to_string(), "--node", &self.node.to_string(), "--cores", "1"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let messages = BufReader::new(child.stderr.take().unwrap());
        let said = self.said.clone();
        std::thread::spawn(move || {
            for line in messages.lines().map_while(Result::ok) {
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        self.child = Some(child);
    }

    pub fn choose_another_traffic_address(&mut self) {
        self.traffic = free_address();
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    pub fn wait_for(&mut self, text: &str) {
        wait_until(|| {
            let is_there = self.said().contains(text);
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(is_there || ended.is_none(), "it ended without saying `{text}`:\n{}", self.said());
            is_there
        });
    }

    /// As ctrl-C does; returns the exit code.
    pub fn interrupt(&mut self) -> Option<i32> {
        let child = self.child.take().unwrap();
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let mut child = child;
        child.wait().unwrap().code()
    }

    pub fn wait(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    /// Asks it as a client does, with curl, and returns what comes.
    pub fn get(&self, path: &str) -> String {
        stdout(&run(Command::new("curl").args(["-sS", "--max-time", "20", &format!("http://{}{path}", self.traffic)])))
    }

    /// Asks with these fields, sends `more` when the head of the answer is there, and reads until `end` comes.
    pub fn exchange(&self, path: &str, fields: &[&str], more: &[u8], end: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.traffic).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.traffic).unwrap();
        let mut got = Vec::new();
        let mut read_until = |end: &[u8], stream: &mut TcpStream| {
            while !got.windows(end.len()).any(|bytes| bytes == end) {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).unwrap();
                assert!(count > 0, "it ended after {:?}", String::from_utf8_lossy(&got));
                got.extend_from_slice(&bytes[..count]);
            }
            String::from_utf8_lossy(&got).into_owned()
        };
        read_until(b"\r\n\r\n", &mut stream);
        stream.write_all(more).unwrap();
        read_until(end, &mut stream)
    }

    /// A command of ours against this gateway, with nothing but the address told.
    pub fn command(&self, arguments: &[&str]) -> Output {
        run(sluice(self.folder.path()).args(arguments).env("SLUICE_SERVER", format!("http://{}", self.admin)))
    }

    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway said\n{}", self.said());
        }
    }
}

/// The program in a folder, without whatever the environment of the test says about it.
fn sluice(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command.current_dir(folder);
    command
}

pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "gave up waiting");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
