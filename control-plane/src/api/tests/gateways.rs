//! Gateways come and go.

use http::Method;
use serde_json::json;

use super::harness::Api;

#[tokio::test]
async fn a_gateway_is_created_used_and_removed_when_it_is_empty() {
    let api = Api::start().await;
    let edge = "/v1/gateways/edge";
    let route = format!("{edge}/routes/a");
    let hint = api.call(Method::GET, edge).send().await.expect_error(404, "unknown-gateway");
    assert!(hint.json()["detail"].as_str().expect("a detail").contains("PUT /v1/gateways/edge"), "{hint:?}");

    let created = api.call(Method::PUT, edge).send().await.expect(201);
    assert_eq!((created.json()["name"].as_str(), created.json()["revision"].as_u64()), (Some("edge"), Some(0)));
    api.call(Method::PUT, &route).json(&json!({ "respond": { "body": "hi" } })).send().await.expect(201);
    let again = api.call(Method::PUT, edge).send().await.expect(200);
    assert_eq!(again.json()["revision"], 1, "what is there stays");
    let all = api.call(Method::GET, "/v1/gateways").send().await.expect(200);
    let names: Vec<_> =
        all.json()["items"].as_array().expect("a list").iter().map(|item| item["name"].clone()).collect();
    assert_eq!(names, ["default", "edge"]);
    assert_eq!(api.revision(), 0, "the other gateway does not notice");

    api.call(Method::DELETE, edge).send().await.expect_error(409, "gateway-not-empty");
    api.call(Method::DELETE, &route).send().await.expect(204);
    api.call(Method::DELETE, edge).send().await.expect(204);
    api.call(Method::GET, edge).send().await.expect_error(404, "unknown-gateway");
    api.call(Method::DELETE, edge).send().await.expect_error(404, "unknown-gateway");
    let fresh = api.call(Method::PUT, edge).send().await.expect(201);
    assert_eq!(fresh.json()["revision"], 0, "nothing of the one before is left");
}

#[tokio::test]
async fn a_gateway_needs_a_name_and_the_default_one_stays() {
    let api = Api::start().await;
    for bad in ["/v1/gateways/no%20name", "/v1/gateways/no%2Fname", "/v1/gateways/-"] {
        api.call(Method::PUT, bad).send().await.expect_error(400, "invalid-parameters");
    }
    api.call(Method::DELETE, "/v1/gateways/default").send().await.expect_error(409, "gateway-kept");
    api.call(Method::PUT, "/v1/gateways/default").send().await.expect(200);
}
