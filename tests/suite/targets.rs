//! Targets that come, drain and go while requests flow.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::address::free_address;
use tests::gateway::{Node, binary, wait_until};
use tests::http;
use tests::postgres::Postgres;
use tests::traffic::{Backend, Passing, Traffic};

use crate::replicas::two_replicas;
use crate::{Gateway, listener_address};

/// A service of which the configuration says no targets.
fn file(listener: std::net::SocketAddr) -> String {
    format!(
        "version: 1
listeners: [{{ name: web, bind: \"{listener}\" }}]
services: [{{ name: orders }}]
routes: [{{ name: orders, hosts: [shop.example], paths: [/orders], service: orders }}]
"
    )
}

#[test]
fn all_backends_are_restarted_one_by_one_and_no_request_fails() -> Result<()> {
    let gateway = Gateway::start()?;
    let admin = &gateway.control.admin;
    let listener = listener_address();
    admin.apply(&file(listener))?;
    let without = http::get(listener, "shop.example", "/orders/7")?;
    assert_eq!(without.status, 503, "{}", without.text());

    let mut backends: Vec<Passing> = ["a", "b", "c"].into_iter().map(Passing::start).collect::<Result<_>>()?;
    let targets: Vec<String> = backends.iter().map(|backend| format!("\"{}\": {{}}", backend.address)).collect();
    let body = format!("{{{}}}", targets.join(","));
    admin.succeed("PATCH", "services/orders/targets?wait=serving&timeout=20s", &body)?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");
    let revision = admin.head()?;
    for _ in 0..2 {
        for backend in &mut backends {
            let before = backend.answered();
            wait_until("the backend is used", || backend.answered() > before)?;
            let target = format!("services/orders/targets/{}?wait=serving&timeout=20s", backend.address);
            admin.succeed("PATCH", &target, r#"{"draining":true}"#)?;
            wait_until("the gateway has left it", || backend.connections() == 0)?;
            let before = traffic.sent();
            wait_until("requests flow without it", || traffic.sent() > before + 20)?;
            assert_eq!(backend.connections(), 0, "nothing comes back to a target that drains");
            backend.stop();
            backend.start_again()?;
            admin.succeed("PUT", &target, "{}")?;
        }
    }
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    assert_eq!(admin.head()?, revision, "no revision was made");
    Ok(())
}

/// What a command of the program's own prints.
fn sluice(gateway: &Gateway, arguments: &[&str]) -> Result<String> {
    let server = format!("http://{}", gateway.control.admin.address);
    let output = Command::new(binary()?)
        .args(arguments)
        .args(["--server", &server, "--token", &gateway.control.admin.token])
        .output()?;
    if !output.status.success() {
        bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn health_tells_of_every_target_wherever_it_comes_from() -> Result<()> {
    let gateway = Gateway::start()?;
    let admin = &gateway.control.admin;
    let [written, added, found] = ["written", "added", "found"].map(Backend::start);
    let dead = format!("http://{}", free_address());
    let service = json!({
        "name": "orders",
        "targets": [{ "url": written.url() }, { "url": dead, "weight": 3 }],
        "discovery": { "dns": { "name": "localhost", "records": "a", "port": found.address.port() } },
        "health_check": { "tcp": {}, "interval": "1s", "unhealthy_threshold": 1 },
    });
    admin.apply(&json!({ "version": 1, "services": [service] }).to_string())?;
    admin.succeed("PUT", &format!("services/orders/targets/{}", added.address), r#"{"weight":2}"#)?;
    let mut health = Value::Null;
    let line = |target: &Value| {
        let cause = target["unhealthy"][0]["cause"].as_str().unwrap_or_default().to_owned();
        format!("{} {} {} {cause}", target["target"].as_str().unwrap_or_default(), target["weight"], target["healthy"])
    };
    let expected = [
        format!("{} 1 1 ", written.url()),
        format!("{dead} 3 0 check"),
        format!("{} 2 1 ", added.url()),
        format!("{} null 1 ", found.url()),
    ];
    let told = wait_until("the node has told of all of them", || {
        health = admin.get("services/orders/health").unwrap_or_default();
        let lines = health["targets"].as_array().map(|targets| targets.iter().map(line).collect::<Vec<_>>());
        lines.is_some_and(|lines| lines == expected)
    });
    told.with_context(|| format!("{health:#}"))?;
    assert_eq!((&health["nodes"], &health["is_complete"]), (&json!(1), &json!(true)));

    let shown = sluice(&gateway, &["health", "orders"])?;
    for (target, rest) in [(written.url(), "1/1"), (dead.clone(), "0/1"), (added.url(), "1/1"), (found.url(), "1/1")] {
        let line = shown.lines().find(|line| line.contains(&target)).with_context(|| shown.clone())?;
        assert!(line.contains(rest), "{shown}");
    }
    let shown = sluice(&gateway, &["health"])?;
    assert!(shown.contains(&dead) && !shown.contains(&written.url()), "{shown}");
    Ok(())
}

#[test]
fn commands_show_and_change_targets() -> Result<()> {
    let gateway = Gateway::start()?;
    let (listener, backend) = (listener_address(), Backend::start("a"));
    gateway.control.admin.apply(&file(listener))?;
    let target = backend.address.to_string();
    let asked = || http::get(listener, "shop.example", "/orders/7").map(|answer| answer.status);
    sluice(&gateway, &["targets", "orders", "set", &target, "--weight", "2", "--label", "rack=a", "--wait"])?;
    assert_eq!(asked()?, 200);
    let shown = sluice(&gateway, &["targets", "orders"])?;
    let line = shown.lines().find(|line| line.contains(&target)).with_context(|| shown.clone())?;
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [&backend.url(), "serving", "2", "added", "rack=a"]);
    for change in [&["drain", &target][..], &["remove", &target], &["set", "10.0.0.1:80"]] {
        sluice(&gateway, &[&["targets", "orders", "--dry-run"], change].concat())?;
        assert_eq!(sluice(&gateway, &["targets", "orders"])?, shown, "nothing is written");
    }
    assert!(sluice(&gateway, &["targets", "orders", "set", "10.0.0.1:http", "--dry-run"]).is_err(), "it is checked");
    sluice(&gateway, &["targets", "orders", "drain", &target, "--wait"])?;
    assert_eq!(asked()?, 503);
    assert!(sluice(&gateway, &["targets", "orders"])?.contains("draining"));
    sluice(&gateway, &["targets", "orders", "remove", &target, "--wait"])?;
    assert!(!sluice(&gateway, &["targets", "orders"])?.contains(&target));
    assert!(sluice(&gateway, &["targets", "orders", "drain", &target]).is_err(), "there is no such target");
    Ok(())
}

#[test]
fn targets_are_there_after_a_restart_without_a_control_plane() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let listener = listener_address();
    gateway.control.admin.apply(&file(listener))?;
    let backend = Passing::start("a")?;
    let target = format!("services/orders/targets/{}?wait=serving&timeout=20s", backend.address);
    gateway.control.admin.succeed("PUT", &target, "{}")?;
    assert_eq!(http::get(listener, "shop.example", "/orders/7")?.status, 200);
    gateway.control.process.kill();
    gateway.node.process.signal("TERM")?;
    assert_eq!(gateway.node.process.wait()?, 0);
    gateway.node.process.start_again()?;
    wait_until("it is served from the disk of the node", || {
        http::get(listener, "shop.example", "/orders/7").is_ok_and(|answer| answer.status == 200)
    })
}

#[test]
fn a_change_at_one_replica_reaches_the_node_of_the_other() -> Result<()> {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir()?;
    let (one, two) = two_replicas(&postgres, folder.path())?;
    let node = Node::start(two.stream, &one.node_token(), &folder.path().join("node"))?;
    node.wait_until_ready()?;
    let listener = listener_address();
    one.admin.apply(&file(listener))?;
    wait_until("the other replica has the service", || {
        two.admin.call("GET", "services/orders", "").is_ok_and(|answer| answer.status == 200)
    })?;
    let backend = Passing::start("a")?;
    let target = format!("services/orders/targets/{}", backend.address);
    wait_until("the node is known to both", || one.admin.nodes().is_ok_and(|nodes| !nodes.is_empty()))?;
    one.admin.succeed("PUT", &format!("{target}?wait=serving&timeout=30s"), "{}")?;
    assert_eq!(http::get(listener, "shop.example", "/orders/7")?.status, 200);
    // Both write at once: nothing is lost.
    std::thread::scope(|scope| {
        for (half, control) in [(1, &one), (2, &two)] {
            scope.spawn(move || {
                for index in 1..=25 {
                    let target = format!("services/orders/targets/10.0.{half}.{index}:80");
                    control.admin.succeed("PUT", &target, r#"{"weight":0}"#).expect("no write is lost");
                }
            });
        }
    });
    for control in [&one, &two] {
        let count = || Some(control.admin.get("services/orders/targets").ok()?["items"].as_array()?.len());
        wait_until("each replica has the targets of both", || count() == Some(51))?;
    }
    let changes = two.admin.get("target-changes?limit=1000")?;
    assert_eq!(changes["items"].as_array().map(Vec::len), Some(51));
    Ok(())
}
