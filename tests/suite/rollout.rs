//! Revisions that go out in steps, on real nodes: what fails comes back by itself, and nobody else ever had it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::gateway::{Admin, revision_of, wait_until};
use tests::traffic::{Backend, Traffic};

use crate::fleet::Fleet;
use crate::gateways::sluice;

/// A service that answers, and a listener.
fn file(fleet: &Fleet, backend: &Backend) -> String {
    format!(
        "version: 1
listeners: [{{ name: web, bind: \"{}\" }}]
services: [{{ name: orders, url: \"{}\" }}]
routes: [{{ name: orders, paths: [/orders], service: orders }}]
",
        fleet.bind(),
        backend.url()
    )
}

fn service(url: &str) -> String {
    json!({ "url": url }).to_string()
}

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn set_strategy(admin: &Admin, steps: &Value, on_change: &str) -> Result<()> {
    let strategy = json!({ "steps": steps, "gates": { "min_requests": 20 }, "on_change": on_change });
    admin.succeed("PUT", "rollout-strategy", &strategy.to_string()).map(drop)
}

fn rollout(admin: &Admin, revision: u64) -> Result<Value> {
    admin.get(&format!("rollouts/{revision}"))
}

fn wait_for_state(admin: &Admin, revision: u64, state: &str) -> Result<Value> {
    let waited = wait_until(&format!("the rollout of {revision} is {state}"), || {
        rollout(admin, revision).is_ok_and(|rollout| rollout["state"] == state)
    });
    waited.with_context(|| format!("{:#?}", rollout(admin, revision)))?;
    rollout(admin, revision)
}

/// The connected nodes that serve a revision, by their places in the fleet.
fn serving(fleet: &Fleet, control: usize, revision: u64) -> Result<Vec<usize>> {
    let listed = fleet.admin(control).nodes()?;
    let serves = |node: usize| {
        let id = std::fs::read_to_string(fleet.nodes[node].data.join("node-id")).ok()?;
        let found = listed.iter().find(|listed| listed["node_id"] == id.trim())?;
        (found["connected"] == true && found["serving"]["revision"] == revision).then_some(node)
    };
    Ok((0..fleet.nodes.len()).filter_map(serves).collect())
}

/// Waits until that many nodes serve a revision; which.
fn wait_until_served(fleet: &Fleet, control: usize, revision: u64, count: usize) -> Result<Vec<usize>> {
    wait_until(&format!("{count} nodes serve {revision}"), || {
        serving(fleet, control, revision).is_ok_and(|nodes| nodes.len() == count)
    })?;
    serving(fleet, control, revision)
}

#[test]
fn a_change_that_fails_is_rolled_back_and_the_other_nodes_never_had_it() -> Result<()> {
    let fleet = Fleet::start(1, 3)?;
    let backend = Backend::start("orders");
    let admin = fleet.admin(0);
    let base = admin.apply(&file(&fleet, &backend))?;
    set_strategy(admin, &json!([{ "nodes": { "count": 1 }, "bake": "5m" }]), "refuse")?;
    let traffic: Vec<Traffic> =
        (0..3).map(|node| Traffic::start(fleet.listener(node), "shop.example", "/orders/7")).collect();
    wait_until("the nodes tell what they count", || {
        admin.nodes().is_ok_and(|nodes| nodes.iter().all(|node| node["traffic"]["requests"].as_u64() > Some(50)))
    })?;

    let written = admin.succeed("PUT", "services/orders", &service(NOWHERE))?;
    let bad = revision_of(&written)?;
    let chosen = wait_until_served(&fleet, 0, bad, 1)?;
    let refused = admin.call("PUT", "services/other", &service(NOWHERE))?;
    ensure!(refused.status == 409 && refused.text().contains("rollout-under-way"), "{}", refused.text());
    let watched = sluice(admin, &["rollout", "watch"])?;
    assert_eq!(watched.status.code(), Some(3), "{}", String::from_utf8_lossy(&watched.stderr));

    let ended = wait_for_state(admin, bad, "rolled-back")?;
    let back = ended["ended_by"].as_u64().context("a revision took its place")?;
    wait_until_served(&fleet, 0, back, 3)?;
    let [before, after] = [base, back].map(|revision| admin.get(&format!("revisions/{revision}")));
    let (before, after) = (before?, after?);
    assert_eq!((back, &before["digest"]), (bad + 1, &after["digest"]), "to the byte what was before");
    // The evidence stands beside both revisions.
    for revision in [bad, back] {
        let kept = &admin.get(&format!("revisions/{revision}"))?["rollouts"][0];
        assert!(kept["reason"].as_str().is_some_and(|reason| reason.contains("requests failed")), "{kept:#}");
        assert!(kept["evidence"]["new"]["errors_percent"].as_f64() > Some(50.0), "{kept:#}");
        assert!(kept["evidence"]["others"]["errors_percent"] == 0.0, "{kept:#}");
    }
    for (node, traffic) in traffic.into_iter().enumerate() {
        let (sent, failures) = traffic.stop();
        assert_eq!(failures.is_empty(), !chosen.contains(&node), "node {node}: {} of {sent}", failures.len());
        let has_had_it = fleet.nodes[node].process.output().contains(&format!("\"revision\":{bad},"));
        assert_eq!(has_had_it, chosen.contains(&node), "node {node}");
    }
    Ok(())
}

#[test]
fn a_good_change_goes_from_step_to_step_and_an_operator_may_hold_and_hurry_it() -> Result<()> {
    let fleet = Fleet::start(1, 3)?;
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let admin = fleet.admin(0);
    admin.apply(&file(&fleet, &first))?;
    let steps = json!([{ "nodes": { "count": 1 }, "bake": "1s" }, { "nodes": { "percent": 60 }, "bake": "1s" }]);
    set_strategy(admin, &steps, "queue")?;
    let traffic = Traffic::start(fleet.listener(0), "shop.example", "/orders/7");

    let good = revision_of(&admin.succeed("PUT", "services/orders", &service(&second.url()))?)?;
    // The next change waits for the end of this one, and is made on what is there then.
    let queued = std::thread::scope(|scope| {
        let queued = scope.spawn(|| admin.succeed("PUT", "services/extra?timeout=60s", &service(NOWHERE)));
        let ended = wait_for_state(admin, good, "promoted")?;
        assert_eq!(ended["cohorts"].as_array().map(Vec::len), Some(2), "{ended:#}");
        let watched = sluice(admin, &["rollout", "watch", &good.to_string()])?;
        ensure!(watched.status.success(), "{}", String::from_utf8_lossy(&watched.stderr));
        queued.join().expect("it does not panic")
    })?;
    let next = revision_of(&queued)?;
    assert_eq!(next, good + 1);

    admin.succeed("POST", &format!("rollouts/{next}/pause"), "")?;
    wait_for_state(admin, next, "paused")?;
    admin.succeed("POST", &format!("rollouts/{next}/promote"), "")?;
    wait_until_served(&fleet, 0, next, 3)?;
    let over = admin.call("POST", &format!("rollouts/{next}/abort"), "")?;
    assert_eq!(over.status, 409, "{}", over.text());

    // One that an operator does not like.
    set_strategy(admin, &json!([{ "nodes": { "count": 1 }, "bake": "1h" }]), "refuse")?;
    let doubted = revision_of(&admin.succeed("PUT", "services/orders", &service(&first.url()))?)?;
    wait_until_served(&fleet, 0, doubted, 1)?;
    ensure!(sluice(admin, &["rollout", "abort"])?.status.success());
    let ended = wait_for_state(admin, doubted, "rolled-back")?;
    assert!(ended["reason"].as_str().is_some_and(|reason| reason.contains("aborted it")), "{ended:#}");
    wait_until_served(&fleet, 0, doubted + 1, 3)?;

    // One that is passed over in an emergency.
    let stuck = revision_of(&admin.succeed("PUT", "services/orders", &service(&first.url()))?)?;
    wait_until_served(&fleet, 0, stuck, 1)?;
    let urgent = revision_of(&admin.succeed("DELETE", "services/extra?rollout=skip", "")?)?;
    wait_until_served(&fleet, 0, urgent, 3)?;
    wait_for_state(admin, stuck, "superseded")?;
    assert_eq!(admin.get(&format!("revisions/{urgent}"))?["rollout"], "skipped");
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    Ok(())
}

#[test]
fn a_rollout_survives_its_control_plane_and_another_carries_it_on() -> Result<()> {
    let mut fleet = Fleet::start(2, 3)?;
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    fleet.admin(0).apply(&file(&fleet, &first))?;
    set_strategy(fleet.admin(0), &json!([{ "nodes": { "count": 1 }, "bake": "3s" }]), "refuse")?;
    let staged = revision_of(&fleet.admin(0).succeed("PUT", "services/orders", &service(&second.url()))?)?;
    let chosen = wait_until_served(&fleet, 0, staged, 1)?;
    // One control plane is left, and then none; whoever is there carries it on, and nodes keep what they have.
    fleet.controls[0].process.kill();
    fleet.controls[1].process.kill();
    for node in 0..3 {
        let backend = fleet.get(node, "shop.example", "/orders/7")?;
        let expected = if chosen.contains(&node) { "second" } else { "first" };
        assert_eq!(backend.field("x-backend"), Some(expected), "node {node}");
    }
    fleet.controls[1].start_again()?;
    let ended = wait_for_state(fleet.admin(1), staged, "promoted")?;
    assert!(ended["ended_by"].is_null(), "{ended:#}");
    wait_until_served(&fleet, 1, staged, 3)?;
    Ok(())
}

#[test]
fn with_one_node_a_change_is_watched_and_taken_back() -> Result<()> {
    let fleet = Fleet::start(1, 1)?;
    let backend = Backend::start("orders");
    let admin = fleet.admin(0);
    admin.apply(&file(&fleet, &backend))?;
    let traffic = Traffic::start(fleet.listener(0), "shop.example", "/orders/7");
    // A strategy of this change alone.
    let strategy = json!({ "steps": [{ "nodes": { "count": 1 }, "bake": "5m" }], "gates": { "min_requests": 20 } });
    let path = fleet.folder.path().join("strategy.yaml");
    std::fs::write(&path, strategy.to_string())?;
    let change = fleet.folder.path().join("change.yaml");
    std::fs::write(&change, file(&fleet, &backend).replace(&backend.url(), NOWHERE))?;
    let [path, change] = [path, change].map(|path| path.to_string_lossy().into_owned());
    let applied = sluice(admin, &["apply", "--file", &change, "--rollout", &path, "--wait"])?;
    let told = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert_eq!(applied.status.code(), Some(3), "{told}");
    assert!(told.contains("rolled back") && told.contains("requests failed"), "{told}");
    wait_until("the node answers as before", || {
        fleet.get(0, "shop.example", "/orders/7").is_ok_and(|answer| answer.status == 200)
    })?;
    drop(traffic);
    Ok(())
}

#[test]
fn a_node_that_drains_is_no_crash_and_one_that_is_killed_is() -> Result<()> {
    let mut fleet = Fleet::start(1, 3)?;
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    fleet.admin(0).apply(&file(&fleet, &first))?;
    let steps = json!([{ "nodes": { "count": 1 }, "bake": "1h" }]);
    let strategy = json!({ "steps": steps, "gates": { "gone_after": "500ms" } }).to_string();
    fleet.admin(0).succeed("PUT", "rollout-strategy", &strategy)?;
    let staged = revision_of(&fleet.admin(0).succeed("PUT", "services/orders", &service(&second.url()))?)?;
    let [chosen] = wait_until_served(&fleet, 0, staged, 1)?[..] else { panic!("one node has it") };

    fleet.nodes[chosen].process.signal("TERM")?;
    assert_eq!(fleet.nodes[chosen].process.wait()?, 0);
    wait_until("it has left", || {
        fleet.admin(0).nodes().is_ok_and(|nodes| nodes.iter().any(|node| node["has_left"] == true))
    })?;
    fleet.nodes[chosen].process.start_again()?;
    assert_eq!(wait_until_served(&fleet, 0, staged, 1)?, [chosen], "it comes back to what it had");
    assert_eq!(rollout(fleet.admin(0), staged)?["state"], "running");

    fleet.nodes[chosen].process.kill();
    let ended = wait_for_state(fleet.admin(0), staged, "rolled-back")?;
    assert!(ended["reason"].as_str().is_some_and(|reason| reason.contains("vanished")), "{ended:#}");
    wait_until_served(&fleet, 0, staged + 1, 2)?;
    Ok(())
}
