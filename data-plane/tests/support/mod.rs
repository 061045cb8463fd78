//! A node under test: cores in this process, configured with YAML-like values, and raw or real clients.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "every test file uses a part of it, and a test that cannot go on fails"
)]

#[path = "../../../tests/src/address.rs"]
mod address;
pub mod backend;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use data_plane::cores::Cores;
use data_plane::settings::Settings;
use data_plane::telemetry::{Shard, Telemetry};
use model::config::Edit;
use model::problem::Problems;
use model::resource::{Key, Kind};
use model::snapshot::Snapshot;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub use address::free_address;

pub struct Node {
    pub cores: Cores,
    pub snapshot: Arc<Snapshot>,
    pub address: SocketAddr,
    pub telemetry: Telemetry,
}

pub fn settings() -> Settings {
    let mut settings = Settings::new(std::env::temp_dir());
    settings.cores = NonZeroUsize::new(2).unwrap();
    settings
}

pub fn put(kind: Kind, name: &str, spec: Value) -> Edit {
    Edit::Put { kind, name: name.into(), spec }
}

pub fn remove(kind: Kind, name: &str) -> Edit {
    Edit::Remove { key: Key::new(kind, name.parse().unwrap()) }
}

impl Node {
    /// A node with a listener `main` and these resources.
    pub async fn start(edits: Vec<Edit>) -> Self {
        Self::start_with(settings(), edits).await
    }

    /// The same, with these limits of the listener.
    pub async fn start_limited(limits: Value, edits: Vec<Edit>) -> Self {
        Self::start_on(json!({ "limits": limits }), edits).await
    }

    /// The same, with these fields of the listener besides its address.
    pub async fn start_on(listener: Value, edits: Vec<Edit>) -> Self {
        let mut node = Self::start(edits).await;
        node.change_listener(listener).await;
        node
    }

    /// Gives the listener these fields besides its address.
    pub async fn change_listener(&mut self, mut listener: Value) {
        listener["bind"] = json!(self.address.to_string());
        self.change(vec![put(Kind::Listener, "main", listener)]).await.unwrap();
    }

    pub async fn start_with(settings: Settings, edits: Vec<Edit>) -> Self {
        Self::start_telling(settings, Telemetry::without_log(), edits).await
    }

    pub async fn start_telling(settings: Settings, telemetry: Telemetry, mut edits: Vec<Edit>) -> Self {
        let address = free_address();
        edits.push(put(Kind::Listener, "main", json!({ "bind": address.to_string() })));
        let cores = Cores::start(&settings, &telemetry).unwrap();
        tokio::spawn(telemetry.health.clone().watch(cores.names(), CancellationToken::new()));
        let mut node = Self { cores, snapshot: Arc::default(), address, telemetry };
        node.change(edits).await.unwrap();
        node
    }

    pub async fn change(&mut self, edits: Vec<Edit>) -> Result<(), Problems> {
        let (snapshot, _) = self.snapshot.apply(self.snapshot.revision + 1, edits)?;
        let snapshot = Arc::new(snapshot);
        self.cores.adopt(snapshot.clone()).await?;
        self.snapshot = snapshot;
        Ok(())
    }

    /// Waits until what the node has counted is as it should be.
    pub async fn until_counted(&self, is_right: impl Fn(&Shard) -> bool) {
        within(async {
            while !is_right(&self.telemetry.gather().await) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Sends bytes and returns all that comes until the node closes.
    pub async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        raw(self.address, request).await
    }
}

/// Sends bytes on a connection of its own and returns all that comes until the other side closes.
pub async fn raw(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The node may answer and close before it has taken everything.
    let _ = stream.write_all(request.as_ref()).await;
    read_all(&mut stream).await
}

pub async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match within(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Reads until what has come ends in `end`.
pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let byte = within(stream.read_u8()).await.unwrap_or_else(|error| {
            panic!("{error} after {:?}", String::from_utf8_lossy(&answer));
        });
        answer.push(byte);
    }
    String::from_utf8(answer).unwrap()
}

/// Waits until the other side, on this machine, has read all that was sent to it.
pub async fn taken(stream: &TcpStream) {
    let (from, to) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    // A line for each end: its own address, the other's, its state, and what is queued to be sent and to be read.
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(v6) => panic!("{v6} is not looked up"),
    };
    let ends = format!(" {} {} ", hex(to), hex(from));
    let is_taken = || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let line = sockets.lines().find(|line| line.contains(&ends));
        line.is_some_and(|line| line.split_whitespace().nth(4).unwrap().ends_with(":00000000"))
    };
    until(is_taken).await;
}

/// Waits for what nobody tells of.
pub async fn until(is_so: impl Fn() -> bool) {
    within(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Nothing in a test takes this long unless it hangs.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// The problem in the body of an answer.
pub fn problem(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.to_ascii_lowercase().contains("content-type: application/problem+json"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no problem: {answer}"));
    assert!(problem["request_id"].as_str().is_some_and(|id| id.len() == 36), "{problem}");
    problem
}

/// An access log in memory.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn respond(body: &str) -> Value {
    json!({ "respond": { "body": body } })
}

/// Trusts every certificate: the tests look at which one is served.
#[derive(Debug)]
pub struct AnyCertificate(pub Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
