//! Several writers: none of them overwrites what it has not seen.

use http::Method;
use serde_json::json;

use super::harness::{Api, GATEWAY};

#[tokio::test]
async fn of_two_writers_who_saw_the_same_one_wins() {
    let api = Api::start().await;
    api.put_service("a").await;
    let tag = api.get("services/a").await.expect(200).header("etag").to_owned();
    let address = format!("{GATEWAY}/services/a");
    let write = |text: &str| {
        let body = json!({ "url": "http://127.0.0.1:9", "description": text });
        api.call(Method::PUT, &address).json(&body).header("if-match", &tag).send()
    };
    let (one, two) = tokio::join!(write("one"), write("two"));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    let stale = write("three").await.expect_error(412, "precondition-failed");
    let now = api.get("services/a").await.expect(200).header("etag").to_owned();
    assert!(stale.json()["detail"].as_str().expect("a detail").contains(&now), "{}", stale.text());
    assert_eq!(api.revision(), 2);
}

#[tokio::test]
async fn conditions_hold_for_every_method() {
    let api = Api::start().await;
    let address = format!("{GATEWAY}/services/a");
    let call = |method: Method| api.call(method, &address).json(&json!({ "url": "http://127.0.0.1:9" }));
    call(Method::PUT).header("if-match", "*").send().await.expect_error(412, "precondition-failed");
    call(Method::PATCH).header("if-match", "*").send().await.expect_error(412, "precondition-failed");
    call(Method::PUT).header("if-none-match", "*").send().await.expect(201);
    call(Method::PUT).header("if-none-match", "*").send().await.expect_error(412, "precondition-failed");
    call(Method::PATCH).header("if-match", "\"other\"").send().await.expect_error(412, "precondition-failed");
    call(Method::DELETE).header("if-match", "\"other\"").send().await.expect_error(412, "precondition-failed");
    call(Method::DELETE).header("if-match", "no tag").send().await.expect_error(400, "invalid-parameters");
    let tag = api.get("services/a").await.expect(200).header("etag").to_owned();
    call(Method::DELETE).header("if-match", &tag).send().await.expect(204);
}

#[tokio::test]
async fn a_change_with_a_base_is_refused_when_the_base_moved() {
    let api = Api::start().await;
    api.put_service("a").await;
    let body = json!({ "url": "http://127.0.0.1:9" });
    let conflict = api.put("services/b?base=0", body.clone()).await.expect_error(409, "revision-conflict");
    assert_eq!(conflict.json()["revision"], 1);
    api.put("services/b?base=1", body).await.expect(201);
    api.delete("services/b?base=1").await.expect_error(409, "revision-conflict");
    api.post("revisions/1:rollback?base=1").await.expect_error(409, "revision-conflict");
    api.post("revisions/1:rollback?base=2").await.expect(200);
}

#[tokio::test]
async fn writers_to_different_resources_do_not_disturb_each_other() {
    let api = Api::start().await;
    let names: Vec<_> = (0..20).map(|number| format!("s{number}")).collect();
    let writes = names.iter().map(|name| api.put_service(name));
    futures_util::future::join_all(writes).await;
    assert_eq!(api.revision(), 20);
    let page = api.get("services").await.expect(200).json();
    assert_eq!(page["items"].as_array().expect("items").len(), 20);
}
