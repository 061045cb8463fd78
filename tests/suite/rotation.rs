//! What is trusted and what seals, exchanged under traffic: the authority of nodes, one that is given, the key of a node.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::gateway::{ControlPlane, Node, wait_until};
use tests::http;
use tests::traffic::Traffic;

use crate::fleet::Fleet;
use crate::gateways::{sluice, succeed};
use crate::listener_address;

fn file(bind: &str, body: &str) -> String {
    json!({
        "version": 1,
        "listeners": [{ "name": "web", "bind": bind }],
        "routes": [{ "name": "word", "respond": { "body": body } }],
    })
    .to_string()
}

fn pins(shown: &str) -> Vec<String> {
    shown.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn an_authority_takes_the_place_of_another_without_a_pause() -> Result<()> {
    let mut fleet = Fleet::start_with(2, 2, &["--certificate-lifetime", "6s"])?;
    fleet.admin(0).apply(&file(&fleet.bind(), "one"))?;
    let traffic = Traffic::start(fleet.listener(0), "any", "/");
    let before = pins(&succeed(fleet.admin(0), &["authority"])?);
    let early = sluice(fleet.admin(0), &["authority", "retire"])?;
    ensure!(String::from_utf8_lossy(&early.stderr).contains("no authority but the one that certifies"), "{early:?}");

    succeed(fleet.admin(0), &["authority", "rotate"])?;
    let early = sluice(fleet.admin(0), &["authority", "retire"])?;
    ensure!(String::from_utf8_lossy(&early.stderr).contains("may have certificates"), "{early:?}");
    let during = pins(&succeed(fleet.admin(0), &["authority"])?);
    assert_eq!((during.len(), &during[1]), (2, &before[0]));
    wait_until("the other control plane has it", || {
        succeed(fleet.admin(1), &["authority"]).is_ok_and(|shown| pins(&shown) == during)
    })?;
    // A node that knows the one before alone comes anew, and another one joins with a token of before.
    fleet.nodes[1].process.kill();
    fleet.nodes[1].process.start_again()?;
    fleet.add_node()?;
    fleet.wait_until_converged()?;
    fleet.admin(1).apply(&file(&fleet.bind(), "two"))?;
    let moves_on = format!("by the pin {}", during[0]);
    for node in &fleet.nodes[..2] {
        wait_until("the node has moved on", || node.process.output().contains(&moves_on))
            .with_context(|| node.process.output())?;
    }
    fleet.admin(0).apply(&file(&fleet.bind(), "three"))?;

    wait_until("nobody needs the one before", || succeed(fleet.admin(1), &["authority", "retire"]).is_ok())?;
    wait_until("the other control plane has retired it", || {
        succeed(fleet.admin(0), &["authority"]).is_ok_and(|shown| pins(&shown) == during[..1])
    })?;
    // Under the streams of before, and on new ones.
    fleet.admin(0).apply(&file(&fleet.bind(), "four"))?;
    for node in 0..fleet.nodes.len() {
        assert_eq!(fleet.get(node, "any", "/")?.text(), "four");
    }
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    fleet.nodes[0].process.kill();
    fleet.nodes[0].process.start_again()?;
    fleet.wait_until_converged()?;
    fleet.admin(1).apply(&file(&fleet.bind(), "five"))?;
    assert_eq!(fleet.get(0, "any", "/")?.text(), "five");
    Ok(())
}

/// An authority as an operator makes one with OpenSSL.
fn own_authority(folder: &Path, name: &str) -> Result<()> {
    let key = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
        .arg(folder.join(format!("{name}.key")))
        .output()?;
    ensure!(key.status.success(), "{key:?}");
    let certificate = Command::new("openssl")
        .args(["req", "-x509", "-new", "-days", "3650", "-subj", &format!("/O=Example/CN={name}"), "-key"])
        .arg(folder.join(format!("{name}.key")))
        .args(["-addext", "keyUsage=critical,keyCertSign,digitalSignature", "-out"])
        .arg(folder.join(format!("{name}.crt")))
        .output()?;
    ensure!(certificate.status.success(), "{certificate:?}");
    Ok(())
}

#[test]
fn an_authority_that_is_given_certifies_and_another_takes_its_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    for name in ["first", "second"] {
        own_authority(folder.path(), name)?;
    }
    let put_in_place = |names: &[&str]| -> Result<()> {
        for ending in ["crt", "key"] {
            let parts: Result<Vec<String>, _> =
                names.iter().map(|name| std::fs::read_to_string(at(&format!("{name}.{ending}")))).collect();
            std::fs::write(at(&format!("authority.{ending}")), parts?.concat())?;
        }
        Ok(())
    };
    put_in_place(&["first"])?;
    let (crt, key) = (at("authority.crt"), at("authority.key"));
    let more = [
        "--authority-cert",
        &crt.to_string_lossy(),
        "--authority-key",
        &key.to_string_lossy(),
        "--certificate-lifetime",
        "6s",
    ];
    let mut control = ControlPlane::start_with(&at("sluice.db").to_string_lossy(), &at("control"), &more)?;
    let token = at("token");
    let to = token.to_string_lossy();
    succeed(&control.admin, &["join-token", "create", "--to", &to])?;
    let node = Node::join(&format!("https://{}", control.stream), Some(&token), &at("node"), &[])?;
    node.wait_until_ready()?;
    let listener = listener_address();
    control.admin.apply(&file(&listener.to_string(), "one"))?;
    let first = pins(&succeed(&control.admin, &["authority"])?);
    let refused = sluice(&control.admin, &["authority", "rotate"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("comes from files"), "{refused:?}");

    for (names, body) in [(&["first", "second"][..], "two"), (&["second", "first"], "three"), (&["second"], "four")] {
        if body == "four" {
            wait_until("the node has moved on", || node.process.output().contains("from now on"))?;
        }
        put_in_place(names)?;
        control.process.kill();
        control.start_again()?;
        wait_until("the node follows", || {
            control.admin.get("status").is_ok_and(|status| status["is_converged"] == true)
        })
        .with_context(|| node.process.output())?;
        control.admin.apply(&file(&listener.to_string(), body))?;
        assert_eq!(http::get(listener, "any", "/")?.text(), body);
    }
    let last = pins(&succeed(&control.admin, &["authority"])?);
    assert!(last.len() == 1 && last != first, "{last:?}");
    assert_eq!(node.process.output().matches("this node has joined").count(), 1, "it joined once");
    Ok(())
}

#[test]
fn a_data_folder_without_the_key_that_lies_elsewhere_is_of_no_use() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let mut control = ControlPlane::start(&at("sluice.db").to_string_lossy(), &at("control"))?;
    let (token, key) = (at("token"), at("elsewhere.key"));
    succeed(&control.admin, &["join-token", "create", "--to", &token.to_string_lossy()])?;
    let more = ["--node-key-file", &key.to_string_lossy()];
    let mut node = Node::join(&format!("https://{}", control.stream), Some(&token), &at("node"), &more)?;
    node.wait_until_ready()?;
    let listener = listener_address();
    control.admin.apply(&file(&listener.to_string(), "one"))?;
    control.admin.succeed("PUT", "services/orders", r#"{"url":"http://127.0.0.1:9"}"#)?;
    let target = "services/orders/targets/10.9.8.7:80?wait=serving&timeout=20s";
    control.admin.succeed("PUT", target, "{}")?;
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key)?) & 0o777, 0o600);
    assert!(!node.data.join("trust/node.key").exists());
    node.process.signal("TERM")?;
    node.process.wait()?;
    let targets = std::fs::read(node.data.join("last-good/default/targets"))?;
    assert!(!targets.windows(8).any(|window| window == b"10.9.8.7"), "what is said of targets is sealed");

    // With its key it starts without a control plane; without it, it has nothing to serve, and says why.
    control.process.kill();
    node.process.start_again()?;
    node.wait_until_ready()?;
    assert_eq!(http::get(listener, "any", "/")?.text(), "one");
    node.process.kill();
    std::fs::rename(&key, at("kept"))?;
    node.process.start_again()?;
    let readiness = || http::get(node.port, "node", "/readyz").map_or(0, |answer| answer.status);
    wait_until("it runs", || readiness() == 503)?;
    let log = node.process.output();
    for said in ["sealed with another key", "its certificate is for another key"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert!(http::get(listener, "any", "/").is_err());
    Ok(())
}
