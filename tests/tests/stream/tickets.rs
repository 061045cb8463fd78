//! The keys of session tickets reach every node, outlive the control plane, and change while the stream goes on.

use data_plane::sync::TicketSecret;

use crate::planes::{ControlPlane, LONG, Node, put};

async fn until(node: &Node, what: &str, mut is_right: impl FnMut(&[TicketSecret]) -> bool) -> Vec<TicketSecret> {
    let mut keys = node.cores.ticket_keys.subscribe();
    let waited = tokio::time::timeout(LONG, keys.wait_for(|keys| is_right(keys))).await;
    waited.unwrap_or_else(|_| panic!("never: {what}")).expect("the node runs").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_have_the_same_keys_whatever_happens_to_the_control_plane() {
    let control = ControlPlane::start().await;
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let one = Node::start(control.address, folders[0].path()).await;
    let first = until(&one, "there are keys", |keys| keys.len() == 2).await;
    let control = control.stop().await.start().await;
    let other = Node::start(control.address, folders[1].path()).await;
    assert_eq!(until(&other, "there are keys", |keys| !keys.is_empty()).await, first, "they were kept");
    one.stop().await;
    other.stop().await;
}

async fn cookie_key(node: &Node) -> TicketSecret {
    let mut key = node.cores.cookie_key.subscribe();
    let waited = tokio::time::timeout(LONG, key.wait_for(Option::is_some)).await;
    waited.expect("there is a key").expect("the node runs").expect("as it was waited for")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_cookies_stays_and_a_node_knows_it_by_itself() {
    let control = ControlPlane::start().await;
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let one = Node::start(control.address, folders[0].path()).await;
    let key = cookie_key(&one).await;
    let keys = until(&one, "there are keys", |keys| !keys.is_empty()).await;
    assert!(!keys.contains(&key), "it seals no tickets");
    control.ticket_keys.turn_to(1_000_000).await.expect("the store works");
    let control = control.stop().await.start().await;
    let other = Node::start(control.address, folders[1].path()).await;
    assert_eq!(cookie_key(&other).await, key);
    let address = control.address;
    let stopped = control.stop().await;
    for (node, folder) in [(one, &folders[0]), (other, &folders[1])] {
        node.stop().await;
        let again = Node::start(address, folder.path()).await;
        assert_eq!(cookie_key(&again).await, key, "without a control plane");
        again.stop().await;
    }
    drop(stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_on_and_the_one_before_still_opens() {
    let control = ControlPlane::start().await;
    let folder = tempfile::tempdir().expect("a directory");
    control.ticket_keys.turn_to(1_000_000).await.expect("the store works");
    let mut node = Node::start(control.address, folder.path()).await;
    let mut before = until(&node, "there are keys", |keys| keys.len() == 2).await;
    for period in 1_000_001..1_000_004 {
        control.ticket_keys.turn_to(period).await.expect("the store works");
        let keys = until(&node, "they moved on", |keys| keys.first() == before.get(1)).await;
        assert_eq!((keys.len(), keys[2]), (3, before[0]), "the next seals, the one that did still opens");
        before = keys;
    }
    control.ticket_keys.turn_to(1_000_003).await.expect("the store works");
    let revision = control.publish(vec![put("a", 200)]).await;
    node.until_serving(control.head()).await;
    assert_eq!(
        (revision, node.cores.ticket_keys.borrow().clone()),
        (1, before),
        "and where nothing changes nothing is sent"
    );
    node.stop().await;
}
