//! Nodes that join with a token and are who their certificate says: joined, renewed, revoked, refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tests::gateway::{ControlPlane, Node, wait_until};
use tests::http;
use tests::postgres::Postgres;

use crate::gateways::{sluice, succeed};
use crate::listener_address;

/// A control plane whose certificates last for `lifetime`.
fn control_plane(database: &str, data: &Path, lifetime: &str) -> Result<ControlPlane> {
    ControlPlane::start_with(database, data, &["--certificate-lifetime", lifetime])
}

/// A join token in a file of its own, and its id.
fn token(control: &ControlPlane, folder: &Path, name: &str, more: &[&str]) -> Result<(PathBuf, String)> {
    let path = folder.join(name);
    let text = path.to_string_lossy();
    let output = sluice(&control.admin, &[&["join-token", "create", "--to", &text], more].concat())?;
    let said = String::from_utf8(output.stderr)?;
    let id = said.split(' ').nth(3).with_context(|| said.clone())?.to_owned();
    Ok((path, id))
}

fn join(control: &ControlPlane, token: &Path, data: &Path) -> Result<Node> {
    Node::join(&format!("https://{}", control.stream), Some(token), data, &[])
}

fn answering(listener: SocketAddr, body: &str) -> String {
    format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"{listener}\" }}]\nroutes: [{{ name: all, respond: {{ body: {body} }} }}]\n"
    )
}

fn readiness(node: &Node) -> u16 {
    http::get(node.port, "node", "/readyz").map_or(0, |answer| answer.status)
}

fn says(node: &Node, what: &str) -> Result<()> {
    wait_until(&format!("it says `{what}`"), || node.process.output().contains(what))
        .with_context(|| node.process.output())
}

#[test]
fn a_node_joins_renews_its_certificate_under_the_stream_and_is_revoked_on_every_replica() -> Result<()> {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir()?;
    let one = control_plane(&postgres.url(), &folder.path().join("one"), "6s")?;
    let two = control_plane(&postgres.url(), &folder.path().join("two"), "6s")?;
    let (token, id) = token(&one, folder.path(), "token", &["--uses", "2"])?;
    let there = two.admin.with_token(&one.admin.token);
    // Made at one replica, used at the other: they are one authority.
    let mut node = join(&two, &token, &folder.path().join("node"))?;
    node.wait_until_ready()?;
    let listener = listener_address();
    one.admin.apply(&answering(listener, "one"))?;
    assert_eq!(http::get(listener, "any", "/")?.text(), "one");
    assert!(succeed(&one.admin, &["join-token", "list"])?.contains("1/2"));

    // RFC 3339 in UTC sorts as time does, down to the second.
    let ends = || -> Result<String> {
        let nodes = there.nodes()?;
        let end = nodes.first().and_then(|node| node["certificate_expires_at"].as_str()).context("no end is told")?;
        Ok(end.chars().take("2026-01-01T00:00:00".len()).collect())
    };
    let first_end = ends()?;
    for _ in 0..2 {
        let before = node.process.output().matches("is renewed").count();
        wait_until("it renews", || node.process.output().matches("is renewed").count() > before)?;
    }
    assert_eq!(node.process.output().matches("configuration comes from").count(), 1, "{}", node.process.output());
    assert!(ends()? > first_end, "the other replica shows the renewed certificate too");
    assert!(succeed(&there, &["status"])?.starts_with("1/1 nodes serve "));
    let key = node.data.join("trust/node.key");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key)?) & 0o777, 0o600);

    // With its certificate it comes back, and needs the token no more.
    node.process.kill();
    std::fs::remove_file(&token)?;
    node.process.start_again()?;
    node.wait_until_ready()?;
    wait_until("it follows again", || node.process.output().matches("configuration comes from").count() == 2)?;

    let node_id = std::fs::read_to_string(node.data.join("node-id"))?.trim().to_owned();
    let unknown = sluice(&one.admin, &["nodes", "revoke", "nobody"])?;
    assert_eq!(unknown.status.code(), Some(1));
    let revoked = sluice(&one.admin, &["nodes", "revoke", &node_id])?;
    let said = String::from_utf8(revoked.stderr)?;
    assert!(said.contains(&id), "its token has a use left: {said}");
    says(&node, "was revoked")?;
    wait_until("the other replica has ended its stream", || {
        there.nodes().is_ok_and(|nodes| nodes.iter().all(|node| node["connected"] == false))
    })?;
    one.admin.succeed("PUT", "routes/all", r#"{"respond":{"body":"two"}}"#)?;
    assert_eq!(http::get(listener, "any", "/")?.text(), "one", "it serves on what it has");
    assert_eq!(readiness(&node), 200);

    succeed(&one.admin, &["join-token", "revoke", &id])?;
    assert!(succeed(&there, &["join-token", "list"])?.contains("revoked"));
    Ok(())
}

#[test]
fn who_may_not_join_is_told_why_and_gets_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let control = ControlPlane::start(&at("sluice.db").to_string_lossy(), &at("control"))?;
    let other = ControlPlane::start(&at("other.db").to_string_lossy(), &at("other"))?;

    let (used, _) = token(&control, folder.path(), "used", &[])?;
    let first = join(&control, &used, &at("first"))?;
    says(&first, "this node has joined the gateway `default`")?;
    let late = join(&control, &used, &at("late"))?;
    says(&late, "used up")?;

    let (ended, _) = token(&control, folder.path(), "ended", &["--ttl", "1ms"])?;
    says(&join(&control, &ended, &at("ended-node"))?, "its join token ended at")?;

    let (elsewhere, _) = token(&other, folder.path(), "elsewhere", &[])?;
    says(&join(&control, &elsewhere, &at("misled"))?, "this is not the control plane that this node joined")?;

    let (revoked, id) = token(&control, folder.path(), "revoked", &["--uses", "5"])?;
    let comrade = join(&control, &revoked, &at("comrade"))?;
    says(&comrade, "this node has joined")?;
    succeed(&control.admin, &["join-token", "revoke", &id, "--nodes"])?;
    says(&comrade, "was revoked")?;
    says(&join(&control, &revoked, &at("stranger"))?, "its join token was revoked")?;

    let none = Node::join(&format!("https://{}", control.stream), None, &at("none"), &[])?;
    says(&none, "sluice join-token create")?;
    assert_eq!(readiness(&none), 503);
    let garbled = at("garbled");
    std::fs::write(&garbled, "no token")?;
    says(&join(&control, &garbled, &at("garbled-node"))?, "it is no join token")?;
    Ok(())
}

#[test]
fn a_node_gets_what_is_its_gateways_and_nothing_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let control = ControlPlane::start(&at("sluice.db").to_string_lossy(), &at("control"))?;
    succeed(&control.admin, &["gateways", "create", "edge"])?;
    control.admin.succeed("PUT", "services/inner", r#"{"url":"http://127.0.0.1:9"}"#)?;
    let (file, _) = token(&control, folder.path(), "token", &["--gateway", "edge"])?;
    let mut node = join(&control, &file, &at("node"))?;
    says(&node, "has joined the gateway `edge`")?;
    wait_until("it is listed there", || {
        succeed(&control.admin, &["nodes", "--gateway", "edge"]).is_ok_and(|nodes| nodes.lines().count() == 2)
    })?;
    assert_eq!(control.admin.nodes()?.len(), 0);

    // It claims to be of another gateway: what it shows says otherwise, and its token is for the other one too.
    node.process.kill();
    let stolen = Node::join(&format!("https://{}", control.stream), None, &at("node"), &["--gateway", "default"])?;
    says(&stolen, "is for the node")?;
    says(&stolen, "it has not joined yet")?;
    let claims = Node::join(&format!("https://{}", control.stream), Some(&file), &at("x"), &["--gateway", "default"])?;
    says(&claims, "the join token is for the gateway `edge`")?;
    assert_eq!(control.admin.nodes()?.len(), 0);
    Ok(())
}

#[test]
fn a_certificate_that_ended_is_told_and_a_new_token_mends_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let control = control_plane(&at("sluice.db").to_string_lossy(), &at("control"), "1s")?;
    let (file, _) = token(&control, folder.path(), "token", &[])?;
    let mut node = join(&control, &file, &at("node"))?;
    node.wait_until_ready()?;
    let listener = listener_address();
    control.admin.apply(&answering(listener, "one"))?;
    // It ends by itself, so that what it serves is on disk.
    node.process.signal("TERM")?;
    node.process.wait()?;
    std::fs::remove_file(&file)?;
    let ended = || -> Result<bool> {
        let check = std::process::Command::new("openssl")
            .args(["x509", "-checkend", "0", "-noout", "-in"])
            .arg(at("node/trust/node.crt"))
            .output()?;
        Ok(!check.status.success())
    };
    wait_until("its certificate has ended", || ended().unwrap_or(false))?;
    node.process.start_again()?;
    says(&node, "its certificate ended at")?;
    says(&node, "sluice join-token create --gateway default")?;
    wait_until("it serves what it had", || http::get(listener, "any", "/").is_ok_and(|answer| answer.text() == "one"))?;

    // The file is looked for again and again.
    token(&control, folder.path(), "token", &[])?;
    wait_until("it has joined again", || node.process.output().matches("this node has joined").count() == 2)?;
    Ok(())
}

#[test]
fn beyond_loopback_the_stream_speaks_tls_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let anywhere = Some([0, 0, 0, 0].into());
    let control = ControlPlane::start_on(&at("sluice.db").to_string_lossy(), &at("control"), anywhere, &[])?;
    assert!(!control.node_token().exists(), "nodes share no token there");
    std::fs::write(at("made-up"), "0123456789012345678901234567890123456789")?;
    let plain = Node::start(control.stream, &at("made-up"), &at("plain"))?;
    says(&plain, "plain text is for loopback alone")?;
    let (file, _) = token(&control, folder.path(), "token", &[])?;
    join(&control, &file, &at("node"))?.wait_until_ready()?;
    Ok(())
}
