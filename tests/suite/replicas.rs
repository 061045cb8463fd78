//! Postgres behind the control plane: restarts of the database, and two replicas on one.

use std::path::Path;

use anyhow::Result;
use tests::gateway::{ControlPlane, Node, revision_of, wait_until};
use tests::http;
use tests::postgres::Postgres;
use tests::traffic::{Backend, Traffic};

use crate::{listener_address, simple_file};

#[test]
fn two_replicas_on_one_database_agree_and_either_may_write() -> Result<()> {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir()?;
    let (one, mut two) = two_replicas(&postgres, folder.path())?;
    let node_of_one = Node::start(one.stream, &one.node_token(), &folder.path().join("n1"))?;
    node_of_one.wait_until_ready()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    one.admin.apply(&simple_file(listener, &backend.url()))?;

    // Written at one replica, served by a node of the other.
    let body = r#"{"hosts":["two.example"],"service":"orders"}"#;
    two.admin.succeed("PUT", "routes/two", body)?;
    wait_until("the other replica's node serves it", || {
        http::get(listener, "two.example", "/").is_ok_and(|answer| answer.status == 200)
    })?;

    // Both write at once, without a base: every write is there in the end.
    std::thread::scope(|scope| {
        for (replica, control) in [("one", &one), ("two", &two)] {
            scope.spawn(move || {
                for index in 0..25 {
                    let body = format!(r#"{{"hosts":["{replica}-{index}.example"],"service":"orders"}}"#);
                    control
                        .admin
                        .succeed("PUT", &format!("routes/{replica}-{index}"), &body)
                        .expect("no write is lost");
                }
            });
        }
    });
    for control in [&one, &two] {
        let count = || Some(control.admin.get("routes?limit=1000").ok()?["items"].as_array()?.len());
        wait_until("each replica has the routes of both", || count() == Some(52))?;
    }

    // With a base that is no longer the head, the write is a conflict.
    let stale = one.admin.call_as("POST", "config:apply?base=1", "application/yaml", "version: 1\n")?;
    assert_eq!(stale.status, 409, "{}", stale.text());

    two.process.kill();
    one.admin.succeed("DELETE", "routes/two?wait=serving&timeout=20s", "")?;
    two.start_again()?;
    assert_eq!(two.admin.head()?, one.admin.head()?);
    Ok(())
}

#[test]
fn a_writer_at_one_replica_waits_for_the_node_of_the_other() -> Result<()> {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir()?;
    let (one, two) = two_replicas(&postgres, folder.path())?;
    let near = Node::start(one.stream, &one.node_token(), &folder.path().join("near"))?;
    let far = Node::start(two.stream, &one.node_token(), &folder.path().join("far"))?;
    for node in [&near, &far] {
        node.wait_until_ready()?;
    }
    for control in [&one, &two] {
        wait_until("each replica lists the nodes of both", || connected(control) == Some(2))?;
    }

    // Without listeners, which both nodes on this machine would want to open.
    far.process.signal("STOP")?;
    let body = r#"{"url":"http://127.0.0.1:9"}"#;
    let early = one.admin.call("PUT", "services/web?wait=serving&timeout=1s", body)?;
    assert_eq!((early.status, &early.json()?["wait"]["state"]), (202, &"timed-out".into()), "{}", early.text());
    let serving = |control: &ControlPlane| Some(control.admin.get("nodes").ok()?["convergence"]["serving"].clone());
    wait_until("the other replica knows that half of them serve it", || serving(&two) == Some(1.into()))?;
    far.process.signal("CONT")?;
    let served = one.admin.succeed("PUT", "services/web?wait=serving&timeout=30s", body)?;
    assert_eq!(served.status, 200, "{}", served.text());
    wait_until("either replica says so", || [&one, &two].iter().all(|control| serving(control) == Some(2.into())))?;
    Ok(())
}

/// Nodes that are connected, wherever.
fn connected(control: &ControlPlane) -> Option<usize> {
    let nodes = control.admin.nodes().ok()?;
    Some(nodes.iter().filter(|node| node["connected"] == true).count())
}

pub fn two_replicas(postgres: &Postgres, folder: &Path) -> Result<(ControlPlane, ControlPlane)> {
    let one = ControlPlane::start(&postgres.url(), &folder.join("one"))?;
    // The second finds tokens in the database and makes none; its operator gives it the same files.
    let data = folder.join("two");
    std::fs::create_dir_all(&data)?;
    for token in ["admin-token", "node-token"] {
        std::fs::copy(folder.join("one").join(token), data.join(token))?;
    }
    Ok((one, ControlPlane::start(&postgres.url(), &data)?))
}

#[test]
fn a_database_that_restarts_is_used_again_and_traffic_flows_meanwhile() -> Result<()> {
    let mut postgres = Postgres::start();
    let folder = tempfile::tempdir()?;
    let control = ControlPlane::start(&postgres.url(), &folder.path().join("control"))?;
    let node = Node::start(control.stream, &control.node_token(), &folder.path().join("node"))?;
    node.wait_until_ready()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    control.admin.apply(&simple_file(listener, &backend.url()))?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");
    let body = r#"{"hosts":["before.example"],"service":"orders"}"#;
    let before = revision_of(&control.admin.succeed("PUT", "routes/before", body)?)?;

    postgres.stop();
    let answer = control.admin.call("PUT", "routes/during", body)?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    postgres.start_again();

    wait_until("writes work again", || {
        control.admin.call("PUT", "routes/after", body).is_ok_and(|answer| answer.status < 300)
    })?;
    assert!(control.admin.head()? > before);
    assert_eq!(control.admin.call("GET", "routes/before", "")?.status, 200);
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    Ok(())
}
