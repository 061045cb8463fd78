//! Whole files: all or nothing, and back again.

use http::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Api, GATEWAY};
use super::writes::certificate;

const SHOP: &str = "\
version: 1
services:
  - { name: orders, url: \"http://127.0.0.1:9000\" }
  - { name: carts, url: \"http://127.0.0.1:9001\", labels: { team: shop } }
policies:
  - { name: ids, type: request-id, apply_to: everything }
routes:
  - { name: orders, paths: [/orders], service: orders }
  - { name: carts, paths: [/carts], backends: [{ service: carts, weight: 3 }, { service: orders }] }
consumers:
  - name: acme
    credentials: [{ type: key-auth, name: main, key: a-key-of-some-length }]
";

fn actions(answer: &Answer) -> Vec<String> {
    let list = answer.json()["changes"].as_array().cloned().expect("changes");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().map(|one| ["action", "kind", "name"].map(|field| word(&one[field])).join(" ")).collect()
}

#[tokio::test]
async fn a_file_is_one_revision() {
    let api = Api::start().await;
    let valid = api.file("config:validate", SHOP).await.expect(200).json();
    assert_eq!(valid, json!({ "revision": 0, "create": 6, "update": 0, "delete": 0 }));
    assert_eq!(actions(&api.file("config:diff", SHOP).await.expect(200)).len(), 6);
    assert_eq!(actions(&api.file("config:apply?dry_run=true", SHOP).await.expect(200)).len(), 6);
    assert_eq!(api.revision(), 0);

    let applied = api.file("config:apply?message=first", SHOP).await.expect(200);
    assert_eq!((applied.revision(), &applied.json()["is_new"]), (1, &json!(true)));
    assert_eq!(actions(&applied)[0], "create service carts");
    let again = api.file("config:apply", SHOP).await.expect(200).json();
    assert_eq!((&again["revision"], &again["is_new"], &again["changes"]), (&json!(1), &json!(false), &json!([])));
}

#[tokio::test]
async fn what_is_hardly_meant_is_told_with_its_place_and_written_all_the_same() {
    let api = Api::start().await;
    api.file("config:apply", SHOP).await.expect(200);
    let text = "version: 1\nroutes:\n  - { name: again, paths: [/orders], service: carts }\n";
    let expected = "no request can reach this route: `orders` comes first wherever it matches";
    for action in ["config:validate", "config:diff", "config:apply?dry_run=true", "config:apply"] {
        let warnings = api.file(action, text).await.expect(200).json()["warnings"].clone();
        assert_eq!(warnings.as_array().map(Vec::len), Some(1), "{action}");
        assert_eq!((&warnings[0]["code"], &warnings[0]["name"]), (&json!("unreachable-route"), &json!("again")));
        assert_eq!((&warnings[0]["message"], &warnings[0]["location"]["line"]), (&json!(expected), &json!(3)));
    }
    let spec = json!({"paths": ["/x"], "backends": [{"service": "carts", "weight": 0}]});
    let answer = api.put("routes/x", spec).await.expect(201);
    let warning = "no-weight x: every backend has weight 0: requests are answered with 500";
    assert_eq!(answer.header("sluice-warning"), warning);
    let tie =
        "version: 1\nroutes:\n  - { name: a, paths: [/y], respond: {} }\n  - { name: b, paths: [/y], respond: {} }\n";
    let refused = api.file("config:apply", tie).await.expect_error(422, "invalid-configuration");
    assert_eq!(refused.faults(), ["route a /paths/0 tied-routes"]);
}

#[tokio::test]
async fn a_request_is_explained_by_any_revision() {
    let api = Api::start().await;
    api.file("config:apply", SHOP).await.expect(200);
    api.delete("routes/orders").await.expect(204);
    let explain = async |address: &str, question: Value| {
        api.call(Method::POST, &format!("{GATEWAY}/{address}")).json(&question).send().await
    };
    let question = json!({"url": "http://shop.example/orders//7"});
    let now = explain("explain", question.clone()).await.expect(200);
    assert_eq!((now.revision(), &now.json()["route"]), (2, &Value::Null));
    let before = explain("explain?revision=1", question.clone()).await.expect(200);
    assert_eq!((before.revision(), &before.json()["route"]), (1, &json!("orders")));
    assert_eq!(before.json()["path"]["steps"][2]["path"], "/orders/7");
    assert_eq!(before.json()["outcomes"][0]["policies"][0]["from"], "everything");
    explain("explain?revision=9", question).await.expect_error(404, "unknown-revision");
    let refused = explain("explain", json!({"url": "orders", "listener": "x"})).await;
    assert_eq!(refused.expect_error(422, "invalid-question").faults(), ["- - /url invalid-value"]);
    assert_eq!(api.revision(), 2, "nothing is written");
}

#[tokio::test]
async fn a_prune_that_takes_most_away_has_to_be_meant() {
    let api = Api::start().await;
    let services = |count: usize| {
        let list: String = (0..count).map(|n| format!("  - {{ name: s{n}, url: 'http://a:1' }}\n")).collect();
        format!("version: 1\nservices:\n{list}")
    };
    api.file("config:apply", &format!("{}routes:\n  - {{ name: r, service: s9 }}\n", services(10))).await.expect(200);
    let few = services(3);
    let refused = api.file("config:apply?prune=true", &few).await.expect_error(409, "mass-delete");
    let told = "this would remove 8 of 11 resources: 7 services, 1 route; if it is meant, allow a mass delete";
    assert_eq!(refused.json()["detail"], told);
    assert_eq!(api.revision(), 1);
    api.file("config:apply?prune=true&dry_run=true", &few).await.expect(200);
    api.file("config:apply", &few).await.expect(200);
    // Half of eleven and less is not most of them.
    api.file("config:apply?prune=true", &services(6)).await.expect(200);
    // Of fewer than ten, all but one may go.
    api.file("config:apply?prune=true", &services(1)).await.expect(200);
    api.file("config:apply", &services(10)).await.expect(200);
    api.file("config:apply?prune=true&allow_mass_delete=true", &few).await.expect(200);
}

#[tokio::test]
async fn what_a_file_does_not_mention_stays_unless_it_prunes() {
    let api = Api::start().await;
    api.file("config:apply", SHOP).await.expect(200);
    let part = "version: 1\nservices: [{ name: carts, url: \"http://127.0.0.1:9002\" }]\n";
    assert_eq!(actions(&api.file("config:diff", part).await.expect(200)), ["update service carts"]);
    let pruned = api.file("config:diff?prune=true", part).await.expect(200);
    assert_eq!(actions(&pruned).len(), 6);
    assert_eq!(pruned.json()["changes"][0]["action"], "update");
    api.file("config:apply?prune=true", part).await.expect(200);
    assert_eq!(api.get("services").await.expect(200).json()["items"].as_array().expect("items").len(), 1);
    assert!(api.get("routes").await.expect(200).json()["items"].as_array().expect("items").is_empty());
    api.file("config:apply?prune=true", "version: 1\n").await.expect_error(409, "empty-prune");
    assert_eq!(api.file("config:apply", "version: 1\n").await.expect(200).json()["is_new"], false);
}

#[tokio::test]
async fn an_export_changes_nothing_when_it_is_applied() {
    let api = Api::start().await;
    api.file("config:apply", SHOP).await.expect(200);
    let (cert, key) = certificate();
    api.put("certificates/shop", json!({ "cert": cert, "key": key })).await.expect(201);
    let listener =
        json!({ "bind": "127.0.0.1:8443", "tls": { "certificates": ["shop"] }, "description": "costs ${env:NOTHING}" });
    api.put("listeners/secure", listener).await.expect(201);

    let yaml = api.get("config").await.expect(200);
    assert_eq!((yaml.header("content-type"), yaml.revision()), ("application/yaml", 3));
    assert!(!yaml.text().contains("PRIVATE KEY") && !yaml.text().contains("a-key-of-some-length"));
    let diff = api.file("config:diff?prune=true", &yaml.text()).await.expect(200);
    assert_eq!(diff.json()["changes"], json!([]), "{}", diff.text());
    assert_eq!(api.file("config:apply?prune=true&base=3", &yaml.text()).await.expect(200).json()["is_new"], false);

    let address = format!("{GATEWAY}/config");
    let export = api.call(Method::GET, &address).header("accept", "application/json").send().await.expect(200);
    assert_eq!(export.header("content-type"), "application/json");
    let apply = format!("{GATEWAY}/config:diff?prune=true");
    let diff = api.call(Method::POST, &apply).json(&export.json()).send().await.expect(200);
    assert_eq!(diff.json()["changes"], json!([]), "{}", diff.text());
    // However it is indented.
    let tabs = export.text().replace("  ", "\t");
    let call = api.call(Method::POST, &apply).header("content-type", "application/json").body(tabs);
    assert_eq!(call.send().await.expect(200).json()["changes"], json!([]));
    api.call(Method::GET, &address).header("accept", "text/html").send().await.expect_error(406, "not-acceptable");
}

#[tokio::test]
async fn every_problem_of_a_file_is_told_with_its_place() {
    let api = Api::start().await;
    let broken = "\
version: 1
services:
  - { name: orders, url: \"http://127.0.0.1:9000\", timeout: 3s }
  - { name: Orders, url: \"ftp://x\" }
routes:
  - { name: a, paths: [/a], service: order }
  - { name: a, paths: [b], service: orders }
routez: []
consumers:
  - { name: c, credentials: [{ type: key-auth, name: main, key: \"${env:HOME}\" }] }
certificates:
  - { name: d, cert_file: /etc/hostname, key: \"redacted:sha256:00\" }
";
    let answer = api.file("config:apply", broken).await.expect_error(422, "invalid-configuration");
    let errors = answer.json()["errors"].as_array().cloned().expect("errors");
    let found: Vec<_> = errors
        .iter()
        .map(|error| {
            let word = |field: &str| error[field].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", error["location"]["line"], word("kind"), word("name"), word("code"))
        })
        .collect();
    for expected in [
        "3 service orders unknown-field",
        "4 service Orders invalid-name",
        "4 service Orders invalid-value",
        "6 route a unknown-reference",
        "7 route a duplicate-name",
        "7 route a invalid-path",
        "8 - - unknown-kind",
        "10 consumer c unknown-variable",
        "12 certificate d unreadable-file",
    ] {
        assert!(found.iter().any(|line| line == expected), "{expected} in {found:#?}");
    }
    assert!(errors.iter().all(|error| error["location"]["file"] == "body"), "{errors:#?}");
    assert!(!answer.text().contains("/root"), "nothing of this machine is told");

    let reference = "version: 1\nroutes:\n  - name: a\n    service: nobody\n";
    let late = api.file("config:validate", reference).await.expect_error(422, "invalid-configuration");
    assert_eq!(late.json()["errors"][0]["location"]["line"], 4, "{}", late.text());
    let mark = "version: 1\ncertificates:\n  - name: a\n    cert: x\n    key: redacted:sha256:00\n";
    let mark = api.file("config:apply", mark).await.expect_error(422, "invalid-configuration");
    assert!(mark.faults().contains(&"certificate a /key redacted-value".to_owned()), "{}", mark.text());
    assert_eq!(mark.json()["errors"][0]["location"]["line"], 5);
    let syntax = api.file("config:apply", "version: 1\nroutes: [\n").await.expect_error(400, "invalid-body");
    assert!(syntax.json()["errors"][0]["location"]["line"].is_number(), "{}", syntax.text());
    assert_eq!(api.revision(), 0);
}

#[tokio::test]
async fn files_with_a_base_are_refused_when_the_base_moved() {
    let api = Api::start().await;
    api.file("config:apply?base=0", SHOP).await.expect(200);
    for action in ["apply", "diff", "validate"] {
        let conflict = api.file(&format!("config:{action}?base=0"), SHOP).await.expect_error(409, "revision-conflict");
        assert_eq!(conflict.json()["revision"], 1);
    }
    let call = api.call(Method::POST, &format!("{GATEWAY}/config:apply")).header("content-type", "text/plain");
    call.body(SHOP).send().await.expect_error(415, "unsupported-media-type");
}

/// Whatever is sent, the answer is one that the API describes.
#[tokio::test]
async fn garbage_is_never_a_500() {
    let api = Api::start().await;
    api.file("config:apply", SHOP).await.expect(200);
    let random = uuid::Uuid::now_v7;
    let words = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "name",
        "a",
        "\n",
        "  ",
        "- ",
        "services",
        "routes",
        "version: 1",
        "null",
        "1e999",
        "&a",
        "*a",
        "!!binary",
        "\u{0}",
        "\u{feff}",
        "|",
        ">",
        "\t",
        "---",
    ];
    for round in 0..100 {
        let mut body: Vec<u8> = Vec::new();
        for byte in random().into_bytes().into_iter().chain(random().into_bytes()) {
            match words.get(usize::from(byte) % (words.len() + 4)) {
                Some(word) => body.extend(word.as_bytes()),
                None => body.push(byte),
            }
        }
        let shown = String::from_utf8_lossy(&body).into_owned();
        let calls = [
            (Method::POST, "config:apply", "application/yaml"),
            (Method::POST, "config:diff", "application/json"),
            (Method::PUT, "routes/orders", "application/json"),
            (Method::PATCH, "routes/orders", "application/merge-patch+json"),
        ];
        let (method, address, content_type) = calls[round % 4].clone();
        let call = api.call(method, &format!("{GATEWAY}/{address}")).header("content-type", content_type);
        let answer = call.body(body).send().await;
        assert!(answer.status.as_u16() < 500, "{shown:?}: {answer:?}");
        assert!(!answer.status.is_client_error() || answer.header("content-type") == "application/problem+json");
    }
}
