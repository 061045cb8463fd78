//! Targets of services beside the configuration.

use http::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Api, GATEWAY};

async fn shop() -> Api {
    let api = Api::start().await;
    let targets = json!([{"url": "http://10.0.0.1:80"}, {"url": "https://10.0.0.2:443", "weight": 5}]);
    api.put("services/shop", json!({"targets": targets})).await.expect(201);
    api
}

fn version(answer: &Answer) -> u64 {
    answer.header("sluice-targets-version").parse().expect("a number")
}

/// `url state weight origin` of each target.
async fn listed(api: &Api) -> Vec<String> {
    let answer = api.get("services/shop/targets").await.expect(200).json();
    let line = |target: &Value| {
        let word = |field: &str| target[field].as_str().expect("a word").to_owned();
        format!("{} {} {} {}", word("url"), word("state"), target["weight"], word("origin"))
    };
    answer["items"].as_array().expect("a list").iter().map(line).collect()
}

#[tokio::test]
async fn targets_are_added_drained_changed_and_taken_back_without_a_revision() {
    let api = shop().await;
    let added = api.put("services/shop/targets/10.0.0.9:80", json!({"weight": 3})).await.expect(200);
    assert_eq!((version(&added), added.json()["url"].clone()), (1, json!("http://10.0.0.9:80")));
    let drained = api.patch("services/shop/targets/10.0.0.2:443", json!({"draining": true})).await.expect(200).json();
    assert_eq!(drained["member"], json!({"draining": true}));
    api.patch("services/shop/targets/http:%2F%2F10.0.0.1:80", json!({"weight": 0})).await.expect(200);
    let expected = [
        "http://10.0.0.1:80 idle 0 written",
        "https://10.0.0.2:443 draining 5 written",
        "http://10.0.0.9:80 serving 3 added",
    ];
    assert_eq!(listed(&api).await, expected);
    assert_eq!(api.revision(), 1);

    // Said again, nothing changes.
    assert_eq!(version(&api.put("services/shop/targets/10.0.0.9:80", json!({"weight": 3})).await.expect(200)), 3);
    // PATCH keeps what it does not name, PUT does not.
    api.patch("services/shop/targets/10.0.0.9:80", json!({"draining": true})).await.expect(200);
    assert_eq!(listed(&api).await[2], "http://10.0.0.9:80 draining 3 added");
    api.put("services/shop/targets/10.0.0.9:80", json!({})).await.expect(200);
    assert_eq!(listed(&api).await[2], "http://10.0.0.9:80 serving 1 added");

    for target in ["10.0.0.1:80", "10.0.0.2:443", "10.0.0.9:80"] {
        api.delete(&format!("services/shop/targets/{target}")).await.expect(204);
        api.delete(&format!("services/shop/targets/{target}")).await.expect_error(404, "unknown-target");
    }
    assert_eq!(listed(&api).await, ["http://10.0.0.1:80 serving 1 written", "https://10.0.0.2:443 serving 5 written"]);
    api.get("services/shop/targets/10.0.0.9:80").await.expect_error(404, "unknown-target");
    api.get("services/shop/targets/10.0.0.1:80").await.expect(200);
}

#[tokio::test]
async fn many_targets_are_changed_at_once_or_none() {
    let api = shop().await;
    let body = json!({"10.0.0.1:80": {"draining": true}, "10.0.0.8:80": {}, "10.0.0.9:80": {"weight": 2}});
    let answer = api.patch("services/shop/targets", body).await.expect(200);
    assert_eq!((version(&answer), answer.json()["changed"].clone()), (3, json!(3)));
    let answer =
        api.patch("services/shop/targets", json!({"10.0.0.1:80": null, "10.0.0.9:80": {"draining": true}})).await;
    assert_eq!(answer.expect(200).json()["changed"], 2);
    assert_eq!(listed(&api).await[2..], ["http://10.0.0.8:80 serving 1 added", "http://10.0.0.9:80 draining 2 added"]);

    let bad = json!({"10.0.0.8:80": {"weight": 1001}, "nonsense": {}, "10.0.0.7:80": {}});
    let refused = api.put("services/shop/targets", bad).await.expect_error(422, "invalid-configuration");
    assert_eq!(refused.faults(), ["service shop /nonsense invalid-value"]);
    let bad = json!({"http://10.0.0.8:80": {"weight": 1001}, "10.0.0.7:80": {"wieght": 1}, "http://10.0.0.7:80": {}});
    let refused = api.put("services/shop/targets", bad).await.expect_error(422, "invalid-configuration");
    let expected =
        ["service shop /http:~1~110.0.0.8:80/weight invalid-value", "service shop /10.0.0.7:80/wieght unknown-field"];
    assert_eq!(refused.faults()[..2], expected);
    assert_eq!(version(&api.get("services/shop/targets").await), 5);

    // All that there is from now on.
    let answer = api.put("services/shop/targets", json!({"10.0.0.7:80": {}, "10.0.0.9:80": {}})).await.expect(200);
    assert_eq!(answer.json()["changed"], 3);
    assert_eq!(listed(&api).await[2..], ["http://10.0.0.7:80 serving 1 added", "http://10.0.0.9:80 serving 1 added"]);
}

#[tokio::test]
async fn what_cannot_be_said_is_told_with_its_place() {
    let api = shop().await;
    let unknown = api.put("services/blog/targets/10.0.0.1:80", json!({})).await.expect_error(404, "unknown-resource");
    assert!(unknown.json()["detail"].as_str().expect("text").contains("service `blog`"), "{}", unknown.text());
    api.patch("services/shop/targets/10.0.0.77:80", json!({})).await.expect_error(404, "unknown-target");
    for target in ["10.0.0.1", "10.0.0.1:x", "ftp:%2F%2Fa:1", "a:0", "%3A80"] {
        let refused = api.put(&format!("services/shop/targets/{target}"), json!({})).await;
        assert_eq!(refused.expect_error(400, "invalid-parameters").faults(), ["- - /target invalid-parameter"]);
    }
    for (body, fault) in [
        (json!({"weight": 1001}), "/weight invalid-value"),
        (json!({"weight": -1}), "/weight invalid-value"),
        (json!({"draning": true}), "/draning unknown-field"),
        (json!({"labels": {"": "x"}}), "/labels invalid-value"),
    ] {
        for answer in [
            api.put("services/shop/targets/10.0.0.1:80", body.clone()).await,
            api.patch("services/shop/targets/10.0.0.1:80", body.clone()).await,
        ] {
            assert_eq!(answer.expect_error(422, "invalid-configuration").faults(), [format!("service shop {fault}")]);
        }
    }
    // The address alone does not tell which is meant.
    for scheme in ["http", "https"] {
        api.put(&format!("services/shop/targets/{scheme}:%2F%2Fa.test:80"), json!({})).await.expect(200);
    }
    let refused = api.delete("services/shop/targets/a.test:80").await.expect_error(422, "invalid-configuration");
    assert_eq!(refused.faults(), ["service shop  ambiguous-target"]);
}

#[tokio::test]
async fn who_changed_what_is_listed_the_newest_first() {
    let api = shop().await;
    api.put("services/blog", json!({})).await.expect(201);
    for service in ["shop", "blog", "shop"] {
        let address = format!("services/{service}/targets/10.0.0.9:80");
        api.put(&address, json!({"weight": 1})).await.expect(200);
        api.delete(&address).await.expect(204);
    }
    let page = api.get("target-changes?limit=1").await.expect(200);
    let change = &page.json()["items"][0];
    assert_eq!((&change["version"], &change["author"], change.get("member")), (&json!(6), &json!("test-admin"), None));
    assert!(change["created_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    let next = page.header("link").to_owned();
    let address = next.trim_start_matches('<').split('>').next().expect("an address");
    let page = api.call(Method::GET, address).send().await.expect(200).json();
    assert_eq!(page["items"][0]["member"], json!({"weight": 1}));
    let page = api.get("target-changes?service=blog").await.expect(200).json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn targets_are_shown_with_their_labels_on_pages() {
    let api = Api::start().await;
    let written = json!([{"url": "http://10.0.0.2:80", "labels": {"rack": "a"}}, {"url": "http://10.0.0.1:80"}]);
    api.put("services/shop", json!({"targets": written})).await.expect(201);
    let said = json!({"10.0.0.1:80": {"labels": {"rack": "b"}}, "10.0.0.3:80": {}, "[::1]:80": {}, "10.0.0.5:80": {}});
    api.patch("services/shop/targets", said).await.expect(200);
    let one = api.get("services/shop/targets/10.0.0.2:80").await.expect(200).json();
    assert_eq!(one["labels"], json!({"rack": "a"}));

    let mut address = format!("{GATEWAY}/services/shop/targets?limit=2");
    let mut seen = Vec::new();
    loop {
        let page = api.call(Method::GET, &address).send().await.expect(200);
        let body = page.json();
        let items = body["items"].as_array().expect("a list");
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| (item["url"].clone(), item["labels"]["rack"].clone())));
        if body["next_cursor"].is_null() {
            break;
        }
        page.header("link").trim_start_matches('<').split('>').next().expect("an address").clone_into(&mut address);
    }
    let expected = [
        ("10.0.0.2", json!("a")),
        ("10.0.0.1", json!("b")),
        ("10.0.0.3", Value::Null),
        ("10.0.0.5", Value::Null),
        ("[::1]", Value::Null),
    ];
    assert_eq!(seen, expected.map(|(host, rack)| (json!(format!("http://{host}:80")), rack)));
    // The last of a page may be gone when the next one is asked for.
    let rest = api.get("services/shop/targets?cursor=http://10.0.0.4:80").await.expect(200).json();
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(2));
    api.get("services/shop/targets?cursor=10.0.0.4").await.expect_error(400, "invalid-parameters");
}

#[tokio::test]
async fn a_dry_run_answers_as_the_write_would_and_writes_nothing() {
    let api = shop().await;
    let before = listed(&api).await;
    let one = "services/shop/targets/10.0.0.9:80?dry_run=true&wait=serving";
    let added = api.put(one, json!({"weight": 3})).await.expect(200);
    assert_eq!((version(&added), added.json()["weight"].clone()), (1, json!(3)));
    let drained =
        api.patch("services/shop/targets/10.0.0.1:80?dry_run=true", json!({"draining": true})).await.expect(200);
    assert_eq!(drained.json()["state"], "draining");
    let many = api.patch("services/shop/targets?dry_run=true", json!({"a:1": {}, "b:1": {}})).await.expect(200);
    assert_eq!((version(&many), many.json()["changed"].clone()), (2, json!(2)));
    api.put(one, json!({"weight": 1001})).await.expect_error(422, "invalid-configuration");
    api.delete("services/shop/targets/10.0.0.1:80?dry_run=true").await.expect_error(404, "unknown-target");
    assert_eq!(listed(&api).await, before);
    assert_eq!(version(&api.get("services/shop/targets").await), 0);
}

/// Writers who come together go to the store together, and each is told what holds for it.
#[tokio::test]
async fn writers_do_not_lose_each_others_changes() {
    let api = shop().await;
    let writes = (0..200).map(|number| {
        let address = format!("{GATEWAY}/services/shop/targets/10.0.1.{}:80", number % 50);
        let body = json!({"weight": number});
        let api = &api;
        async move { api.call(Method::PUT, &address).json(&body).send().await.expect(200).json() }
    });
    let answers = futures_util::future::join_all(writes).await;
    assert!(answers.iter().all(|answer| answer["origin"] == "added"));
    assert_eq!(listed(&api).await.len(), 52);
    let page = api.get("target-changes?limit=1000").await.expect(200).json();
    let versions: Vec<u64> = page["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| item["version"].as_u64().expect("a number"))
        .collect();
    assert_eq!(versions, (1..=200).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn without_nodes_waiting_ends_with_202() {
    let api = shop().await;
    let answer = api.put("services/shop/targets/10.0.0.9:80?wait=serving&timeout=10ms", json!({})).await.expect(202);
    assert_eq!((version(&answer), answer.json()["wait"]["state"].clone()), (1, json!("no-nodes")));
}
