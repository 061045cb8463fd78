//! Networks that part nodes from control planes, and control planes from their database: nodes serve on, and what they have
//! is not taken back.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::json;
use tests::gateway::wait_until;
use tests::http::Connection;
use tests::relay::Fault;
use tests::traffic::Backend;

use crate::fleet::Fleet;

/// One route that answers with a word, and one to a service with two targets.
fn file(fleet: &Fleet, body: &str, targets: [&Backend; 2]) -> String {
    let [first, second] = targets.map(Backend::url);
    format!(
        "version: 1
listeners: [{{ name: web, bind: \"{}\" }}]
services: [{{ name: orders, targets: [{{ url: \"{first}\" }}, {{ url: \"{second}\" }}] }}]
routes:
  - {{ name: orders, paths: [/orders], service: orders }}
  - {{ name: word, paths: [/word], respond: {{ body: {body} }} }}
",
        fleet.bind()
    )
}

fn word(fleet: &Fleet, node: usize) -> Result<String> {
    Ok(fleet.get(node, "any", "/word")?.text())
}

/// Who answers, of several requests.
fn answering(fleet: &Fleet, node: usize) -> Result<BTreeSet<String>> {
    let one = || Ok(fleet.get(node, "any", "/orders")?.field("x-backend").context("a backend")?.to_owned());
    (0..8).map(|_| one()).collect()
}

#[test]
fn a_node_is_not_led_back_by_a_control_plane_that_is_behind() -> Result<()> {
    let mut fleet = Fleet::start(2, 1)?;
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    fleet.admin(0).apply(&file(&fleet, "one", [&first, &second]))?;
    wait_until("both know it", || fleet.admin(1).get("status").is_ok_and(|status| status["revision"] == 1))?;
    fleet.to_database[1].set(Some(Fault::Cut));
    wait_until("the second control plane has lost its database", || {
        fleet.controls[1].process.output().contains("cannot follow the revisions of other replicas")
    })?;
    let newer = r#"{"paths":["/word"],"respond":{"body":"two"}}"#;
    fleet.admin(0).succeed("PUT", "routes/word?wait=serving&timeout=20s", newer)?;
    let target = format!("services/orders/targets/{}?wait=serving&timeout=20s", first.address);
    fleet.admin(0).succeed("PATCH", &target, r#"{"draining":true}"#)?;

    fleet.controls[0].process.kill();
    wait_until("the second one sends the node away", || {
        fleet.nodes[0].process.output().contains("this control plane knows revision 1 alone")
    })
    .with_context(|| format!("{}\n{}", fleet.nodes[0].process.output(), fleet.controls[1].process.output()))?;
    let told = fleet.controls[1].process.output();
    assert!(told.contains("a node serves revision 2, revision 1 is known here"), "{told}");
    assert_eq!(word(&fleet, 0)?, "two");
    assert_eq!(answering(&fleet, 0)?, ["second".to_owned()].into());

    fleet.to_database[1].set(None);
    wait_until("the node follows the second one", || {
        fleet.admin(1).get("status").is_ok_and(|status| status["is_converged"] == true)
    })?;
    assert_eq!((word(&fleet, 0)?.as_str(), fleet.admin(1).head()?), ("two", 2));
    assert_eq!(answering(&fleet, 0)?, ["second".to_owned()].into());
    Ok(())
}

#[test]
fn a_control_plane_that_loses_its_database_while_it_starts_begins_anew() -> Result<()> {
    let mut fleet = Fleet::start(1, 0)?;
    for bytes in [1_000, 2_000, 3_000, 4_000, 6_000, 8_000] {
        fleet.controls[0].process.kill();
        let before = fleet.to_database[0].struck();
        fleet.to_database[0].set(Some(Fault::CutAfter(bytes)));
        fleet.controls[0].process.start_again()?;
        let serves = |fleet: &Fleet| fleet.admin(0).get("status").is_ok();
        wait_until("it has met the fault, or never will", || {
            fleet.to_database[0].struck() > before + 2 || serves(&fleet)
        })?;
        fleet.to_database[0].set(None);
        wait_until("it serves", || serves(&fleet))
            .with_context(|| format!("after {bytes} bytes: {}", fleet.controls[0].process.output()))?;
    }
    Ok(())
}

/// A node that has nothing yet must not begin with a part of something, whatever becomes of the way to it.
#[test]
fn what_comes_over_a_broken_way_is_whole_or_nothing() -> Result<()> {
    let mut fleet = Fleet::start(1, 1)?;
    let mut rng = fastrand::Rng::with_seed(11);
    // Some megabytes that do not compress.
    let mut route = |number: usize| {
        let body: String = (0..20_000).map(|_| rng.alphanumeric()).collect();
        json!({ "name": format!("r{number}"), "paths": [format!("/{number}")], "respond": { "body": body } })
    };
    let routes: Vec<_> = (0..100).map(&mut route).collect();
    let file = json!({ "version": 1, "listeners": [{ "name": "web", "bind": fleet.bind() }], "routes": routes });
    fleet.admin(0).apply(&file.to_string())?;
    for fault in [Fault::CutAfter(500_000), Fault::Corrupt, Fault::Swap, Fault::Mute] {
        fleet.nodes[0].process.kill();
        std::fs::remove_dir_all(fleet.nodes[0].data.join("last-good"))?;
        let (struck, said) = (fleet.to_control[0].struck(), fleet.nodes[0].process.output().len());
        fleet.to_control[0].set(Some(fault));
        fleet.nodes[0].process.start_again()?;
        wait_until(&format!("{fault:?} strikes"), || fleet.to_control[0].struck() > struck)?;
        wait_until(&format!("the node says what {fault:?} did"), || {
            fleet.nodes[0].process.output()[said..].contains("nothing to serve yet; trying again")
        })
        .with_context(|| fleet.nodes[0].process.output())?;
        assert!(Connection::open(fleet.listener(0)).is_err(), "{fault:?}: nothing is served");
        fleet.to_control[0].set(None);
        fleet.nodes[0].wait_until_ready()?;
        fleet.wait_until_converged()?;
        for number in [0, 50, 99] {
            let served = fleet.get(0, "any", &format!("/{number}"))?.text();
            assert_eq!(Some(served.as_str()), file["routes"][number]["respond"]["body"].as_str(), "{fault:?}");
        }
    }
    Ok(())
}
