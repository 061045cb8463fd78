//! What the control plane says to a node that is not ours: a hand-written one.

use std::time::Duration;

use std::collections::BTreeMap;

use control_plane::nodes::Nodes;
use model::digest::Digest;
use model::resource::KINDS;
use proto::control_message::Message as FromControl;
use proto::distribution_client::DistributionClient;
use proto::node_message::Message as FromNode;
use proto::{Ack, Begin, Hello, Load, NodeHeartbeat, NodeMessage, Refusal, Revision, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use crate::planes::{ControlPlane, LONG, TOKEN, put};

/// A node that speaks the protocol by hand.
struct ByHand {
    outgoing: mpsc::Sender<NodeMessage>,
    incoming: Streaming<proto::ControlMessage>,
}

/// One revision as it arrived.
struct Arrived {
    begin: Begin,
    envelopes: Vec<proto::Envelope>,
    bytes: usize,
}

impl ByHand {
    async fn connect(control: &ControlPlane, token: Option<&str>, hello: Hello) -> Result<Self, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        let hello = NodeMessage { message: Some(FromNode::Hello(hello)) };
        outgoing.send(hello).await.expect("there is room");
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().expect("a token");
            request.metadata_mut().insert("authorization", bearer);
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", control.address)).expect("a URL");
        let mut client = DistributionClient::new(endpoint.connect().await.expect("it listens"));
        let mut node = Self { outgoing, incoming: client.subscribe(request).await?.into_inner() };
        match node.hear().await? {
            FromControl::TicketKeys(keys) => assert!(keys.secrets.iter().all(|secret| secret.len() == 32)),
            other => panic!("ticket keys come first, not {other:?}"),
        }
        match node.hear().await? {
            FromControl::Targets(targets) => assert!(targets.whole),
            other => panic!("then come all targets, not {other:?}"),
        }
        Ok(node)
    }

    async fn say(&self, message: FromNode) {
        self.outgoing.send(NodeMessage { message: Some(message) }).await.expect("it listens");
    }

    async fn hear(&mut self) -> Result<FromControl, Status> {
        let message = tokio::time::timeout(LONG, self.incoming.message()).await.expect("it says something")?;
        Ok(message.ok_or_else(|| Status::aborted("the end"))?.message.expect("no empty messages"))
    }

    /// The next revision that is sent.
    async fn revision(&mut self) -> Arrived {
        let mut begin = None;
        let mut body = Vec::new();
        loop {
            match self.hear().await.expect("it goes on") {
                FromControl::Heartbeat(_) | FromControl::TicketKeys(_) | FromControl::Targets(_) => {}
                FromControl::Begin(sent) => assert!(begin.replace(sent).is_none()),
                FromControl::Chunk(chunk) => {
                    assert!(chunk.data.len() <= 256 * 1024);
                    body.extend_from_slice(&chunk.data);
                }
                FromControl::Commit(_) => {
                    let decoded = proto::body::decode(&body, 1 << 30).expect("a body");
                    let envelopes = decoded.collect::<Result<_, _>>().expect("envelopes");
                    return Arrived { begin: begin.expect("it began"), envelopes, bytes: body.len() };
                }
            }
        }
    }

    /// Hears heartbeats only, until two came.
    async fn nothing_new(&mut self) {
        for _ in 0..2 {
            let heard = self.hear().await.expect("it goes on");
            assert!(matches!(heard, FromControl::Heartbeat(_)), "{heard:?}");
        }
    }

    async fn ack(&self, revision: &Revision, stage: Stage) {
        let revision = Some(revision.clone());
        self.say(FromNode::Ack(Ack { revision, stage: stage.into(), unix_time_ms: 0 })).await;
    }

    async fn refuse(&self, revision: &Revision, resync: bool) {
        self.say(FromNode::Refusal(Refusal { revision: Some(revision.clone()), problems: vec![], resync })).await;
    }
}

fn hello(held: Option<(u64, Digest)>) -> Hello {
    Hello {
        node_id: "by-hand".to_owned(),
        gateway: "default".to_owned(),
        version: "0.0.1".to_owned(),
        kinds: KINDS.iter().map(|info| info.singular.to_owned()).collect(),
        policy_types: model::policy::PolicyKind::names().map(str::to_owned).collect(),
        held: held.map(revision),
        hostname: "here".to_owned(),
        uptime_ms: 0,
        held_for_ms: 0,
        labels: BTreeMap::new(),
        targets: 0,
    }
}

fn revision((number, digest): (u64, Digest)) -> Revision {
    Revision { number, digest: digest.to_bytes().to_vec().into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_since_when_it_runs_and_serves_and_what_it_uses() {
    let control = ControlPlane::start().await;
    control.publish(vec![put("a", 200)]).await;
    let said = Hello { uptime_ms: 3_600_000, held_for_ms: 60_000, ..hello(Some(control.head())) };
    let node = ByHand::connect(&control, Some(TOKEN), said).await.expect("it is let in");
    let load = Some(Load { cpu_millicores: 1500, resident_bytes: 4096 });
    node.say(FromNode::Heartbeat(NodeHeartbeat { load, untold: 1, ..NodeHeartbeat::default() })).await;
    let is_told = |nodes: &Nodes| nodes.list("default").iter().any(|node| node.load.is_some());
    control.until("the heartbeat was heard", is_told).await;
    let seen = control.node();
    let (started_at, serving) = (seen.started_at.expect("it said so"), seen.serving.expect("it said so"));
    assert_eq!((seen.connected_since - started_at).whole_seconds(), 3600);
    assert_eq!((seen.connected_since - serving.at).whole_seconds(), 60);
    let load = seen.load.expect("it said so");
    assert_eq!((load.cpu_millicores, load.memory_bytes), (1500, 4096));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_a_delta_from_what_it_holds_and_a_snapshot_if_that_is_something_else() {
    let control = ControlPlane::start().await;
    control.publish((0..300).map(|number| put(&format!("route-{number}"), 200)).collect()).await;
    let held = control.head();
    control.publish(vec![put("route-7", 404)]).await;
    control.publish(vec![put("route-7", 405), put("route-8", 405)]).await;

    let mut node = ByHand::connect(&control, Some(TOKEN), hello(Some(held))).await.expect("welcome");
    let delta = node.revision().await;
    assert_eq!(delta.begin.base, Some(revision(held)));
    assert_eq!(delta.begin.revision, Some(revision(control.head())));
    assert_eq!(delta.envelopes.iter().map(|envelope| &*envelope.name).collect::<Vec<_>>(), ["route-7", "route-8"]);
    assert!(delta.bytes < 1024, "{} bytes for two routes", delta.bytes);
    drop(node);

    let other_content = (held.0, Digest::from_bytes(&[7; 32]));
    let ahead_of_us = (99, held.1);
    assert_eq!(control.node().resyncs, 0);
    for held in [other_content, ahead_of_us] {
        let mut node = ByHand::connect(&control, Some(TOKEN), hello(Some(held))).await.expect("welcome");
        let snapshot = node.revision().await;
        assert_eq!((snapshot.begin.base, snapshot.envelopes.len()), (None, 300));
    }
    // Of the other one we do not know what it should be.
    assert_eq!(control.node().resyncs, 1);

    let mut node = ByHand::connect(&control, Some(TOKEN), hello(Some(control.head()))).await.expect("welcome");
    node.nothing_new().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_revision_is_under_way_at_a_time_and_a_drifted_node_gets_a_snapshot_once() {
    let control = ControlPlane::start().await;
    control.publish(vec![put("a", 200)]).await;
    let mut node = ByHand::connect(&control, Some(TOKEN), hello(None)).await.expect("welcome");
    let first = node.revision().await.begin.revision.expect("a revision");
    control.publish(vec![put("a", 201)]).await;
    control.publish(vec![put("a", 202)]).await;
    node.ack(&first, Stage::Received).await;
    node.ack(&first, Stage::Compiled).await;
    node.nothing_new().await;
    node.ack(&first, Stage::Serving).await;
    let delta = node.revision().await;
    assert_eq!(
        (delta.begin.base.as_ref(), delta.begin.revision.as_ref()),
        (Some(&first), Some(&revision(control.head())))
    );

    let newest = revision(control.head());
    node.refuse(&newest, true).await;
    let snapshot = node.revision().await;
    assert_eq!((snapshot.begin.base, snapshot.begin.revision), (None, Some(newest.clone())));
    assert_eq!(control.node().resyncs, 1);
    // It makes nothing of that either: no second one, until there is something newer.
    node.refuse(&newest, true).await;
    node.nothing_new().await;
    assert_eq!(control.node().refusal.map(|refusal| refusal.revision), Some(newest.number));
    control.publish(vec![put("a", 203)]).await;
    assert_eq!(node.revision().await.begin.base, None);
    // A heartbeat makes up for an ack that was lost.
    let serving = Some(revision(control.head()));
    node.say(FromNode::Heartbeat(NodeHeartbeat { serving, ..NodeHeartbeat::default() })).await;
    control.publish(vec![put("a", 204)]).await;
    assert_eq!(node.revision().await.begin.base.map(|base| base.number), Some(control.head().0 - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_not_sent_what_it_cannot_do() {
    let control = ControlPlane::start().await;
    let spec = serde_json::json!({"type": "request-id"});
    let policy = model::config::Edit::Put { kind: model::resource::Kind::Policy, name: "ids".to_owned(), spec };
    control.publish(vec![policy]).await;
    let old = Hello { policy_types: vec!["something-else".to_owned()], ..hello(None) };
    let mut node = ByHand::connect(&control, Some(TOKEN), old).await.expect("welcome");
    node.nothing_new().await;
    let refusal = control.node().refusal.expect("it is told");
    assert_eq!((&*refusal.problems[0].code, refusal.problems[0].name.as_deref()), ("node-too-old", Some("ids")));
    let key = model::resource::Key::new(model::resource::Kind::Policy, "ids".parse().expect("a name"));
    control.publish(vec![model::config::Edit::Remove { key }]).await;
    let sent = node.revision().await.begin.revision.expect("a revision");
    node.ack(&sent, Stage::Serving).await;
    control.until("the refusal is gone", |nodes| nodes.list("default")[0].refusal.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_shows_no_token_is_not_kept() {
    let control = ControlPlane::start().await;
    for said in [&b""[..], b"PRI * HTT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(control.address).await.expect("it listens");
        stream.write_all(said).await.expect("it listens");
        let mut answer = Vec::new();
        // Closed or reset, but not kept.
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_counts_as_gone() {
    let control = ControlPlane::start().await;
    let node = ByHand::connect(&control, Some(TOKEN), hello(None)).await.expect("welcome");
    assert!(control.node().connected);
    control.until("it is gone", |nodes| !nodes.list("default")[0].connected).await;
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_belong_here_is_turned_away() {
    let control = ControlPlane::start().await;
    let code = async |token, hello| match ByHand::connect(&control, token, hello).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    };
    assert_eq!(code(None, hello(None)).await, Code::Unauthenticated);
    assert_eq!(code(Some("guessed"), hello(None)).await, Code::Unauthenticated);
    assert_eq!(code(Some(crate::planes::ADMIN_TOKEN), hello(None)).await, Code::PermissionDenied);
    let elsewhere = Hello { gateway: "nowhere".to_owned(), ..hello(None) };
    assert_eq!(code(Some(TOKEN), elsewhere).await, Code::NotFound);
    let nameless = Hello { node_id: String::new(), ..hello(None) };
    assert_eq!(code(Some(TOKEN), nameless).await, Code::InvalidArgument);
    let short = Hello { held: Some(Revision { number: 1, digest: vec![1].into() }), ..hello(None) };
    assert_eq!(code(Some(TOKEN), short).await, Code::InvalidArgument);
    assert!(control.nodes.list("default").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_snapshot_comes_in_chunks_while_others_are_served() {
    let control = ControlPlane::start().await;
    // Random bodies do not compress.
    let body = |seed: u64| {
        (0..400_u64).map(|i| format!("{:x}", (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect::<String>()
    };
    let routes = (0..400).map(|number| {
        let spec = serde_json::json!({"paths": [format!("/{number}")], "respond": {"status": 200, "body": body(number * 1000)}});
        model::config::Edit::Put { kind: model::resource::Kind::Route, name: format!("route-{number}"), spec }
    });
    control.publish(routes.collect()).await;
    // A node that reads nothing has only so much under way to it, and is left after a while.
    let stuck = ByHand::connect(&control, Some(TOKEN), Hello { node_id: "stuck".to_owned(), ..hello(None) }).await;
    let stuck = stuck.expect("welcome");
    let mut node = ByHand::connect(&control, Some(TOKEN), hello(None)).await.expect("welcome");
    let snapshot = node.revision().await;
    assert!(snapshot.bytes > 1024 * 1024, "{} bytes", snapshot.bytes);
    assert_eq!(snapshot.envelopes.len(), 400);
    tokio::time::timeout(LONG, async {
        while control.nodes.list("default").iter().any(|node| node.node_id == "stuck" && node.connected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is left");
    drop(stuck);
}
