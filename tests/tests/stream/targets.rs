//! The lane of targets between the planes.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_plane::nodes::{Goal, Quorum, WaitOutcome};
use control_plane::targets::{Edit, Write};
use model::config::Edit as Revise;
use model::membership::{Member, Membership};
use model::resource::Kind;
use proptest::prelude::*;
use serde_json::json;

use crate::planes::{ControlPlane, GATEWAY, LONG, Node};

/// Says something about target `number` of the service `shop`, or takes it back; returns the version.
async fn say(control: &ControlPlane, number: u16, member: Option<Member>) -> u64 {
    let target = format!("http://127.0.0.1:{}", number + 1).parse().expect("a URL");
    let edit = Edit { service: "shop".parse().expect("a name"), target, member };
    let edits = Arc::new(move |_: &_, _: &_| Ok(vec![edit.clone()]));
    control.lanes.write(GATEWAY, Write { author: "a test".to_owned(), edits }).await.expect("it is written").version
}

fn weight(weight: u32) -> Option<Member> {
    Some(Member { weight: Some(weight), ..Member::default() })
}

async fn until_version(node: &Node, version: u64) -> Membership {
    let mut targets = node.cores.targets.subscribe();
    let waited = tokio::time::timeout(LONG, targets.wait_for(|targets| targets.version() == version)).await;
    waited.expect("it comes").expect("the node runs").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_targets_reach_nodes_without_a_revision() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    control.publish(vec![Revise::Put { kind: Kind::Service, name: "shop".into(), spec: json!({}) }]).await;
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;
    let mut expected = BTreeMap::new();
    let mut version = 0;
    for round in 0..300_u16 {
        let (number, member) = (round % 40, if round % 7 == 0 { None } else { weight(u32::from(round)) });
        version = say(&control, number, member.clone()).await;
        match member {
            Some(member) => drop(expected.insert(number, member)),
            None => drop(expected.remove(&number)),
        }
    }
    let waited = control.nodes.wait_serving(GATEWAY, Goal::Targets(version), &Quorum::default(), LONG).await;
    assert_eq!(waited, WaitOutcome::Serving { nodes: 1, total: 1 });
    let reached = until_version(&node, version).await;
    let said: BTreeMap<u16, Member> =
        reached.changes().map(|change| (change.target.port - 1, change.member.expect("it is said"))).collect();
    assert_eq!(said, expected);
    assert_eq!(node.cores.adopted(), [control.head().0], "no revision was made for it");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_control_plane_knows_the_targets_that_it_knew_last() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    let node = Node::start(control.address, directory.path()).await;
    let mut version = 0;
    for round in 0..20 {
        version = say(&control, round, weight(1)).await;
    }
    let known = until_version(&node, version).await;
    node.stop().await;
    let address = control.address;
    let stopped = control.stop().await;
    let node = Node::start(address, directory.path()).await;
    assert_eq!(until_version(&node, version).await, known);

    // What changes while they are apart is there when they are together again, also what is gone.
    let control = stopped.start().await;
    say(&control, 3, None).await;
    let version = say(&control, 4, weight(9)).await;
    assert_eq!(until_version(&node, version).await.len(), 19);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_about_a_service_goes_with_it() {
    let control = ControlPlane::start().await;
    let service = |name: &str| Revise::Put { kind: Kind::Service, name: name.into(), spec: json!({}) };
    control.publish(vec![service("shop")]).await;
    say(&control, 1, weight(1)).await;
    let key = model::resource::Key::new(Kind::Service, "shop".parse().expect("a name"));
    control.publish(vec![Revise::Remove { key }]).await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (lanes, stop) = (control.lanes.clone(), shutdown.clone());
    let following = tokio::spawn(async move { lanes.follow(stop).await });
    let mut states = control.lanes.watch(GATEWAY).await.expect("a lane");
    let gone = tokio::time::timeout(LONG, states.wait_for(|state| state.membership.is_empty())).await;
    assert_eq!(gone.expect("it is forgotten").expect("there is a lane").membership.version(), 2);
    shutdown.cancel();
    following.await.expect("it ends");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Wherever connections are lost and nodes restart, they come to what is said.
    #[test]
    fn nodes_come_to_what_is_said(steps in prop::collection::vec((0..8_u16, 0..4_u32, 0..12_u8), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (mut control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
            let mut node = Node::start(control.address, directory.path()).await;
            let mut version = 0;
            for (number, what, luck) in steps {
                version = say(&control, number, if what == 0 { None } else { weight(what) }).await;
                match luck {
                    0 => {
                        node.stop().await;
                        node = Node::start(control.address, directory.path()).await;
                    }
                    1 => control = control.stop().await.start().await,
                    _ => {}
                }
            }
            let said = control.lanes.now(GATEWAY).await.expect("a lane").membership.clone();
            assert_eq!(until_version(&node, version).await, said);
            node.stop().await;
        });
    }
}
