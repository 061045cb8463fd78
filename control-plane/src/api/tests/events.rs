//! The stream of events.

use std::time::Duration;

use http::Method;
use model::digest::Digest;
use model::problem::Fault;
use model::resource::Kind;
use serde_json::{Value, json};

use super::harness::{Api, GATEWAY, Streaming};
use crate::api::events::MAX_WATCHERS;
use crate::nodes::{Introduction, Session, Stage};

/// Somebody who reads the stream.
struct Reader {
    stream: Streaming,
}

impl Reader {
    async fn start(api: &Api, last_event_id: &str) -> Self {
        let call = api.call(Method::GET, &format!("{GATEWAY}/events")).header("last-event-id", last_event_id);
        let stream = call.begin().await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        Self { stream }
    }

    /// The events of the next piece: id and data of each.
    async fn read(&mut self) -> Vec<(u64, Value)> {
        let piece = self.stream.piece().await.expect("the stream goes on");
        let text = std::str::from_utf8(&piece).expect("UTF-8");
        let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        let parse = |event: &str| {
            let (id, data) = event.strip_prefix("id: ")?.split_once("\ndata: ")?;
            Some((id.parse().ok()?, serde_json::from_str(data).ok()?))
        };
        events.map(|event| parse(event).unwrap_or_else(|| panic!("no event: {event}"))).collect()
    }

    /// Reads until there are so many events; as `type` and what a test looks at.
    async fn next(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.read().await.into_iter().map(|(id, event)| line(id, &event)));
        }
        lines
    }
}

fn line(id: u64, event: &Value) -> String {
    let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let number = |field: &str| event[field].to_string();
    let what = match &*word("type") {
        "status" => format!("{}/{} serve {}", number("serving"), number("total"), number("revision")),
        "revision" => format!("{} by {}: {}", number("revision"), word("author"), word("message")),
        "missed" => format!("{} {}", word("reason"), event["revisions"]),
        "node-left" => word("node_id"),
        "node-resynchronised" => format!("{} {}", word("node_id"), number("resyncs")),
        "node-behind" => format!("{} {} of {}", word("node_id"), number("serves"), number("revision")),
        "rollout" => format!("{} {} of {}", word("state"), number("step"), number("steps")),
        "targets" => format!("{} of them up to {}", number("changes"), number("version")),
        _ => format!("{} {}", word("node_id"), number("revision")),
    };
    format!("{id} {} {what}", word("type"))
}

fn connect(api: &Api, node_id: &str, serving: Option<u64>) -> Session {
    let serving = serving.map(|revision| (revision, Digest::default()));
    api.state.nodes.connect("default", Introduction { node_id: node_id.to_owned(), serving, ..Introduction::default() })
}

#[tokio::test]
async fn what_nodes_come_to_is_told_in_order_and_what_was_before_is_not() {
    let api = Api::start().await;
    api.put_service("a").await;
    let old = connect(&api, "old", None);
    let mut reader = Reader::start(&api, "").await;
    assert_eq!(reader.next(1).await, ["1 status 0/1 serve 1"]);
    let new = connect(&api, "new", Some(1));
    assert_eq!(reader.next(1).await, ["1 node-joined new 1"]);
    let digest = api.state.publisher.head("default").expect("a head").config.digest();
    for stage in [Stage::Received, Stage::Compiled, Stage::Serving] {
        old.reached(stage, 1, digest);
    }
    assert_eq!(reader.next(3).await, ["1 node-received old 1", "1 node-compiled old 1", "1 node-serving old 1"]);
    let problem = Fault::new("/bind", "address-in-use", "another program uses it").in_resource(Kind::Listener, "web");
    new.refused(2, vec![problem; 50]);
    new.resynchronises();
    let events: Vec<Value> = reader.read().await.into_iter().map(|(_, event)| event).collect();
    let types: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["node-refused", "node-resynchronised"]);
    assert_eq!(events[0]["problems"].as_array().map(Vec::len), Some(10));
    assert_eq!(events[0]["problems"][0]["pointer"], "/bind");
    drop(new);
    assert_eq!(reader.next(1).await, ["1 node-left new"]);
}

#[tokio::test]
async fn whoever_comes_back_gets_every_revision_after_the_one_it_names() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.put_service(name).await;
    }
    let change = json!({ "url": "http://127.0.0.1:10" });
    let call = api.call(Method::PUT, &format!("{GATEWAY}/services/a")).header("sluice-message", "move it");
    call.json(&change).send().await.expect(200);
    let mut reader = Reader::start(&api, "2").await;
    let expected = ["2 status 0/0 serve 4", "3 revision 3 by test-admin: ", "4 revision 4 by test-admin: move it"];
    assert_eq!(reader.next(3).await, expected);
    api.put_service("d").await;
    assert_eq!(reader.next(1).await, ["5 revision 5 by test-admin: "]);

    // An id from a database that has since been restored from a backup.
    assert_eq!(Reader::start(&api, "77").await.next(1).await, ["5 status 0/0 serve 5"]);
    let wrong = api.call(Method::GET, &format!("{GATEWAY}/events")).header("last-event-id", "x").send().await;
    wrong.expect_error(400, "invalid-parameters");
}

#[tokio::test]
async fn a_node_that_is_behind_is_told_of_once_until_it_has_caught_up() {
    let api = Api::start().await;
    api.put_service("a").await;
    let mut reader = Reader::start(&api, "").await;
    reader.next(1).await;
    // Another content of the revision than it should have, for an hour.
    let introduction = Introduction {
        node_id: "a".to_owned(),
        serving: Some((1, Digest::default())),
        serving_for: Duration::from_secs(3600),
        ..Introduction::default()
    };
    let node = api.state.nodes.connect("default", introduction);
    assert_eq!(reader.next(2).await, ["1 node-joined a 1", "1 node-behind a 1 of 1"]);
    node.reached(Stage::Received, 1, Digest::default());
    let digest = api.state.publisher.head("default").expect("a head").config.digest();
    node.reached(Stage::Serving, 1, digest);
    assert_eq!(reader.next(1).await, ["1 node-serving a 1"]);
}

#[tokio::test]
async fn changes_of_targets_are_told_together() {
    let api = Api::start().await;
    api.put_service("a").await;
    let mut reader = Reader::start(&api, "").await;
    reader.next(1).await;
    for weight in [5, 6, 7] {
        api.put("services/a/targets/http:%2F%2F127.0.0.1:9", json!({ "weight": weight })).await.expect(200);
    }
    assert_eq!(reader.next(1).await, ["1 targets 3 of them up to 3"]);
}

#[tokio::test]
async fn only_so_many_may_watch_and_a_place_is_free_again_when_one_leaves() {
    let api = Api::start().await;
    let mut readers = Vec::new();
    for _ in 0..MAX_WATCHERS {
        readers.push(Reader::start(&api, "").await);
    }
    let refused = api.get("events").await.expect_error(503, "too-many-watchers");
    assert_eq!(refused.header("retry-after"), "10");
    readers.pop();
    Reader::start(&api, "").await;
}

#[tokio::test]
async fn a_rollout_is_told_of_and_whom_it_leaves_alone_is_not_behind() {
    let api = Api::start().await;
    api.put_service("a").await;
    let digest = api.state.publisher.head("default").expect("a head").config.digest();
    let node = api.state.nodes.connect(
        "default",
        Introduction {
            node_id: "a".to_owned(),
            serving: Some((1, digest)),
            serving_for: Duration::from_secs(3600),
            ..Introduction::default()
        },
    );
    let mut reader = Reader::start(&api, "").await;
    reader.next(1).await;
    // No node has that label, so that the rollout reaches none.
    let strategy = "%7B%22steps%22:%5B%7B%22nodes%22:%7B%22labels%22:%5B%22tier=canary%22%5D%7D%7D%5D%7D";
    api.put(&format!("services/b?rollout={strategy}"), json!({ "url": "http://127.0.0.1:9" })).await.expect(201);
    assert_eq!(reader.next(2).await, ["2 revision 2 by test-admin: ", "2 rollout running 0 of 1"]);
    let listed = api.get("nodes").await.expect(200).json();
    assert_eq!((&listed["items"][0]["behind"], &listed["items"][0]["lag_ms"]), (&json!(1), &json!(0)));
    api.post("rollouts/2/pause").await.expect(200);
    assert_eq!(reader.next(1).await, ["2 rollout paused 0 of 1"]);
    api.post("rollouts/2/promote").await.expect(200);
    assert_eq!(reader.next(1).await, ["2 rollout promoted 0 of 1"]);
    drop(node);
}
