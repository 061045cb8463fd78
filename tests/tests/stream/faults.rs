//! What goes wrong on the way, and how it heals.

use std::io;

use control_plane::nodes::WaitOutcome;
use model::resource::Kind;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::planes::{ADMIN_TOKEN, ControlPlane, Node, TOKEN, put, remove};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_revision_is_reported_and_cleared_by_the_next_good_one() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    let mut node = Node::start(control.address, directory.path()).await;
    let good = control.publish(vec![put("a", 200)]).await;
    assert_eq!(control.all_serve(good).await, WaitOutcome::Serving { nodes: 1, total: 1 });

    let bad = control.publish(vec![put("refused", 200)]).await;
    let WaitOutcome::Refused { problems, .. } = control.all_serve(bad).await else { panic!("it is refused") };
    assert_eq!((problems[0].kind, problems[0].name.as_deref()), (Some(Kind::Route), Some("refused")));
    assert_eq!((problems[0].pointer.as_str(), &*problems[0].code), ("/hosts/0", "invalid-value"));
    let status = node.until("it is refused", |status| status.refused.is_some()).await;
    assert_eq!((status.refusals, status.serving.map(|serving| serving.revision)), (1, Some(good)));
    let seen = control.node();
    assert_eq!(seen.refusal.as_ref().map(|refusal| refusal.revision), Some(bad));
    assert!(seen.connected && seen.serving.is_some_and(|serving| serving.revision == good));
    assert_eq!(node.cores.served().map(|served| served.revision), Some(good));

    let mended = control.publish(vec![remove("refused"), put("b", 200)]).await;
    assert_eq!(control.all_serve(mended).await, WaitOutcome::Serving { nodes: 1, total: 1 });
    let status = node.until_serving(control.head()).await;
    assert!(status.refused.is_none() && control.node().refusal.is_none());
    // It was sent the bad one once, and no snapshot because of it.
    let revisions = node.cores.adopted();
    assert_eq!(revisions.iter().filter(|revision| **revision == bad).count(), 1);
    assert_eq!(control.distribution.encoded().snapshots, 1);
}

/// A policy vanishes and comes back as something else while the node is busy: for the node it is one step.
#[tokio::test(flavor = "multi_thread")]
async fn several_revisions_in_one_step_lead_to_the_same() {
    use model::config::Edit;
    use model::resource::Key;
    use serde_json::json;

    let policy = |kind: &str, config| {
        let spec = json!({"type": kind, "config": config, "apply_to": "everything"});
        Edit::Put { kind: Kind::Policy, name: "p".to_owned(), spec }
    };
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    control.publish(vec![policy("request-id", json!({}))]).await;
    let mut node = Node::start(control.address, directory.path()).await;
    node.until_serving(control.head()).await;
    node.cores.close_gate();
    let slow = control.publish(vec![put("a", 200)]).await;
    node.cores.until_adopting(slow).await;
    control.publish(vec![Edit::Remove { key: Key::new(Kind::Policy, "p".parse().expect("a name")) }]).await;
    control.publish(vec![policy("headers", json!({"request": {"set": {"x-a": "1"}}}))]).await;
    node.cores.open_gate();
    let status = node.until_serving(control.head()).await;
    assert_eq!(status.refusals, 0);
    let served = node.cores.served().expect("a snapshot");
    assert_eq!(served.policies.find("p").map(|policy| policy.kind.name), Some("headers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_falls_silent_is_left_and_found_again() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    // Between the two: passes bytes until it is told to swallow them.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let between = listener.local_addr().expect("it is bound");
    let (swallow, swallowing) = tokio::sync::watch::channel(false);
    let target = control.address;
    tokio::spawn(async move {
        while let Ok((node, _)) = listener.accept().await {
            let is_first_time = !*swallowing.borrow();
            let mut swallowing = swallowing.clone();
            tokio::spawn(async move {
                let mut node = node;
                let mut plane = tokio::net::TcpStream::connect(target).await?;
                if is_first_time {
                    let copied = tokio::io::copy_bidirectional(&mut node, &mut plane);
                    tokio::select! { _ = copied => {}, _ = swallowing.wait_for(|swallow| *swallow) => {} }
                    // Open, and silent.
                    let mut rest = Vec::new();
                    node.read_to_end(&mut rest).await?;
                } else {
                    tokio::io::copy_bidirectional(&mut node, &mut plane).await?;
                }
                io::Result::Ok(())
            });
        }
    });
    let mut node = Node::start(between, directory.path()).await;
    node.until_serving(control.head()).await;
    swallow.send_replace(true);
    let lost = node.until("it is noticed", |status| !status.connected).await;
    assert!(lost.error.expect("a reason").contains("silent"));
    let revision = control.publish(vec![put("a", 200)]).await;
    assert_eq!(control.all_serve(revision).await, WaitOutcome::Serving { nodes: 1, total: 1 });
    node.until_serving(control.head()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_told_and_a_right_one_needs_no_restart() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    let mut node = Node::with_token(control.address, directory.path(), "wrong").await;
    let status = node.until("it is refused", |status| status.error.is_some()).await;
    assert!(status.error.expect("a reason").contains("token"));
    let file = directory.path().join("node-token");
    std::fs::write(&file, ADMIN_TOKEN).expect("a file");
    let is_role = |status: &data_plane::sync::Status| status.error.as_ref().is_some_and(|error| error.contains("role"));
    node.until("the role is refused", is_role).await;
    assert!(control.nodes.list("default").is_empty());
    std::fs::write(&file, TOKEN).expect("a file");
    node.until_serving(control.head()).await;
}
