//! Networks that part nodes from control planes, and control planes from their database: nodes serve on, and what they have
//! is not taken back.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use tests::gateway::wait_until;
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
    })?;
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
