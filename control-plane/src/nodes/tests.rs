use super::known::MAX_DISCONNECTED;
use super::*;

const SOON: Duration = Duration::from_millis(1);

fn share(share: f64) -> Quorum {
    Quorum { share, ..Quorum::default() }
}

fn introduction(node_id: &str, serving: Option<u64>) -> Introduction {
    Introduction {
        node_id: node_id.to_owned(),
        hostname: "host".to_owned(),
        version: "1".to_owned(),
        serving: serving.map(|revision| (revision, Digest::default())),
        ..Introduction::default()
    }
}

#[test]
fn times_are_told_as_spans_and_none_is_too_long() {
    let nodes = Nodes::new();
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    let told = Introduction { serving_for: minute, uptime: Some(hour), ..introduction("a", Some(1)) };
    let _a = nodes.connect("default", told);
    let absurd = Introduction { serving_for: Duration::MAX, uptime: Some(Duration::MAX), ..introduction("b", Some(1)) };
    let _b = nodes.connect("default", absurd);
    let [a, b] = &nodes.list("default")[..] else { panic!("two nodes") };
    assert_eq!(a.started_at, Some(a.connected_since - hour));
    assert_eq!(a.serving.as_ref().map(|serving| serving.at), Some(a.connected_since - minute));
    assert_eq!((b.started_at, b.serving.as_ref().map(|serving| serving.at)), (None, Some(b.connected_since)));
}

#[test]
fn the_load_of_a_node_stays_known_until_it_tells_another() {
    let nodes = Nodes::new();
    let a = nodes.connect("default", introduction("a", None));
    let load = Load { cpu_millicores: 1500, memory_bytes: 4096 };
    a.beats(TargetReport::default(), Some(load));
    a.beats(TargetReport::default(), None);
    assert_eq!(nodes.list("default")[0].load, Some(load));
}

#[tokio::test]
async fn waiting_ends_with_the_share_that_was_asked_for() {
    let nodes = Nodes::new();
    assert_eq!(nodes.wait_serving("default", Goal::Revision(2), &share(1.0), SOON).await, WaitOutcome::NoNodes);
    let a = nodes.connect("default", introduction("a", Some(1)));
    let _b = nodes.connect("default", introduction("b", Some(2)));
    let _other_gateway = nodes.connect("other", introduction("c", None));
    assert_eq!(
        nodes.wait_serving("default", Goal::Revision(2), &share(0.5), SOON).await,
        WaitOutcome::Serving { nodes: 1, total: 2 }
    );
    assert_eq!(
        nodes.wait_serving("default", Goal::Revision(2), &share(1.0), SOON).await,
        WaitOutcome::TimedOut { serving: 1, total: 2 }
    );
    let waiting = tokio::spawn({
        let nodes = Arc::clone(&nodes);
        async move { nodes.wait_serving("default", Goal::Revision(2), &share(1.0), Duration::from_secs(60)).await }
    });
    a.reached(Stage::Compiled, 2, Digest::default());
    a.reached(Stage::Serving, 2, Digest::default());
    assert_eq!(waiting.await.expect("it ends"), WaitOutcome::Serving { nodes: 2, total: 2 });
}

#[tokio::test]
async fn a_refusal_ends_waiting_only_if_the_share_is_out_of_reach() {
    let nodes = Nodes::new();
    let a = nodes.connect("default", introduction("a", Some(1)));
    let b = nodes.connect("default", introduction("b", Some(2)));
    a.refused(2, Vec::new());
    let refused = WaitOutcome::Refused { node: "a".to_owned(), problems: Vec::new() };
    assert_eq!(nodes.wait_serving("default", Goal::Revision(2), &share(1.0), SOON).await, refused);
    assert_eq!(
        nodes.wait_serving("default", Goal::Revision(2), &share(0.5), SOON).await,
        WaitOutcome::Serving { nodes: 1, total: 2 }
    );
    a.reached(Stage::Serving, 3, Digest::default());
    b.reached(Stage::Serving, 3, Digest::default());
    assert_eq!(
        nodes.wait_serving("default", Goal::Revision(3), &share(1.0), SOON).await,
        WaitOutcome::Serving { nodes: 2, total: 2 }
    );
    assert!(nodes.list("default").iter().all(|node| node.refusal.is_none()));
}

#[test]
fn an_old_connection_that_ends_late_does_not_disconnect_the_new_one() {
    let nodes = Nodes::new();
    let old = nodes.connect("default", introduction("a", Some(1)));
    let new = nodes.connect("default", introduction("a", Some(2)));
    old.reached(Stage::Serving, 1, Digest::default());
    drop(old);
    let listed = nodes.list("default");
    assert_eq!((listed.len(), listed[0].connected), (1, true));
    assert!(listed[0].serves(2));
    drop(new);
    assert!(!nodes.list("default")[0].connected);
}

#[test]
fn only_so_many_nodes_that_are_gone_are_remembered() {
    let nodes = Nodes::new();
    let _here = nodes.connect("default", introduction("here", None));
    for number in 0..MAX_DISCONNECTED + 5 {
        drop(nodes.connect("default", introduction(&format!("gone-{number}"), None)));
    }
    assert_eq!(nodes.list("default").len(), MAX_DISCONNECTED + 1);
    assert!(nodes.list("default").iter().any(|node| node.node_id == "here"));
}
