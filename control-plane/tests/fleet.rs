//! What control planes that share a database know of one another's nodes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control_plane::nodes::fleet::Fleet;
use control_plane::nodes::{Goal, Introduction, NodeStatus, Nodes, Quorum, Selector, Session, Stage, WaitOutcome};
use control_plane::settings::Settings;
use control_plane::trust::master_key::MasterKeySource;
use control_plane::{Running, run, store};
use model::digest::Digest;
use model::problem::Fault;
use model::resource::Kind;
use serde_json::Value;
use tests::gateway::Admin;
use tests::postgres::Postgres;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const GATEWAY: &str = "default";
/// Nobody waits so long unless something is broken.
const LONG: Duration = Duration::from_secs(60);

/// One replica without stream and API.
struct Replica {
    nodes: Arc<Nodes>,
    stop: CancellationToken,
    following: JoinHandle<()>,
}

impl Replica {
    async fn start(url: &str) -> Self {
        let shared = store::open(url).await.expect("the database can be opened").shared_nodes();
        let nodes = Nodes::new();
        let fleet = Fleet::join(nodes.clone(), shared.expect("PostgreSQL is shared")).await.expect("it answers");
        let stop = CancellationToken::new();
        let following = tokio::spawn(fleet.follow(stop.clone()));
        Self { nodes, stop, following }
    }

    fn connect(&self, node_id: &str, serving: u64) -> Session {
        connect(&self.nodes, node_id, serving)
    }

    /// Waits until the list of nodes is as it should be.
    async fn see(&self, is_so: impl Fn(&[NodeStatus]) -> bool) {
        see(&self.nodes, is_so).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.following.await.expect("it does not panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_waits_for_the_nodes_of_the_other() {
    let server = Postgres::start();
    let (one, two) = (Replica::start(&server.url()).await, Replica::start(&server.url()).await);
    let _a = one.connect("a", 2);
    let b = two.connect("b", 1);
    for replica in [&one, &two] {
        replica.see(|nodes| connected(nodes) == ["a", "b"]).await;
    }
    let waiting = tokio::spawn({
        let nodes = one.nodes.clone();
        async move { nodes.wait_serving(GATEWAY, Goal::Revision(2), &Quorum::default(), LONG).await }
    });
    b.reached(Stage::Received, 2, Digest::default());
    one.see(|nodes| nodes[1].received.as_ref().is_some_and(|received| received.revision == 2)).await;
    assert!(!waiting.is_finished(), "it has received the revision but does not serve it");
    b.reached(Stage::Serving, 2, Digest::default());
    assert_eq!(waiting.await.expect("it ends"), WaitOutcome::Serving { nodes: 2, total: 2 });

    let problems =
        vec![Fault::new("/bind", "taken", "another process has the port").in_resource(Kind::Listener, "web")];
    b.refused(3, problems.clone());
    let outcome = one.nodes.wait_serving(GATEWAY, Goal::Revision(3), &Quorum::default(), LONG).await;
    assert_eq!(outcome, WaitOutcome::Refused { node: "b".to_owned(), problems });
    drop(b);
    one.see(|nodes| connected(nodes) == ["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_is_listed_once_where_it_is() {
    let server = Postgres::start();
    let (one, two) = (Replica::start(&server.url()).await, Replica::start(&server.url()).await);
    let old = one.connect("a", 1);
    two.see(|nodes| connected(nodes) == ["a"]).await;
    let new = two.connect("a", 2);
    let serves_2 = |nodes: &[NodeStatus]| nodes.len() == 1 && nodes[0].connected && serving(&nodes[0]) == Some(2);
    one.see(serves_2).await;
    // The first finds out late that the connection is dead, after the second has told more.
    drop(old);
    new.reached(Stage::Serving, 3, Digest::default());
    for replica in [&one, &two] {
        replica.see(|nodes| nodes.len() == 1 && nodes[0].connected && serving(&nodes[0]) == Some(3)).await;
    }
    // And back again.
    let _back = one.connect("a", 4);
    for replica in [&one, &two] {
        replica.see(|nodes| nodes.len() == 1 && nodes[0].connected && serving(&nodes[0]) == Some(4)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_a_replica_that_stops_are_gone_and_one_that_starts_knows_all() {
    let server = Postgres::start();
    let (one, two) = (Replica::start(&server.url()).await, Replica::start(&server.url()).await);
    let _a = one.connect("a", 1);
    let _b = two.connect("b", 1);
    one.see(|nodes| connected(nodes) == ["a", "b"]).await;
    two.see(|nodes| connected(nodes) == ["a", "b"]).await;
    let three = Replica::start(&server.url()).await;
    assert_eq!(connected(&three.nodes.list(GATEWAY)), ["a", "b"], "at once");
    two.stop().await;
    for replica in [&one, &three] {
        replica.see(|nodes| connected(nodes) == ["a"] && nodes.len() == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_changes_nothing_about_who_is_there() {
    let mut server = Postgres::start();
    let (one, two) = (Replica::start(&server.url()).await, Replica::start(&server.url()).await);
    let a = one.connect("a", 1);
    let b = two.connect("b", 1);
    for replica in [&one, &two] {
        replica.see(|nodes| connected(nodes) == ["a", "b"]).await;
    }
    tokio::task::block_in_place(|| server.stop());
    a.reached(Stage::Serving, 2, Digest::default());
    assert_eq!(one.nodes.convergence(GATEWAY, 2, &Selector::default()).serving, 1, "its own nodes need no database");
    b.reached(Stage::Serving, 2, Digest::default());
    tokio::task::block_in_place(|| server.start_again());
    for replica in [&one, &two] {
        let outcome = replica.nodes.wait_serving(GATEWAY, Goal::Revision(2), &Quorum::default(), LONG).await;
        assert_eq!(outcome, WaitOutcome::Serving { nodes: 2, total: 2 });
    }
    // What was in the table and has not changed since is told again.
    let third = Replica::start(&server.url()).await;
    third.see(|nodes| connected(nodes) == ["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_at_one_control_plane_waits_for_the_node_at_the_other() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = CancellationToken::new();
    let (one, one_ended) = control_plane(&server.url(), &folder.path().join("one"), &stop).await;
    let (two, two_ended) = control_plane(&server.url(), &folder.path().join("two"), &stop).await;
    let token = one.admin_token_file.as_ref().expect("the first one makes it");
    let token = std::fs::read_to_string(token).expect("it can be read").trim().to_owned();
    let admins = [&one, &two].map(|running| Admin { address: running.admin, token: token.clone() });
    let a = connect(&one.nodes, "a", 0);
    let b = connect(&two.nodes, "b", 0);
    for running in [&one, &two] {
        see(&running.nodes, |nodes| connected(nodes) == ["a", "b"]).await;
    }

    let writer = admins[0].clone();
    let writing = tokio::task::spawn_blocking(move || {
        let service = r#"{"url":"http://127.0.0.1:9"}"#;
        writer.succeed("PUT", "services/web?wait=serving&timeout=60s", service).expect("it is written")
    });
    let mut heads = two.publisher.watch(GATEWAY).expect("it is there from the start");
    heads.wait_for(|offer| offer.head.revision == 1).await.expect("the publisher is alive");
    a.reached(Stage::Serving, 1, Digest::default());
    see(&two.nodes, |nodes| serving(&nodes[0]) == Some(1)).await;
    assert!(!writing.is_finished(), "only one of two nodes serves it");
    b.reached(Stage::Serving, 1, Digest::default());
    let answer = writing.await.expect("it does not panic");
    assert_eq!(answer.status, 201, "{}", answer.text());
    for admin in admins {
        let listed = tokio::task::spawn_blocking(move || admin.get("nodes")).await.expect("it does not panic");
        let listed: Value = listed.expect("it answers");
        assert_eq!(listed["convergence"]["serving"], 2, "{listed}");
        assert_eq!((&listed["items"][0]["node_id"], &listed["items"][1]["node_id"]), (&"a".into(), &"b".into()));
    }
    stop.cancel();
    for ended in [one_ended, two_ended] {
        ended.await.expect("it does not panic");
    }
}

async fn control_plane(url: &str, data: &Path, stop: &CancellationToken) -> (Running, JoinHandle<()>) {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let settings = Settings {
        database_url: url.to_owned(),
        admin_bind: any_port,
        stream_bind: any_port,
        master_key: Some(MasterKeySource::Text("51".repeat(32))),
        ..Settings::new(data.to_owned())
    };
    let (ready, serves) = tokio::sync::oneshot::channel();
    let stop = stop.clone();
    let ended = tokio::spawn(async move {
        let ended = run(settings, stop, |running| drop(ready.send(running))).await;
        ended.expect("stopping is no error");
    });
    (serves.await.expect("it starts"), ended)
}

fn connect(nodes: &Arc<Nodes>, node_id: &str, serving: u64) -> Session {
    let introduction = Introduction {
        node_id: node_id.to_owned(),
        hostname: "host".to_owned(),
        version: "1".to_owned(),
        serving: Some((serving, Digest::default())),
        ..Introduction::default()
    };
    nodes.connect(GATEWAY, introduction)
}

async fn see(nodes: &Nodes, is_so: impl Fn(&[NodeStatus]) -> bool) {
    let mut changes = nodes.changes();
    let seeing = async {
        while !is_so(&nodes.list(GATEWAY)) {
            changes.changed().await.expect("the nodes are there");
        }
    };
    let seen = tokio::time::timeout(LONG, seeing).await;
    seen.unwrap_or_else(|_| panic!("it is not so: {:#?}", nodes.list(GATEWAY)));
}

fn connected(nodes: &[NodeStatus]) -> Vec<&str> {
    nodes.iter().filter(|node| node.connected).map(|node| &*node.node_id).collect()
}

fn serving(node: &NodeStatus) -> Option<u64> {
    node.serving.as_ref().map(|serving| serving.revision)
}
