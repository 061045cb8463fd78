//! Nodes come to what is published, by the shortest way.

use control_plane::nodes::{Goal, Quorum, WaitOutcome};

use crate::planes::{ControlPlane, LONG, Node, put, remove};

fn fresh() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_a_snapshot_and_then_deltas() {
    let (control, directory) = (ControlPlane::start().await, fresh());
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;
    assert_eq!(node.cores.adopted(), [0]);

    control.publish(vec![put("a", 200), put("b", 200)]).await;
    let revision = control.publish(vec![put("a", 201), remove("b")]).await;
    assert_eq!(control.all_serve(revision).await, WaitOutcome::Serving { nodes: 1, total: 1 });
    node.until_serving(control.head()).await;
    let served = node.cores.served().expect("a snapshot");
    assert_eq!((served.routes.len(), served.revision), (1, revision));
    assert_eq!(control.distribution.encoded().snapshots, 1);

    let seen = control.node();
    for reached in [&seen.received, &seen.compiled, &seen.serving] {
        let reached = reached.as_ref().expect("all stages");
        assert_eq!((reached.revision, reached.digest), control.head());
    }
    assert!(seen.connected && seen.refusal.is_none() && seen.version == env!("CARGO_PKG_VERSION"));
    assert!(seen.started_at.is_some_and(|started_at| started_at <= seen.connected_since));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_resumes_with_a_delta() {
    let (control, directory) = (ControlPlane::start().await, fresh());
    let first = control.publish(vec![put("a", 200)]).await;
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;
    node.stop().await;
    control.until("the node is gone", |nodes| !nodes.list("default")[0].connected).await;

    let before = control.distribution.encoded();
    let second = control.publish(vec![put("b", 200)]).await;
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;
    assert_eq!(node.cores.adopted(), [first, second]);
    let after = control.distribution.encoded();
    assert_eq!((after.snapshots - before.snapshots, after.deltas - before.deltas), (0, 1));
    // The same node, not another one.
    assert_eq!(control.nodes.list("default").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_control_plane_sends_nothing_that_is_held() {
    let (control, directory) = (ControlPlane::start().await, fresh());
    control.publish(vec![put("a", 200)]).await;
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;

    let stopped = control.stop().await;
    node.until("the connection is lost", |status| !status.connected && status.error.is_some()).await;
    assert!(node.cores.served().is_some(), "the node serves on");
    let control = stopped.start().await;
    node.until("the connection is back", |status| status.connected).await;
    assert_eq!(control.all_serve(1).await, WaitOutcome::Serving { nodes: 1, total: 1 });

    let revision = control.publish(vec![put("b", 200)]).await;
    node.until_serving(control.head()).await;
    assert_eq!(node.cores.adopted(), [1, revision]);
    let encoded = control.distribution.encoded();
    assert_eq!((encoded.snapshots, encoded.deltas), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_gets_only_the_newest() {
    let (control, directory) = (ControlPlane::start().await, fresh());
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;

    node.cores.close_gate();
    let first = control.publish(vec![put("a", 200)]).await;
    node.cores.until_adopting(first).await;
    for status in 201..260 {
        control.publish(vec![put("a", status)]).await;
    }
    let seen = control.node();
    assert!(seen.connected && seen.serving.is_some_and(|serving| serving.revision == 0));
    node.cores.open_gate();
    node.until_serving(control.head()).await;
    assert_eq!(node.cores.adopted(), [0, first, control.head().0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_share_what_is_encoded() {
    let control = ControlPlane::start().await;
    control.publish((0..500).map(|number| put(&format!("route-{number}"), 200)).collect()).await;
    let mut nodes = Vec::new();
    for _ in 0..5 {
        let directory = fresh();
        let node = Node::start(control.address, directory.path()).await;
        nodes.push((node, directory));
    }
    for (node, _) in &mut nodes {
        node.until_serving(control.head()).await;
    }
    assert_eq!(control.distribution.encoded().snapshots, 1);
    let before = control.distribution.encoded().deltas;
    let revision = control.publish(vec![put("route-7", 404)]).await;
    assert_eq!(control.all_serve(revision).await, WaitOutcome::Serving { nodes: 5, total: 5 });
    assert_eq!(control.distribution.encoded().deltas, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_in_a_row_converge() {
    let (control, directory) = (ControlPlane::start().await, fresh());
    let mut node = Node::start(control.address, directory.path()).await;
    for number in 0..1_000_u16 {
        let name = format!("route-{}", number % 37);
        let edit = if number % 5 == 4 { remove(&name) } else { put(&name, 200 + number % 300) };
        let is_there = control.publisher.head("default").expect("a gateway").routes.find(&name).is_some();
        if number % 5 != 4 || is_there {
            control.publish(vec![edit, put("counter", 200 + number % 2), put("other", 201 - number % 2)]).await;
        }
    }
    node.until_serving(control.head()).await;
    let (served, head) = (node.cores.served().expect("a snapshot"), control.publisher.head("default"));
    let head = head.expect("a gateway");
    let documents = |snapshot: &model::snapshot::Snapshot| {
        snapshot.config.iter().map(|(key, document)| (key.clone(), document.clone())).collect::<Vec<_>>()
    };
    assert_eq!(documents(&served), documents(&head));
    assert_eq!(served.routes.len(), head.routes.len());
    assert_eq!(node.status.borrow().resyncs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_tells_which_share_serves() {
    let (control, directory) = (ControlPlane::start().await, fresh());
    let waiting = tokio::spawn({
        let nodes = control.nodes.clone();
        async move { nodes.wait_serving("default", Goal::Revision(1), &Quorum::default(), LONG).await }
    });
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;
    control.publish(vec![put("a", 200)]).await;
    assert_eq!(waiting.await.expect("it ends"), WaitOutcome::Serving { nodes: 1, total: 1 });
}
