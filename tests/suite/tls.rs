//! TLS on both sides of the gateway, with curl and openssl as peers.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::address::free_address;
use tests::gateway::wait_until;

use crate::authority::Authority;
use crate::{Gateway, listener_address};

/// What curl gets: the status, or nothing if there was no answer.
fn curl(folder: &Path, listener: SocketAddr, host: &str, arguments: &[&str]) -> Result<Option<u16>> {
    let (port, ip) = (listener.port(), listener.ip());
    let output = Command::new("curl")
        .current_dir(folder)
        .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20"])
        .args(["--resolve", &format!("{host}:{port}:{ip}")])
        .args(arguments)
        .arg(format!("https://{host}:{port}/"))
        .output()
        .context("curl cannot be run")?;
    let status = String::from_utf8(output.stdout)?.parse()?;
    Ok(output.status.success().then_some(status))
}

#[test]
fn curl_is_served_by_name_and_shows_who_it_is() -> Result<()> {
    let gateway = Gateway::start()?;
    let folder = gateway.folder.path();
    let (servers, partners, strangers) =
        (Authority::new(folder, "servers")?, Authority::new(folder, "partners")?, Authority::new(folder, "strangers")?);
    let (open, secure) = (listener_address(), listener_address());
    let certificates = ["first", "exact", "wild"];
    let demand = json!({ "ca_bundle": "partners" });
    let file = json!({
        "version": 1,
        "listeners": [
            { "name": "open", "bind": open, "tls": { "certificates": certificates } },
            { "name": "secure", "bind": secure, "tls": { "certificates": certificates, "client_certificate": demand } },
        ],
        "certificates": [
            servers.issue("first", "first.example")?,
            servers.issue("exact", "a.shop.example")?,
            servers.issue("wild", "*.shop.example")?,
        ],
        "ca_bundles": [partners.bundle()],
        "routes": [{ "name": "all", "respond": { "body": "ok" } }],
    });
    gateway.control.admin.apply(&file.to_string())?;
    partners.issue("orders", "orders.partner.example")?;
    strangers.issue("orders-too", "orders.partner.example")?;

    for version in ["--http1.1", "--http2"] {
        for (host, is_covered) in
            [("first.example", true), ("a.shop.example", true), ("b.shop.example", true), ("other.example", false)]
        {
            let status = curl(folder, open, host, &[version, "--cacert", "servers"])?;
            assert_eq!(status, is_covered.then_some(200), "{host} {version}");
        }
        let shows =
            |more: &[&str]| curl(folder, secure, "a.shop.example", &[&[version, "--cacert", "servers"], more].concat());
        assert_eq!(shows(&["--cert", "orders.crt", "--key", "orders.key"])?, Some(200));
        assert_eq!(shows(&["--cert", "orders-too.crt", "--key", "orders-too.key"])?, None);
        assert_eq!(shows(&[])?, None);
    }
    wait_until("the log says who it was", || gateway.node.process.output().contains(r#""client_subject":"CN=orders","#))
}

#[test]
fn a_session_outlives_the_node_that_began_it() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let listener = listener_address();
    let session: PathBuf = gateway.folder.path().join("session");
    let certificate = Authority::new(gateway.folder.path(), "servers")?.issue("a", "a.example")?;
    let file = json!({
        "version": 1,
        "listeners": [{ "name": "secure", "bind": listener, "tls": { "certificates": ["a"] } }],
        "certificates": [certificate],
        "routes": [{ "name": "all", "respond": { "body": "ok" } }],
    });
    gateway.control.admin.apply(&file.to_string())?;
    let connect = |option: &str, version: &str| -> Result<String> {
        let mut client = Command::new("openssl")
            .args([
                "s_client",
                "-ign_eof",
                "-servername",
                "a.example",
                version,
                "-connect",
                &listener.to_string(),
                option,
            ])
            .arg(&session)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdin = client.stdin.take().context("it was piped")?;
        // It may have left already, if nobody listens.
        let _ = stdin.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n");
        Ok(String::from_utf8_lossy(&client.wait_with_output()?.stdout).into_owned())
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let said = connect("-sess_out", version)?;
        assert!(said.contains("New, ") && said.contains("200 OK"), "{said}");
        gateway.node.process.kill();
        gateway.node.process.start_again()?;
        // It serves from its disk at once, and gets the keys over the stream.
        wait_until("the session is resumed", || {
            connect("-sess_in", version).is_ok_and(|said| said.contains("Reused, ") && said.contains("200 OK"))
        })?;
    }
    Ok(())
}

/// A service of openssl's that answers only clients with a certificate of `partners`.
struct Service(Child);

impl Service {
    fn start(folder: &Path) -> Result<(Self, SocketAddr)> {
        let address = free_address();
        let service = Command::new("openssl")
            .current_dir(folder)
            .args(["s_server", "-quiet", "-www", "-cert", "backend.crt", "-key", "backend.key", "-accept"])
            .arg(address.to_string())
            .args(["-CAfile", "partners", "-Verify", "3", "-verify_return_error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        wait_until("openssl serves", || std::net::TcpStream::connect(address).is_ok())?;
        Ok((Self(service), address))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_service_and_the_gateway_prove_themselves_to_each_other() -> Result<()> {
    let gateway = Gateway::start()?;
    let folder = gateway.folder.path();
    let (internal, partners) = (Authority::new(folder, "internal")?, Authority::new(folder, "partners")?);
    internal.issue("backend", "backend.internal")?;
    let (_service, address) = Service::start(folder)?;
    let listener = listener_address();
    let good = json!({ "ca_bundle": "internal", "server_name": "backend.internal", "client_certificate": "gateway" });
    let with = |field: &str, value: Value| {
        let mut tls = good.clone();
        tls[field] = value;
        tls
    };
    let file = |tls: &Value| -> Result<String> {
        let service = json!({ "name": "backend", "url": format!("https://{address}"), "tls": tls });
        Ok(json!({
            "version": 1,
            "listeners": [{ "name": "web", "bind": listener }],
            "certificates": [partners.issue("gateway", "gateway.internal")?, internal.issue("stranger", "gateway.internal")?],
            "ca_bundles": [internal.bundle(), partners.bundle()],
            "services": [service],
            "routes": [{ "name": "all", "service": "backend" }],
        })
        .to_string())
    };
    for (tls, expected) in [
        (good.clone(), 200),
        (with("server_name", "other.internal".into()), 502),
        (with("server_name", Value::Null), 502),
        (with("ca_bundle", "partners".into()), 502),
        (with("ca_bundle", Value::Null), 502),
        (with("client_certificate", Value::Null), 502),
        (with("client_certificate", "stranger".into()), 502),
        (good.clone(), 200),
    ] {
        gateway.control.admin.apply(&file(&tls)?)?;
        let answer = tests::http::get(listener, "shop.example", "/")?;
        if answer.status != expected {
            bail!("{tls} gave {}: {}", answer.status, answer.text());
        }
        let text = answer.text().to_owned();
        assert!(expected == 200 || !text.contains("internal"), "nothing about the service gets out: {text}");
    }
    Ok(())
}
