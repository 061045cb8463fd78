//! Lists and single resources.

use http::Method;
use serde_json::json;

use super::harness::{Api, GATEWAY};

fn names(page: &super::harness::Answer) -> Vec<String> {
    let items = page.json()["items"].as_array().cloned().expect("items");
    items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn pages_are_stable_while_others_write() {
    let api = Api::start().await;
    for name in ["b", "d", "f", "h"] {
        api.put_service(name).await;
    }
    let first = api.get("services?limit=2").await.expect(200);
    assert_eq!(names(&first), ["b", "d"]);
    let cursor = first.json()["next_cursor"].as_str().expect("more").to_owned();
    assert_eq!(first.header("link"), format!("<{GATEWAY}/services?limit=2&cursor={cursor}>; rel=\"next\""));
    // Before and after the place where reading goes on, and the very entry that it goes on from.
    api.put_service("a").await;
    api.put_service("e").await;
    api.delete("services/d").await.expect(204);
    let second = api.get(&format!("services?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!(names(&second), ["e", "f"]);
    let cursor = second.json()["next_cursor"].as_str().expect("more").to_owned();
    let last = api.get(&format!("services?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!(names(&last), ["h"]);
    assert!(last.json()["next_cursor"].is_null() && !last.headers.contains_key("link"));
    assert_eq!(last.revision(), api.revision());
}

#[tokio::test]
async fn labels_filter_lists() {
    let api = Api::start().await;
    for (name, labels) in [
        ("a", json!({ "team": "orders", "tier": "1" })),
        ("b", json!({ "team": "billing", "tier": "1" })),
        ("c", json!({ "team": "orders" })),
        ("d", json!({})),
    ] {
        let body = json!({ "url": "http://127.0.0.1:9", "labels": labels });
        api.put(&format!("services/{name}"), body).await.expect(201);
    }
    for (query, expected) in [
        ("label=team", vec!["a", "b", "c"]),
        ("label=team%3Dorders", vec!["a", "c"]),
        ("label=team=orders&label=tier=1", vec!["a"]),
        ("label=team=nobody", vec![]),
    ] {
        assert_eq!(names(&api.get(&format!("services?{query}")).await.expect(200)), expected, "{query}");
    }
    let page = api.get("services?label=team%3Dorders&limit=1").await.expect(200);
    let link = page.header("link").to_owned();
    let next = link.trim_start_matches('<').split('>').next().expect("an address");
    assert_eq!(names(&api.call(Method::GET, next).send().await.expect(200)), ["c"]);
}

#[tokio::test]
async fn a_copy_that_is_still_right_is_not_sent_again() {
    let api = Api::start().await;
    api.put_service("a").await;
    let answer = api.get("services/a").await.expect(200);
    let tag = answer.header("etag").to_owned();
    let again = |tag: String| {
        let call = api.call(Method::GET, &format!("{GATEWAY}/services/a"));
        async move { call.header("if-none-match", &tag).send().await }
    };
    let unchanged = again(tag.clone()).await.expect(304);
    assert!(unchanged.bytes.is_empty());
    assert_eq!(unchanged.header("etag"), tag);
    api.patch("services/a", json!({ "description": "another" })).await.expect(200);
    assert_ne!(again(tag).await.expect(200).header("etag"), answer.header("etag"));
}

#[tokio::test]
async fn gateways_and_revisions_are_listed() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.put_service(name).await;
    }
    let gateways = api.call(Method::GET, "/v1/gateways").send().await.expect(200).json();
    assert_eq!(gateways["items"][0]["name"], "default");
    assert_eq!((&gateways["items"][0]["revision"], &gateways["items"][0]["resources"]), (&json!(3), &json!(3)));

    let page = api.get("revisions?limit=2").await.expect(200).json();
    let numbers: Vec<_> = page["items"].as_array().expect("items").iter().map(|one| one["number"].clone()).collect();
    assert_eq!(numbers, [3, 2]);
    api.put_service("d").await;
    let cursor = page["next_cursor"].as_str().expect("more");
    let rest = api.get(&format!("revisions?cursor={cursor}")).await.expect(200).json();
    assert_eq!(rest["items"].as_array().expect("items").len(), 1);
    assert_eq!(rest["items"][0]["number"], 1);
    assert_eq!(rest["items"][0]["author"], "test-admin");
    assert!(rest["items"][0]["created_at"].as_str().is_some_and(|time| time.contains('T') && time.ends_with('Z')));

    let one = api.get("revisions/2").await.expect(200).json();
    assert_eq!((&one["changes"][0]["action"], &one["changes"][0]["name"]), (&json!("create"), &json!("b")));
    for unknown in ["0", "9", "x", "99999999999999999999"] {
        api.get(&format!("revisions/{unknown}")).await.expect_error(404, "unknown-revision");
    }
}

#[tokio::test]
async fn a_revision_that_is_not_kept_says_which_is_the_oldest() {
    let api = Api::start().await;
    for name in ["a", "b", "c", "d"] {
        api.put_service(name).await;
    }
    api.state.store.forget_revisions("default", 3, 10).await.expect("the database answers");
    for address in ["revisions/2", "revisions/2/diff", "revisions/4/diff?against=0"] {
        let error = api.get(address).await.expect_error(410, "forgotten-revision");
        assert!(
            error.json()["detail"].as_str().expect("a detail").contains("the oldest that is kept is 3"),
            "{address}"
        );
    }
    api.post("revisions/1:rollback").await.expect_error(410, "forgotten-revision");
    api.get("revisions/5").await.expect_error(404, "unknown-revision");
    for address in ["revisions/3", "revisions/3/diff", "revisions/4/diff"] {
        api.get(address).await.expect(200);
    }
    api.post("revisions/3:rollback").await.expect(200);
}
