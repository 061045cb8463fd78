//! Whatever is wrong is answered in one form, with everything that is wrong.

use axum::body::Body;
use http::Method;
use serde_json::json;

use super::harness::{Api, GATEWAY};

#[tokio::test]
async fn all_faults_are_told_at_once_with_pointers_and_hints() {
    let api = Api::start().await;
    api.put_service("orders").await;
    let route = json!({
        "name": "another",
        "hosts": ["http://a"],
        "pathes": ["/a"],
        "methods": ["GET", "ge t"],
        "backends": [{ "service": "order" }, { "service": "orders", "wait": 3 }],
    });
    let answer = api.put("routes/a", route).await.expect_error(422, "invalid-configuration");
    let faults = answer.faults();
    for expected in [
        "route a /name name-mismatch",
        "route a /hosts/0 invalid-value",
        "route a /pathes unknown-field",
        "route a /methods/1 invalid-value",
        "route a /backends/1/wait unknown-field",
    ] {
        assert!(faults.iter().any(|fault| fault == expected), "{expected} in {faults:?}");
    }
    let hints: Vec<_> =
        answer.json()["errors"].as_array().expect("errors").iter().map(|error| error["hint"].clone()).collect();
    assert!(hints.contains(&json!("did you mean `paths`?")), "{hints:?}");

    let dangling = api.put("routes/a", json!({ "service": "order" })).await.expect_error(422, "invalid-configuration");
    assert_eq!(dangling.faults(), ["route a /service unknown-reference"]);
    assert_eq!(dangling.json()["errors"][0]["hint"], "did you mean `orders`?");
    api.put("routes/a", json!({ "service": "orders" })).await.expect(201);
    let needed = api.delete("services/orders").await.expect_error(422, "invalid-configuration");
    assert_eq!(needed.faults(), ["service orders  still-referenced"]);
    let name = api.put("services/Not%20A%20Name", json!({ "url": 7 })).await.expect_error(422, "invalid-configuration");
    assert!(name.faults().contains(&"service Not A Name /name invalid-name".to_owned()), "{:?}", name.faults());
    assert_eq!(api.revision(), 2);
}

#[tokio::test]
async fn addresses_and_methods_that_are_not_there() {
    let api = Api::start().await;
    let typo = api.get("rotues").await.expect_error(404, "unknown-path");
    assert!(typo.json()["detail"].as_str().expect("a detail").contains("did you mean `routes`?"), "{}", typo.text());
    let typo = api.post("config:aply").await.expect_error(404, "unknown-path");
    assert!(typo.text().contains("did you mean `config:apply`?"), "{}", typo.text());
    for path in ["/v1", "/v1/", "/v2/gateways", "/v1/gateways/default/routes/a/b", "//", "/v1/gateways//routes"] {
        let answer = api.call(Method::GET, path).send().await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
    }
    for path in
        ["/v1/gateways/nobody", "/v1/gateways/nobody/routes", "/v1/gateways/%ff/routes", "/v1/gateways/no%2Fbody"]
    {
        let answer = api.call(Method::GET, path).send().await.expect(404);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
    }
    let method = api.post("routes").await.expect_error(405, "method-not-allowed");
    assert_eq!(method.header("allow"), "GET,HEAD");
    let method = api.post("routes/a").await.expect_error(405, "method-not-allowed");
    for allowed in ["GET", "PUT", "PATCH", "DELETE"] {
        assert!(method.header("allow").contains(allowed));
    }
    api.call(Method::OPTIONS, &format!("{GATEWAY}/routes")).send().await.expect_error(405, "method-not-allowed");
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let api = Api::start().await;
    let put = |content_type: &str, body: &'static [u8]| {
        let address = format!("{GATEWAY}/services/a");
        let call = api.call(Method::PUT, &address).header("content-type", content_type).body(body);
        async move { call.send().await }
    };
    let broken =
        put("application/json", b"{\n  \"url\": \"http://a\",\n  oops\n}").await.expect_error(400, "invalid-body");
    let place = &broken.json()["errors"][0]["location"];
    assert_eq!((&place["line"], &place["column"]), (&json!(3), &json!(3)));
    put("application/json", b"").await.expect_error(400, "invalid-body");
    put("application/json", b"\xff\xfe").await.expect_error(400, "invalid-body");
    put("application/json", b"{} {}").await.expect_error(400, "invalid-body");
    put("application/json", b"[]").await.expect_error(422, "invalid-configuration");
    put("application/x-www-form-urlencoded", b"{}").await.expect_error(415, "unsupported-media-type");
    let typo = put("application/jsn", b"{}").await.expect_error(415, "unsupported-media-type");
    assert!(typo.text().contains("did you mean `application/json`?"), "{}", typo.text());
    put("application/json; charset=utf-8", b"{\"url\":\"http://127.0.0.1:9\"}").await.expect(201);
    let address = format!("{GATEWAY}/services/a");
    let packed = api.call(Method::PUT, &address).json(&json!({})).header("content-encoding", "gzip");
    packed.send().await.expect_error(415, "unsupported-media-type");
    // Announced, and not announced but sent.
    let announced = api.call(Method::PUT, &address).json(&json!({})).header("content-length", "9999999");
    announced.send().await.expect_error(413, "too-large");
    let large = Body::from(vec![b' '; 1024 * 1024 + 1]);
    api.call(Method::PUT, &address)
        .header("content-type", "application/json")
        .body(large)
        .send()
        .await
        .expect_error(413, "too-large");
    for (method, address) in [(Method::PUT, "services/a"), (Method::PATCH, "services/a")] {
        let address = format!("{GATEWAY}/{address}");
        let twice = Body::from("{\n  \"url\": \"http://a:1\",\n  \"url\": \"http://b:1\"\n}");
        let call = api.call(method, &address).header("content-type", "application/json").body(twice);
        let error = call.send().await.expect_error(400, "invalid-body").json()["errors"][0].clone();
        assert_eq!(error["message"], "the field `url` is written twice");
        assert_eq!(error["location"]["line"], 3);
    }
    let deep = "[".repeat(100_000);
    api.call(Method::PUT, &address)
        .header("content-type", "application/json")
        .body(deep)
        .send()
        .await
        .expect_error(400, "invalid-body");
}

#[tokio::test]
async fn parameters_that_make_no_sense() {
    let api = Api::start().await;
    for (address, pointer) in [
        ("services?limit=0", "/limit"),
        ("services?limit=1001", "/limit"),
        ("services?limit=-1", "/limit"),
        ("services?limit=x", "/limit"),
        ("services?cursor=%00", "/cursor"),
        ("revisions?cursor=a", "/cursor"),
        ("revisions?cursor=18446744073709551615", "/cursor"),
    ] {
        let answer = api.get(address).await.expect_error(400, "invalid-parameters");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{address}: {}", answer.text());
    }
    api.get("services?limit=1&limit=2").await.expect_error(400, "invalid-parameters");
    let typo = api.delete("services/a?dryrun=true&timeout=soon").await.expect_error(400, "invalid-parameters");
    assert_eq!(typo.json()["errors"].as_array().expect("errors").len(), 2);
    assert!(typo.text().contains("did you mean `dry_run`?"), "{}", typo.text());
    let flag = api.delete("services/a?dry_run=maybe&base=-1").await.expect_error(400, "invalid-parameters");
    assert_eq!(
        flag.json()["detail"],
        "parameter `dry_run`: \"maybe\" is not true or false (write `true` or `false`); parameter `base`: \"-1\" is no whole number (write a whole number, 0 or more)"
    );
}
