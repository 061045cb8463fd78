//! A revision that some nodes cannot serve.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};
use serde_json::json;
use tests::address::free_address;
use tests::gateway::wait_until;
use tests::http;

use crate::fleet::Fleet;

#[test]
fn one_node_of_ten_refuses_serves_what_it_had_and_is_named() -> Result<()> {
    let fleet = Fleet::start(1, 10)?;
    let admin = fleet.admin(0);
    let port = free_address().port();
    let at = |node: usize| SocketAddr::new(fleet.listener(node).ip(), port);
    let file = |body: &str, more: &[serde_json::Value]| {
        let listeners = [&[json!({ "name": "web", "bind": fleet.bind() })], more].concat();
        let routes = [json!({ "name": "word", "respond": { "body": body } })];
        json!({ "version": 1, "listeners": listeners, "routes": routes }).to_string()
    };
    admin.apply(&file("one", &[]))?;
    let before = admin.head()?;

    let in_the_way = TcpListener::bind(at(7))?;
    let second = json!({ "name": "second", "bind": format!("0.0.0.0:{port}") });
    let answer = admin.call("POST", "config:apply?wait=serving&timeout=20s", &file("two", &[second]))?;
    let problem = answer.json()?;
    assert_eq!(answer.status, 409, "{problem:#}");
    let error = &problem["errors"][0];
    assert_eq!(
        (&error["name"], &error["pointer"], &error["code"]),
        (&"second".into(), &"/bind".into(), &"address-in-use".into())
    );

    for node in (0..10).filter(|node| *node != 7) {
        wait_until("the others serve it", || {
            http::get(at(node), "any", "/").is_ok_and(|answer| answer.text() == "two")
        })?;
        assert_eq!(fleet.get(node, "any", "/")?.text(), "two");
    }
    // All of the old one, nothing of the new one.
    assert_eq!(fleet.get(7, "any", "/")?.text(), "one");
    wait_until("the status names the one that does not", || {
        admin.get("status").is_ok_and(|status| status["serving"] == 9 && status["total"] == 10)
    })?;
    let status = admin.get("status")?;
    let refusing = &status["not_serving"][0];
    let id = std::fs::read_to_string(fleet.nodes[7].data.join("node-id"))?;
    assert_eq!((&refusing["node_id"], &refusing["serving"]["revision"]), (&id.trim().into(), &before.into()));
    let reason = refusing["refusal"].to_string();
    assert!(reason.contains("second") && reason.contains("is taken by"), "{reason}");
    let log = fleet.nodes[7].process.output();
    assert!(log.lines().any(|line| line.contains("is taken by")), "{log}");

    drop(in_the_way);
    fleet.wait_until_converged()?;
    assert_eq!(http::get(at(7), "any", "/")?.text(), "two");
    assert!(admin.nodes()?.iter().all(|node| node["refusal"].is_null()), "{:#?}", admin.nodes()?);
    let log = admin.get("nodes")?["convergence"]["serving"].as_u64().context("a number")?;
    assert_eq!(log, 10);
    Ok(())
}
