//! What the API says of changes that go out in steps.

use std::time::Duration;

use model::digest::Digest;
use serde_json::{Value, json};

use super::harness::Api;
use crate::nodes::{Introduction, Stage};
use crate::rollout::driver::Driver;

async fn with_strategy(on_change: &str) -> Api {
    let api = Api::start().await;
    api.put_service("a").await;
    let strategy = json!({ "steps": [{ "nodes": { "count": 1 }, "bake": "1h" }], "on_change": on_change });
    api.put("rollout-strategy", strategy).await.expect(200);
    api
}

fn service(port: u16) -> Value {
    json!({ "url": format!("http://127.0.0.1:{port}") })
}

#[tokio::test]
async fn a_strategy_is_kept_with_its_defaults_and_every_fault_is_named() {
    let api = Api::start().await;
    api.get("rollout-strategy").await.expect_error(404, "unknown-rollout");
    let kept =
        api.put("rollout-strategy", json!({ "steps": [{ "nodes": { "percent": 10 } }] })).await.expect(200).json();
    assert_eq!((&kept["steps"][0]["bake"], &kept["gates"]["min_requests"]), (&json!("5m"), &json!(100)));
    assert_eq!(api.get("rollout-strategy").await.expect(200).json(), kept);
    let bad = json!({ "steps": [{ "nodes": { "percent": 0 }, "bake": "1x" }], "on_chnge": "queue" });
    let faults = api.put("rollout-strategy", bad).await.expect_error(422, "invalid-configuration").faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    api.delete("rollout-strategy").await.expect(204);
    api.delete("rollout-strategy").await.expect_error(404, "unknown-rollout");
    api.put_service("a").await;
    for wrong in ["sometimes", "%7B%7D", "%7B%22steps%22:%5B%5D%7D"] {
        api.put(&format!("services/a?rollout={wrong}"), service(8)).await.expect_error(400, "invalid-parameters");
    }
    assert_eq!(api.revision(), 1);
    api.get("rollouts/1").await.expect_error(404, "unknown-rollout");
}

#[tokio::test]
async fn the_first_revision_is_not_staged_and_what_changes_nothing_is_not_held_up() {
    let api = Api::start().await;
    api.put("rollout-strategy", json!({ "steps": [{ "nodes": {} }] })).await.expect(200);
    api.put_service("a").await;
    api.get("rollouts/1").await.expect_error(404, "unknown-rollout");
    api.put("services/a", service(8)).await.expect(200);
    assert_eq!(api.get("rollouts/2").await.expect(200).json()["state"], "running");
    api.put("services/a", service(8)).await.expect(200);
    let refused = api.put("services/a", service(7)).await.expect_error(409, "rollout-under-way");
    assert_eq!(refused.json()["revision"], 2);
    let dry = api.put("services/a?dry_run", service(7)).await.expect(200).json();
    assert_eq!(dry["from"], 2, "trying is allowed");
}

#[tokio::test]
async fn a_write_in_the_queue_waits_for_the_end_and_is_refused_when_its_time_is_over() {
    let api = with_strategy("queue").await;
    api.put("services/a", service(8)).await.expect(200);
    api.put("services/a?timeout=10ms", service(7)).await.expect_error(409, "rollout-under-way");
    assert_eq!(api.revision(), 2, "what was not acknowledged was not written");
    let queued = api.put("services/b?timeout=60s", service(7));
    let promoted = async {
        tokio::task::yield_now().await;
        api.post("rollouts/2/promote").await.expect(200);
    };
    let (queued, ()) = tokio::join!(queued, promoted);
    assert_eq!(queued.expect(201).revision(), 3);
    assert_eq!(api.get("rollouts/3").await.expect(200).json()["base"], 2, "it has a rollout of its own");
}

#[tokio::test]
async fn an_emergency_goes_past_a_rollout_and_that_is_kept() {
    let api = with_strategy("refuse").await;
    api.put("services/a", service(8)).await.expect(200);
    let urgent = api.put("services/a?rollout=skip", service(7)).await.expect(200);
    assert_eq!(urgent.revision(), 3);
    let kept = api.get("revisions/3").await.expect(200).json();
    assert_eq!((&kept["rollout"], &kept["rollouts"][0]["author"]), (&json!("skipped"), &json!("test-admin")));
    api.post("rollouts/2/promote").await.expect_error(409, "rollout-over");
    api.put("services/a", service(6)).await.expect(200);
    assert_eq!(api.get("rollouts/4").await.expect(200).json()["state"], "running", "the next one is staged again");
}

#[tokio::test]
async fn who_waits_for_a_revision_that_comes_back_is_told_so() {
    let api = with_strategy("refuse").await;
    let node =
        api.state.nodes.connect("default", Introduction { node_id: "one".to_owned(), ..Introduction::default() });
    node.reached(Stage::Serving, 1, Digest::default());
    let mut driver = Driver::new(api.state.publisher.clone(), api.state.nodes.clone());
    let waiting = api.put("services/a?wait=serving&timeout=60s", service(8));
    let driving = async {
        while api.revision() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        driver.round(tokio::time::Instant::now()).await.expect("the store is there");
        node.refused(2, Vec::new());
        while api.revision() < 3 {
            driver.round(tokio::time::Instant::now()).await.expect("the store is there");
        }
        // It serves what is newer, and not what was waited for.
        node.reached(Stage::Serving, 3, Digest::default());
    };
    let (answer, ()) = tokio::join!(waiting, driving);
    assert_eq!(answer.status, 409, "{}", answer.text());
    let ended = api.get("rollouts/2").await.expect(200).json();
    assert_eq!((&ended["state"], &ended["ended_by"]), (&json!("rolled-back"), &json!(3)), "{ended}");
    let digest = async |revision| api.get(&format!("revisions/{revision}")).await.expect(200).json()["digest"].clone();
    assert_eq!(digest(1).await, digest(3).await);
}
