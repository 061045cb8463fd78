//! Whatever is killed: nodes serve on, nothing acknowledged is lost, everything converges without a hand.

use std::io::Write;

use anyhow::Result;
use tests::gateway::{Node, revision_of, wait_until};
use tests::http;
use tests::traffic::{Backend, Traffic};

use crate::{Gateway, listener_address, simple_file};

#[test]
fn a_control_plane_that_is_killed_loses_nothing_and_nodes_serve_on() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");
    for round in 0..3 {
        let mut acknowledged = 0;
        for change in 0..20 {
            let body = format!(r#"{{"hosts":["k{round}.example"],"paths":["/p{change}"],"service":"orders"}}"#);
            acknowledged =
                revision_of(&gateway.control.admin.succeed("PUT", &format!("routes/k{round}-{change}"), &body)?)?;
        }
        gateway.control.process.kill();
        assert_eq!(http::get(listener, "shop.example", "/orders/7")?.status, 200);
        gateway.control.start_again()?;
        assert_eq!(gateway.control.admin.head()?, acknowledged);
        let host = format!("k{round}.example");
        wait_until("the node serves the last acknowledged change", || {
            http::get(listener, &host, "/p19").is_ok_and(|answer| answer.status == 200)
        })?;
    }
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    Ok(())
}

#[test]
fn a_node_without_a_control_plane_serves_what_it_had() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    let route = r#"{"hosts":["late.example"],"service":"orders"}"#;
    gateway.control.admin.succeed("PUT", "routes/late?wait=serving&timeout=20s", route)?;
    gateway.control.process.kill();

    // The change reaches the disk soon after it serves, not before: a crash in between costs nothing that the
    // control plane does not send again, but here there is none.
    let journal =
        || std::fs::read_dir(gateway.node.data.join("last-good/default")).is_ok_and(|files| files.count() > 0);
    wait_until("last-good is on disk", journal)?;
    gateway.node.process.signal("TERM")?;
    gateway.node.process.wait()?;
    gateway.node.process.start_again()?;
    gateway.node.wait_until_ready()?;
    assert_eq!(http::get(listener, "shop.example", "/orders/7")?.status, 200);
    assert_eq!(http::get(listener, "late.example", "/")?.status, 200);

    gateway.control.start_again()?;
    let changed = r#"{"hosts":["later.example"],"service":"orders"}"#;
    wait_until("the node is connected again", || {
        gateway.control.admin.nodes().is_ok_and(|nodes| nodes.iter().any(|node| node["connected"] == true))
    })?;
    gateway.control.admin.succeed("PUT", "routes/later?wait=serving&timeout=20s", changed)?;
    assert_eq!(http::get(listener, "later.example", "/")?.status, 200);
    Ok(())
}

#[test]
fn a_node_takes_a_port_over_once_its_holder_is_gone() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let listener = listener_address();
    let file = format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"{listener}\" }}]\nroutes: [{{ name: all, respond: {{ body: hi }} }}]\n"
    );
    gateway.control.admin.apply(&file)?;
    let second = Gateway::node(&gateway.control, &gateway.folder.path().join("second"))?;
    wait_until("it says who has the port", || second.process.output().contains("is taken by"))?;
    assert_eq!(http::get(second.port, "node", "/readyz")?.status, 503);

    gateway.node.process.kill();
    second.wait_until_ready()?;
    assert_eq!(http::get(listener, "any", "/")?.text(), "hi");
    assert_eq!(second.process.output().matches("is taken by").count(), 1, "it is said once");
    wait_until("the control plane knows", || {
        let nodes = gateway.control.admin.nodes().unwrap_or_default();
        nodes
            .iter()
            .any(|node| node["connected"] == true && node["serving"]["revision"] == 1 && node["refusal"].is_null())
    })
}

#[test]
fn a_torn_journal_falls_back_to_a_whole_revision() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    for change in 0..5 {
        let body = format!(r#"{{"hosts":["t.example"],"paths":["/p{change}"],"service":"orders"}}"#);
        gateway.control.admin.succeed("PUT", &format!("routes/t{change}?wait=serving&timeout=20s"), &body)?;
    }
    gateway.control.process.kill();
    gateway.node.process.signal("TERM")?;
    gateway.node.process.wait()?;
    for file in std::fs::read_dir(gateway.node.data.join("last-good/default"))? {
        let path = file?.path();
        if path.to_string_lossy().contains("journal") {
            std::fs::OpenOptions::new().append(true).open(&path)?.write_all(b"torn by a crash")?;
        }
    }
    gateway.node.process.start_again()?;
    gateway.node.wait_until_ready()?;
    assert_eq!(http::get(listener, "shop.example", "/orders/7")?.status, 200);
    assert_eq!(http::get(listener, "t.example", "/p4")?.status, 200);
    Ok(())
}

#[test]
fn a_node_that_is_killed_comes_back_to_the_newest_revision() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    gateway.node.process.kill();
    let body = r#"{"hosts":["missed.example"],"service":"orders"}"#;
    gateway.control.admin.succeed("PUT", "routes/missed", body)?;
    gateway.node.process.start_again()?;
    wait_until("the node serves what it missed", || {
        http::get(listener, "missed.example", "/").is_ok_and(|answer| answer.status == 200)
    })
}

#[test]
fn a_second_node_gets_everything_and_apply_waits_for_both() -> Result<()> {
    let gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    // It cannot open the same port on this machine, so it refuses, and the writer is told.
    let second =
        Node::start(gateway.control.stream, &gateway.control.node_token(), &gateway.folder.path().join("second"))?;
    wait_until("the second node has refused", || {
        gateway.control.admin.nodes().is_ok_and(|nodes| nodes.iter().any(|node| !node["refusal"].is_null()))
    })?;
    // A listener on a port of its own for each is not possible in one gateway; without listeners both can serve.
    let file = format!(
        "version: 1\nservices: [{{ name: orders, url: \"{}\" }}]\nroutes: [{{ name: orders, service: orders }}]\n",
        backend.url()
    );
    gateway.control.admin.apply(&file)?;
    second.wait_until_ready()?;
    let nodes = gateway.control.admin.nodes()?;
    assert_eq!(nodes.len(), 2);
    let serving: Vec<_> = nodes.iter().map(|node| node["serving"]["revision"].clone()).collect();
    assert_eq!(serving[0], serving[1], "{nodes:#?}");
    assert!(nodes.iter().all(|node| node["refusal"].is_null()), "{nodes:#?}");
    Ok(())
}
