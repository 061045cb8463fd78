//! Several gateways on one control plane: each with resources and nodes of its own.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use tests::gateway::{Admin, ControlPlane, Node, binary, wait_until};
use tests::http;
use tests::postgres::Postgres;

use crate::listener_address;

/// A command of ours as a pipeline calls it.
pub fn sluice(admin: &Admin, arguments: &[&str]) -> Result<Output> {
    let server = format!("http://{}", admin.address);
    let output = Command::new(binary()?)
        .args(arguments)
        .args(["--server", &server, "--token", &admin.token])
        .output()
        .context("the binary of this build cannot be run")?;
    Ok(output)
}

pub fn succeed(admin: &Admin, arguments: &[&str]) -> Result<String> {
    let output = sluice(admin, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_new_gateway_has_nodes_and_resources_of_its_own_on_every_replica() -> Result<()> {
    let server = Postgres::start();
    let database = server.create_database("gateways");
    let folder = tempfile::tempdir()?;
    let first = ControlPlane::start(&database, &folder.path().join("first"))?;
    let second = ControlPlane::start(&database, &folder.path().join("second"))?;
    let there = Admin { token: first.admin.token.clone(), ..second.admin };

    succeed(&first.admin, &["gateways", "create", "edge"])?;
    wait_until("the other replica knows it", || {
        succeed(&there, &["gateways"]).is_ok_and(|listed| listed.contains("edge"))
    })?;
    let plain = Node::start(first.stream, &first.node_token(), &folder.path().join("plain"))?;
    let more = ["--gateway", "edge"];
    let stream = format!("http://{}", second.stream);
    let edge = Node::start_with(&stream, &first.node_token(), &folder.path().join("edge"), &more)?;
    for (gateway, admin, node, body) in [("default", &there, &plain, "plain"), ("edge", &first.admin, &edge, "edge")] {
        let listener = listener_address();
        let file = folder.path().join(format!("{gateway}.yaml"));
        std::fs::write(
            &file,
            format!(
                "version: 1\nlisteners: [{{ name: web, bind: \"{listener}\" }}]\nroutes: [{{ name: all, respond: {{ body: {body} }} }}]\n"
            ),
        )?;
        let file = file.to_string_lossy();
        wait_until("its node is connected", || {
            succeed(admin, &["nodes", "--gateway", gateway]).is_ok_and(|nodes| nodes.lines().count() == 2)
        })?;
        succeed(admin, &["apply", "--gateway", gateway, "-f", &file, "--wait"])?;
        node.wait_until_ready()?;
        assert_eq!(http::get(listener, "any", "/")?.text(), body);
    }

    let refused = sluice(&there, &["gateways", "delete", "edge"])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has resources"), "{refused:?}");
    for resource in [["route", "all"], ["listener", "web"]] {
        succeed(&there, &["delete", resource[0], resource[1], "--gateway", "edge"])?;
    }
    succeed(&there, &["gateways", "delete", "edge"])?;
    wait_until("the first replica forgets it", || {
        succeed(&first.admin, &["gateways"]).is_ok_and(|listed| !listed.contains("edge"))
    })?;
    let unknown = sluice(&there, &["get", "routes", "--gateway", "edge"])?;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(http::get(edge.port, "node", "/readyz")?.status, 200, "the node serves on");
    Ok(())
}
