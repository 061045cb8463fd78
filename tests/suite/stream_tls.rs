//! The stream between the planes over TLS.

use anyhow::{Result, bail};
use tests::gateway::{ControlPlane, Node, revision_of, wait_until};
use tests::http;

use crate::authority::Authority;
use crate::listener_address;

/// Writes the certificate for a control plane on loopback over the one that it shows.
fn show(authority: &Authority, name: &str) -> Result<()> {
    authority.issue(name, "127.0.0.1").map(|_| ())
}

#[test]
fn nodes_follow_over_https_and_only_whom_they_trust() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (ours, theirs) = (Authority::new(folder.path(), "ours")?, Authority::new(folder.path(), "theirs")?);
    show(&ours, "control")?;
    let files = [&*path("control.crt"), &*path("control.key")];
    let more = ["--stream-cert", files[0], "--stream-key", files[1]];
    let control = ControlPlane::start_with(&path("sluice.db"), &folder.path().join("data"), &more)?;
    let url = format!("https://{}", control.stream);
    let start = |url: &str, name: &str, more: &[&str]| {
        Node::start_with(url, &control.node_token(), &folder.path().join(name), more)
    };

    let mut node = start(&url, "node", &["--control-plane-ca", &path("ours")])?;
    node.wait_until_ready()?;
    let listener = listener_address();
    let answer = |body: &str| {
        format!(
            "version: 1\nlisteners: [{{ name: web, bind: \"{listener}\" }}]\nroutes: [{{ name: all, respond: {{ body: {body} }} }}]\n"
        )
    };
    control.admin.apply(&answer("one"))?;
    assert_eq!(http::get(listener, "any", "/")?.text(), "one");

    // Neither of these gets a configuration, and each says why.
    let mut distrustful = start(&url, "distrustful", &["--control-plane-ca", &path("theirs")])?;
    wait_until("it does not trust", || distrustful.process.output().contains("UnknownIssuer"))?;
    let plain = start(&format!("http://{}", control.stream), "plain", &[])?;
    wait_until("it speaks of https", || plain.process.output().contains("the URL is https"))?;
    for unserved in [&distrustful, &plain] {
        assert_eq!(http::get(unserved.port, "node", "/readyz")?.status, 503);
    }
    assert_eq!(control.admin.nodes()?.len(), 1);

    // A certificate that replaces the one before is shown without a restart, and a broken one is not.
    node.process.kill();
    show(&theirs, "control")?;
    wait_until("the certificate of the other authority is shown", || {
        http::get(distrustful.port, "node", "/readyz").is_ok_and(|answer| answer.status == 200)
    })?;
    std::fs::write(path("control.key"), "no key")?;
    distrustful.process.kill();
    node = start(&url, "node", &["--control-plane-ca", &path("theirs")])?;
    wait_until("the node is back", || {
        control.admin.nodes().is_ok_and(|nodes| nodes.iter().filter(|node| node["connected"] == true).count() == 1)
    })?;
    let revision = revision_of(&control.admin.succeed(
        "PUT",
        "routes/all?wait=serving&timeout=20s",
        r#"{"respond":{"body":"two"}}"#,
    )?)?;
    assert_eq!(revision, control.admin.head()?);
    if !control.process.output().contains("control.key") {
        bail!("nobody was told of the broken key:\n{}", control.process.output());
    }
    drop(node);
    Ok(())
}
