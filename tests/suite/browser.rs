//! A browser in front of the gateway: a page, an upload, a stream of events and a WebSocket, all over HTTP/2.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use tests::gateway::wait_until;

use crate::authority::Authority;
use crate::{Gateway, listener_address};

/// What the browser is shown, and does.
const PAGE: &str = include_str!("browser.html");

/// Chromium without a window, until this is dropped.
struct Browser(Child);

impl Browser {
    /// Trusts a single key, that of the gateway, and finds the gateway by its name.
    fn open(folder: &Path, gateway: SocketAddr, key: &KeyPair) -> Result<Self> {
        let pin = STANDARD.encode(digest(&SHA256, &key.subject_public_key_info()));
        let (profile, log) = (folder.join("browser"), std::fs::File::create(folder.join("browser.log"))?);
        let browser = Command::new("chromium-headless-shell")
            .env("HOME", folder)
            // The page is our own, and containers often have nothing to build its sandbox from.
            .arg("--no-sandbox")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--ignore-certificate-errors-spki-list={pin}"))
            .arg(format!("--host-resolver-rules=MAP shop.example {}", gateway.ip()))
            .arg(format!("--explicitly-allowed-ports={}", gateway.port()))
            // It would print the page and end before the page is done.
            .arg("--remote-debugging-port=0")
            .arg(format!("https://shop.example:{}/", gateway.port()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("chromium-headless-shell cannot be run")?;
        Ok(Self(browser))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service of HTTP/1.1 with the page and what the page asks for; what the page reports comes out of the channel.
fn service() -> Result<(SocketAddr, Receiver<Value>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (reports, reported) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reports = reports.clone();
            std::thread::spawn(move || serve(&stream, &reports));
        }
    });
    Ok((address, reported))
}

/// Serves a connection until it ends.
fn serve(mut stream: &TcpStream, reports: &Sender<Value>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let head = read_head(&mut reader)?;
        let field = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let mut body = vec![0; field("content-length: ").parse().unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let answer = match head[0].split(' ').nth(1).context("a path")? {
            "/" => whole("text/html", PAGE),
            "/upload" => whole("text/plain", &body.len().to_string()),
            "/events" => return send_events(stream),
            "/socket" => return echo(&mut reader, stream, field("sec-websocket-key: ")),
            "/report" => {
                reports.send(serde_json::from_slice(&body)?)?;
                whole("text/plain", "thanks")
            }
            _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes())?;
    }
}

fn read_head(reader: &mut impl BufRead) -> Result<Vec<String>> {
    let lines = reader.lines().take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()));
    let head = lines.collect::<std::io::Result<Vec<_>>>()?;
    anyhow::ensure!(!head.is_empty(), "the connection ended");
    Ok(head)
}

fn whole(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// One event after the other, without an end, until nobody listens.
fn send_events(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
    for number in 0.. {
        write!(stream, "data: event {number}\n\n")?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A WebSocket (RFC 6455) that says again what it hears, in frames of fewer than 126 bytes, until it hears the end.
fn echo(reader: &mut impl Read, mut stream: &TcpStream, key: &str) -> Result<()> {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-protocol: chat\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )?;
    loop {
        let mut head = [0; 6];
        reader.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        reader.read_exact(&mut payload)?;
        let unmasked = payload.iter().zip(head[2..].iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> = [head[0], head[1] & 0x7f].into_iter().chain(unmasked).collect();
        stream.write_all(&frame)?;
        if head[0] & 0x0f == 8 {
            return Ok(());
        }
    }
}

#[test]
fn a_browser_loads_a_page_and_speaks_over_it_with_a_service_of_http1() -> Result<()> {
    let gateway = Gateway::start()?;
    let folder = gateway.folder.path();
    let (service, reported) = service()?;
    let listener = listener_address();
    let certificate = Authority::new(folder, "servers")?.issue("shop", "shop.example")?;
    let key = KeyPair::from_pem(certificate["key"].as_str().context("it has a key")?)?;
    let file = json!({
        "version": 1,
        "listeners": [{ "name": "secure", "bind": listener, "tls": { "certificates": ["shop"] } }],
        "certificates": [certificate],
        "services": [{ "name": "shop", "url": format!("http://{service}") }],
        "routes": [{ "name": "shop", "hosts": ["shop.example"], "service": "shop" }],
    });
    gateway.control.admin.apply(&file.to_string())?;
    let _browser = Browser::open(folder, listener, &key)?;
    let seen = reported.recv_timeout(Duration::from_secs(60));
    let seen = seen.with_context(|| std::fs::read_to_string(folder.join("browser.log")).unwrap_or_default())?;
    let events = ["event 0", "event 1", "event 2"];
    assert_eq!(seen, json!(["300000", events, ["chat", "there and back", 1000]]));
    // The page does not know how its requests came.
    for path in ["/", "/upload", "/events", "/socket"] {
        let came = [format!(r#""path":"{path}""#), r#""protocol":"HTTP/2""#.to_owned()];
        wait_until("the log tells that it came over HTTP/2", || {
            let log = gateway.node.process.output();
            log.lines().any(|line| came.iter().all(|part| line.contains(part)))
        })?;
    }
    Ok(())
}
