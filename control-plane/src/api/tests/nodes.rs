//! What the API says of nodes.

use model::digest::Digest;
use model::problem::Fault;
use model::resource::Kind;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::harness::Api;
use crate::nodes::{Introduction, Session, Stage};

fn connect(api: &Api, node_id: &str) -> Session {
    let introduction = Introduction { node_id: node_id.to_owned(), ..Introduction::default() };
    api.state.nodes.connect("default", introduction)
}

#[tokio::test]
async fn the_status_says_which_nodes_do_not_serve_the_newest_revision_and_why() {
    let api = Api::start().await;
    assert_eq!(api.get("status").await.expect(200).json()["revision"], 0);
    api.put_service("a").await;
    let status = async || api.get("status").await.expect(200).json();
    let counts = |status: &Value| {
        let [serving, total] = ["serving", "total"].map(|count| status[count].as_u64());
        status["is_converged"].as_bool().zip(serving.zip(total))
    };
    let before = status().await;
    assert_eq!(counts(&before), Some((false, (0, 0))), "no node serves it: {before}");
    let revision = api.get("revisions/1").await.expect(200).json();
    assert_eq!((&before["digest"], &before["published_at"]), (&revision["digest"], &revision["created_at"]));

    let digest = api.state.publisher.head("default").expect("a gateway").config.digest();
    let (one, two) = (connect(&api, "one"), connect(&api, "two"));
    one.reached(Stage::Serving, 1, digest);
    let behind = status().await;
    assert_eq!(counts(&behind), Some((false, (1, 2))));
    let why = |status: &Value| {
        let [node] = &status["not_serving"].as_array().expect("a list")[..] else { panic!("one node: {status}") };
        assert_eq!(node["node_id"], "two");
        node["progress"].clone()
    };
    assert_eq!((why(&behind), &behind["not_serving"][0]["behind"]), (json!("behind"), &json!(1)));
    two.reached(Stage::Received, 1, digest);
    assert_eq!(why(&status().await), "preparing");
    two.refused(1, vec![Fault::new("/bind", "address-in-use", "taken").in_resource(Kind::Listener, "web")]);
    let refused = status().await;
    assert_eq!(why(&refused), "refused");
    assert_eq!(refused["not_serving"][0]["refusal"]["problems"][0]["pointer"], "/bind");
    two.reached(Stage::Serving, 1, Digest::default());
    assert_eq!(why(&status().await), "differs", "the number alone proves nothing");
    two.reached(Stage::Serving, 2, digest);
    assert_eq!(why(&status().await), "ahead");
    two.reached(Stage::Serving, 1, digest);
    assert_eq!(counts(&status().await), Some((true, (2, 2))));
    drop(two);
    assert_eq!(counts(&status().await), Some((true, (1, 1))), "who is gone does not count");
}

#[tokio::test]
async fn nodes_are_chosen_and_waited_for_by_their_labels() {
    let api = Api::start().await;
    let connect = |node_id: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let introduction = Introduction { node_id: node_id.to_owned(), labels, ..Introduction::default() };
        api.state.nodes.connect("default", introduction)
    };
    let canary = connect("canary", &[("zone", "a"), ("tier", "canary")]);
    let _others = [connect("a", &[("zone", "a")]), connect("b", &[("zone", "b")]), connect("c", &[])];
    let chosen = async |query: &str| {
        let list = api.get(&format!("nodes{query}")).await.expect(200).json();
        let ids = list["items"].as_array().expect("a list").iter().map(|node| node["node_id"].clone()).collect();
        (Value::Array(ids), list["convergence"]["total"].clone())
    };
    assert_eq!(chosen("").await, (json!(["a", "b", "c", "canary"]), json!(4)));
    assert_eq!(chosen("?label=zone%3Da").await, (json!(["a", "canary"]), json!(2)));
    assert_eq!(chosen("?label=zone").await, (json!(["a", "b", "canary"]), json!(3)));
    assert_eq!(chosen("?label=zone=a&label=tier").await, (json!(["canary"]), json!(1)));
    assert_eq!(chosen("?label=zone=c").await, (json!([]), json!(0)));
    assert_eq!(api.get("nodes").await.json()["items"][3]["labels"], json!({"zone": "a", "tier": "canary"}));

    canary.reached(Stage::Serving, 1, Digest::default());
    let body = json!({ "url": "http://127.0.0.1:9" });
    let wait = "wait=serving&timeout=10ms";
    api.put(&format!("services/a?{wait}&label=tier=canary"), body.clone()).await.expect(201);
    let late = api.put(&format!("services/a?{wait}&label=zone=a"), body.clone()).await.expect(202).json();
    assert_eq!(late["wait"], json!({ "state": "timed-out", "serving": 1, "total": 2 }));
    api.put(&format!("services/a?{wait}&label=zone=a&share=50%25"), body.clone()).await.expect(200);
    let nobody = api.put(&format!("services/a?{wait}&label=zone=c"), body).await.expect(202).json();
    assert_eq!(nobody["wait"]["state"], "no-nodes");
}

#[tokio::test]
async fn the_lag_of_a_node_counts_from_the_first_revision_that_it_does_not_serve() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.put_service(name).await;
    }
    let at = async |revision: u64| {
        let created = api.get(&format!("revisions/{revision}")).await.expect(200).json()["created_at"].clone();
        let created = created.as_str().expect("a time").to_owned();
        OffsetDateTime::parse(&created, &Rfc3339).expect("a time")
    };
    let node = connect(&api, "a");
    node.reached(Stage::Serving, 1, Digest::default());
    let (second, before) = (at(2).await, OffsetDateTime::now_utc());
    let answer = api.get("nodes").await.expect(200).json();
    let lag_ms = i128::from(answer["items"][0]["lag_ms"].as_u64().expect("a number"));
    let at_least = (before - second).whole_milliseconds();
    let at_most = (OffsetDateTime::now_utc() - second).whole_milliseconds();
    assert!((at_least..=at_most).contains(&lag_ms), "{at_least} <= {lag_ms} <= {at_most}");
    assert_eq!(api.get("status").await.expect(200).json()["not_serving"][0]["behind"], 2);

    node.reached(Stage::Serving, 3, api.state.publisher.head("default").expect("a head").config.digest());
    assert_eq!(api.get("nodes").await.expect(200).json()["items"][0]["lag_ms"], 0);
}

#[tokio::test]
async fn a_node_that_a_rollout_has_not_reached_is_held_back_and_not_behind() {
    let api = Api::start().await;
    api.put_service("a").await;
    let (digest, node) =
        (api.state.publisher.head("default").expect("it is there").config.digest(), connect(&api, "one"));
    node.reached(Stage::Serving, 1, digest);
    let strategy = json!({ "steps": [{ "nodes": { "count": 1 } }] });
    api.put("rollout-strategy", strategy).await.expect(200);
    let body = json!({ "url": "http://127.0.0.1:8" });
    let staged = api.put("services/a?wait=serving&timeout=10ms", body.clone()).await.expect(202).json();
    assert_eq!((&staged["is_staged"], &staged["wait"]["state"]), (&json!(true), &json!("timed-out")));
    let progress = async || api.get("nodes").await.expect(200).json()["items"][0]["progress"].clone();
    assert_eq!(progress().await, "held-back");
    api.post("rollouts/2/promote").await.expect(200);
    assert_eq!(progress().await, "behind", "now it is to have it");
}
