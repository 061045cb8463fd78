//! A node lives without a control plane.

use data_plane::settings::{ControlPlane as From, Proof, Settings};
use data_plane::sync::{StartError, Sync};
use model::config::Edit;
use proptest::prelude::*;

use crate::planes::{ControlPlane, FakeCores, Node, put, remove};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_control_plane_serves_what_it_served_last() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    let mut node = Node::start(control.address, directory.path()).await;
    for status in 200..220 {
        control.publish(vec![put("a", status), put("b", 420 - status)]).await;
    }
    node.until_serving(control.head()).await;
    let (head, address) = (control.head(), control.address);
    node.stop().await;
    let stopped = control.stop().await;

    let mut node = Node::start(address, directory.path()).await;
    let status = node.until_serving(head).await;
    assert!(status.serving.is_some_and(|serving| serving.from_disk), "nobody has confirmed it yet");
    assert_eq!(node.cores.served().map(|served| served.routes.len()), Some(2));

    // When the control plane comes back, the node is up to date without being sent anything.
    let control = stopped.start().await;
    let status = node.until("it is confirmed", |status| status.serving.is_some_and(|serving| !serving.from_disk)).await;
    assert_eq!(status.head, Some(head));
    assert_eq!((control.distribution.encoded().snapshots, control.distribution.encoded().deltas), (0, 0));
    node.stop().await;

    let node = Node::with_source(None, directory.path()).await;
    assert_eq!(node.cores.adopted(), [head.0]);
}

/// The process that had the port ends; nobody starts the node again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_served_last_is_tried_again_while_its_port_is_taken() {
    let (control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
    control.publish(vec![put("a", 200)]).await;
    let mut node = Node::start(control.address, directory.path()).await;
    let head = control.head();
    node.until_serving(head).await;
    node.stop().await;
    let proof = Proof::SharedToken("node-token".into());
    let gone = From { url: format!("http://{}", control.address), proof };
    drop(control.stop().await);

    for source in [None, Some(gone)] {
        let mut node = Node::with_cores(FakeCores::with_port_taken(), source, directory.path()).await;
        node.cores.until_adopted(|adopted| adopted.len() > 2).await;
        assert_eq!(node.status.borrow().serving, None);
        node.cores.free_port();
        let status = node.until_serving(head).await;
        assert!(status.serving.is_some_and(|serving| serving.from_disk));
        node.stop().await;
    }
}

#[tokio::test]
async fn two_nodes_cannot_share_a_data_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = Settings::new(directory.path().to_owned());
    let _first = Sync::start(&settings, FakeCores::new()).await.expect("a data directory");
    let second = Sync::start(&settings, FakeCores::new()).await;
    let Err(StartError::DataDirectory { path, source }) = second else { panic!("it is taken") };
    assert!(path.starts_with(directory.path()) && source.to_string().contains("another node"), "{source}");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Remove(u8),
    Restart,
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 200..210_u16).prop_map(|(name, status)| Step::Put(name, status)),
        3 => (0..6_u8).prop_map(Step::Remove),
        1 => Just(Step::Restart),
        1 => Just(Step::Disconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is published while nodes and control planes come and go, the node ends with the same
    /// resources and the same digest.
    #[test]
    fn any_series_of_changes_and_restarts_converges(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (mut control, directory) = (ControlPlane::start().await, tempfile::tempdir().expect("a directory"));
            let mut node = Node::start(control.address, directory.path()).await;
            for step in steps {
                let present = |name: u8| {
                    let head = control.publisher.head("default").expect("a gateway");
                    head.routes.find(&format!("route-{name}")).is_some()
                };
                let edit: Edit = match step {
                    Step::Put(name, status) => put(&format!("route-{name}"), status),
                    Step::Remove(name) if present(name) => remove(&format!("route-{name}")),
                    Step::Remove(_) => continue,
                    Step::Restart => {
                        let address = control.address;
                        node.stop().await;
                        node = Node::start(address, directory.path()).await;
                        continue;
                    }
                    Step::Disconnect => {
                        control = control.stop().await.start().await;
                        continue;
                    }
                };
                control.publish_if_new(vec![edit]).await;
            }
            node.until_serving(control.head()).await;
            let (served, head) = (node.cores.served().expect("a snapshot"), control.publisher.head("default"));
            assert!(served.config.iter().eq(head.expect("a gateway").config.iter()));
            node.stop().await;
        });
    }
}
