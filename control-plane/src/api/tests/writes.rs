//! Single writes, what they leave behind, and how they are undone.

use http::Method;
use serde_json::json;

use super::harness::{Api, GATEWAY};
use crate::nodes::{Introduction, Stage};

#[tokio::test]
async fn a_resource_is_created_changed_and_removed() {
    let api = Api::start().await;
    let created =
        api.put("services/orders", json!({ "name": "orders", "url": "http://127.0.0.1:9000" })).await.expect(201);
    assert_eq!(created.revision(), 1);
    assert_eq!(created.json()["targets"][0]["url"], "http://127.0.0.1:9000");
    let read = api.get("services/orders").await.expect(200);
    assert_eq!((read.json(), read.header("etag")), (created.json(), created.header("etag")));

    let route = json!({ "paths": ["/orders"], "service": "orders", "labels": { "a": "1", "b": "2" } });
    api.put("routes/orders", route).await.expect(201);
    let patched =
        api.patch("routes/orders", json!({ "labels": { "a": null, "c": "3" }, "methods": ["GET"] })).await.expect(200);
    assert_eq!(patched.json()["labels"], json!({ "b": "2", "c": "3" }));
    assert_eq!(patched.json()["paths"], json!([{ "prefix": "/orders" }]));
    assert_eq!(patched.revision(), 3);

    // What is left out of a PUT is gone; the same again changes nothing.
    let replaced = api.put("routes/orders", json!({ "service": "orders" })).await.expect(200);
    assert!(replaced.json()["labels"].is_null());
    assert_eq!(replaced.revision(), 4);
    let same = api.put("routes/orders", replaced.json()).await.expect(200);
    assert_eq!((same.revision(), same.header("etag")), (4, replaced.header("etag")));

    assert_eq!(api.delete("routes/orders").await.expect(204).revision(), 5);
    api.get("routes/orders").await.expect_error(404, "unknown-resource");
    api.delete("routes/orders").await.expect_error(404, "unknown-resource");
    api.patch("routes/orders", json!({})).await.expect_error(404, "unknown-resource");
    assert_eq!(api.revision(), 5);
}

#[tokio::test]
async fn a_dry_run_shows_the_difference_and_writes_nothing() {
    let api = Api::start().await;
    api.put_service("a").await;
    let diff = api.put("services/a?dry_run=true", json!({ "url": "http://127.0.0.1:10" })).await.expect(200);
    assert_eq!(diff.revision(), 1);
    let diff = diff.json();
    assert_eq!((&diff["from"], &diff["changes"][0]["action"]), (&json!(1), &json!("update")));
    assert_eq!(diff["changes"][0]["before"]["targets"][0]["url"], "http://127.0.0.1:9");
    assert_eq!(diff["changes"][0]["after"]["targets"][0]["url"], "http://127.0.0.1:10");
    let created = api.put("services/b?dry_run", json!({ "url": "http://127.0.0.1:10" })).await.expect(200).json();
    assert_eq!(created["changes"][0]["action"], "create");
    let removed = api.delete("services/a?dry_run=true").await.expect(200).json();
    assert_eq!(removed["changes"][0]["action"], "delete");
    let same = api.put("services/a?dry_run=true", json!({ "url": "http://127.0.0.1:9" })).await.expect(200).json();
    assert_eq!((&same["from"], &same["changes"]), (&json!(1), &json!([])));
    api.put("services/a?dry_run=true", json!({ "url": 7 })).await.expect_error(422, "invalid-configuration");
    assert_eq!(api.revision(), 1);
    assert_eq!(api.state.store.head("default").await.expect("a head").revision, 1);
}

#[tokio::test]
async fn secrets_are_kept_and_never_shown() {
    let api = Api::start().await;
    let consumer = json!({ "credentials": [{ "type": "key-auth", "name": "main", "key": "a-key-of-some-length" }] });
    let created = api.put("consumers/acme", consumer).await.expect(201);
    assert!(!created.text().contains("a-key-of-some-length"));
    let patched = api.patch("consumers/acme", json!({ "description": "new" })).await.expect(200).json();
    assert_eq!(patched["credentials"], created.json()["credentials"]);

    let (cert, key) = certificate();
    let created = api.put("certificates/shop", json!({ "cert": cert, "key": key })).await.expect(201);
    let shown = created.json()["key"].as_str().expect("a key").to_owned();
    assert!(shown.starts_with("redacted:sha256:"), "{shown}");
    api.patch("certificates/shop", json!({ "description": "new" })).await.expect(200);
    let put_back = json!({ "cert": cert, "key": shown, "description": "newer" });
    api.put("certificates/shop", put_back.clone()).await.expect(200);
    let stored = api.state.publisher.head("default").expect("a head");
    let (_, document) = stored.config.of_kind(model::resource::Kind::Certificate, None).next().expect("a certificate");
    assert!(document.spec.contains("PRIVATE KEY"), "the key itself is kept");

    let elsewhere = api.put("certificates/other", put_back).await.expect_error(422, "invalid-configuration");
    assert_eq!(elsewhere.faults(), ["certificate other /key redacted-value"]);
    for address in ["revisions/3", "revisions/4/diff", "certificates", "config"] {
        let text = api.get(address).await.expect(200).text();
        assert!(!text.contains("PRIVATE KEY"), "{address}: {text}");
    }
}

/// A self-signed certificate and its key, in PEM.
pub fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[tokio::test]
async fn messages_and_authors_are_kept() {
    let api = Api::start().await;
    let body = json!({ "url": "http://127.0.0.1:9" });
    api.put("services/a?message=because%20of%20this", body.clone()).await.expect(201);
    let address = format!("{GATEWAY}/services/b");
    api.call(Method::PUT, &address).json(&body).header("sluice-message", "für später").send().await.expect(201);
    let revisions = api.get("revisions").await.expect(200).json();
    assert_eq!(revisions["items"][0]["message"], "für später");
    assert_eq!(revisions["items"][1]["message"], "because of this");
    let long = format!("services/c?message={}", "x".repeat(5000));
    api.put(&long, body).await.expect_error(400, "invalid-parameters");
}

#[tokio::test]
async fn revisions_are_compared_and_rolled_back() {
    let api = Api::start().await;
    api.put_service("a").await;
    let (cert, key) = certificate();
    api.put("certificates/shop", json!({ "cert": cert, "key": key })).await.expect(201);
    let digest = api.call(Method::GET, GATEWAY).send().await.expect(200).json()["digest"].clone();
    api.delete("certificates/shop").await.expect(204);
    api.put_service("b").await;
    api.patch("services/a", json!({ "description": "x" })).await.expect(200);

    let changes = |answer: super::harness::Answer| -> Vec<String> {
        let diff = answer.expect(200).json();
        let list = diff["changes"].as_array().cloned().expect("changes");
        list.iter().map(|one| format!("{} {} {}", one["action"], one["kind"], one["name"]).replace('"', "")).collect()
    };
    assert_eq!(changes(api.get("revisions/5/diff").await), ["update service a"]);
    assert_eq!(
        changes(api.get("revisions/5/diff?against=2").await),
        ["delete certificate shop", "update service a", "create service b"]
    );
    assert_eq!(
        changes(api.get("revisions/2/diff?against=5").await),
        ["create certificate shop", "update service a", "delete service b"]
    );
    assert_eq!(changes(api.get("revisions/3/diff?against=3").await), Vec::<String>::new());
    api.get("revisions/3/diff?against=9").await.expect_error(404, "unknown-revision");

    let planned = api.post("revisions/2:rollback?dry_run=true").await;
    assert_eq!(changes(planned).len(), 3);
    let back = api.post("revisions/2:rollback").await.expect(200);
    assert_eq!((back.revision(), &back.json()["digest"]), (6, &digest), "to the byte");
    assert_eq!(api.get("revisions/6").await.expect(200).json()["message"], "roll back to revision 2");
    assert_eq!(api.post("revisions/6:rollback").await.expect(200).json()["is_new"], false);
    api.post("revisions/9:rollback").await.expect_error(404, "unknown-revision");
    assert_eq!(api.post("revisions/2").await.expect_error(405, "method-not-allowed").header("allow"), "GET,HEAD");
    assert_eq!(api.get("revisions/2:rollback").await.expect_error(405, "method-not-allowed").header("allow"), "POST");
    api.post("revisions/2:rollbak").await.expect_error(405, "method-not-allowed");
}

#[tokio::test]
async fn a_write_can_wait_for_the_nodes() {
    let api = Api::start().await;
    let body = json!({ "url": "http://127.0.0.1:9" });
    let none = api.put("services/a?wait=serving&timeout=10ms", body.clone()).await.expect(202).json();
    assert_eq!((&none["wait"]["state"], &none["revision"]), (&json!("no-nodes"), &json!(1)));

    let connect = |node_id: &str| {
        let node = Introduction {
            node_id: node_id.to_owned(),
            hostname: "here".to_owned(),
            version: "1".to_owned(),
            ..Introduction::default()
        };
        api.state.nodes.connect("default", node)
    };
    let (one, two) = (connect("one"), connect("two"));
    let digest = model::digest::Digest::default();
    one.reached(Stage::Serving, 2, digest);
    let late = api.put("services/b?wait=serving&timeout=10ms", body.clone()).await.expect(202).json();
    assert_eq!(late["wait"], json!({ "state": "timed-out", "serving": 1, "total": 2 }));
    one.reached(Stage::Serving, 3, digest);
    api.put("services/c?wait=serving&timeout=10ms&share=50%25", body.clone()).await.expect(201);
    let problem = model::problem::Fault::new("/bind", "address-in-use", "taken")
        .in_resource(model::resource::Kind::Listener, "web");
    two.refused(4, vec![problem]);
    let refused =
        api.put("services/d?wait=serving&timeout=1m", body.clone()).await.expect_error(409, "refused-by-node");
    assert_eq!(refused.faults(), ["listener web /bind address-in-use"]);
    assert_eq!((refused.revision(), &refused.json()["revision"]), (4, &json!(4)));
    api.get("services/d").await.expect(200);

    let nodes = api.get("nodes").await.expect(200).json();
    assert_eq!(nodes["convergence"], json!({ "total": 2, "serving": 0, "refused": 1 }));
    assert_eq!(nodes["items"][1]["refusal"]["problems"][0]["name"], "web");
    for wrong in ["wait=soon", "share=0%25", "share=all", "timeout=1h", "timeout=later"] {
        api.put(&format!("services/e?{wrong}"), body.clone()).await.expect_error(400, "invalid-parameters");
    }
}
