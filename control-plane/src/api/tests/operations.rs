//! What holds for every operation in the table.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use super::harness::{ADMIN, Api, NODE};
use crate::api::openapi::document;
use crate::api::table::operations;

/// An address of the operation that leads to something, or at least to a handler.
fn address(path: &str) -> String {
    path.replace("/docs/lints/{code}", "/docs/lints/no-weight")
        .replace("{gateway}", "default")
        .replace("{name}", "some")
        .replace("{n}", "1")
        .replace("{code}", "internal")
        .replace("{file}", "index.css")
}

#[tokio::test]
async fn every_operation_needs_an_admin_token_or_says_nothing_secret() {
    let api = Api::start().await;
    let open = [
        "/",
        "/livez",
        "/readyz",
        "/version",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/",
        "/docs/{file}",
        "/docs/errors/{code}",
        "/docs/lints/{code}",
    ];
    for operation in operations() {
        let (method, path) = (operation.method.clone(), address(&operation.path));
        let send = |token: &str| {
            let token = if token.is_empty() { String::new() } else { format!("Bearer {token}") };
            api.call(method.clone(), &path).header("authorization", &token).send()
        };
        if open.contains(&&*operation.path) {
            assert!(send("").await.status.as_u16() < 400, "{method} {path}");
            continue;
        }
        let refused = send("").await.expect_error(401, "unauthenticated");
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
        send(NODE).await.expect_error(403, "forbidden");
        // Not read to its end: a stream of events has none.
        let reached = api.call(method.clone(), &path).begin().await;
        assert!(![401, 403, 405].contains(&reached.status.as_u16()), "{method} {path}: {}", reached.status);
        if reached.status == 404 {
            let answer = reached.finish().await.json();
            assert!(!answer["type"].as_str().expect("a type").contains("unknown-path"), "{method} {path}");
        }
    }
    assert_eq!(api.revision(), 0, "nothing was written on the way");
    let wrong = api.call(Method::GET, "/v1/gateways").header("authorization", "Bearer wrong");
    wrong.send().await.expect_error(401, "unauthenticated");
    api.call(Method::GET, "/v1/nothing").header("authorization", "").send().await.expect_error(401, "unauthenticated");
    api.call(Method::GET, "/v1/gateways")
        .header("authorization", "Basic YTpi")
        .send()
        .await
        .expect_error(401, "unauthenticated");
    api.call(Method::GET, "/v1/gateways").header("authorization", &format!("bearer {ADMIN}")).send().await.expect(200);
}

#[test]
fn the_document_is_whole() {
    let operations = operations();
    let document = document(&operations);
    let ids: BTreeSet<_> = operations.iter().map(|operation| operation.id.as_str()).collect();
    assert_eq!(ids.len(), operations.len(), "ids are unique");
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for operation in &operations {
        let described = &document["paths"][&operation.path][operation.method.as_str().to_lowercase()];
        assert!(!described["summary"].as_str().expect("a summary").is_empty(), "{}", operation.id);
        assert!(!operation.family.is_empty() && !operation.answers.is_empty(), "{}", operation.id);
    }
    assert!(schemas["Route"]["properties"]["name"].is_object(), "resources are shown with their name");
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

/// A change to the API shows in review.
#[test]
fn the_operations_are_as_reviewed() {
    let document = document(&operations());
    let paths = document["paths"].as_object().expect("paths");
    let mut lines = Vec::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let query: Vec<_> =
                parameters.filter(|one| one["in"] == "query").filter_map(|one| one["name"].as_str()).collect();
            let statuses: Vec<_> = operation["responses"].as_object().expect("answers").keys().cloned().collect();
            let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
            lines.push(format!("{} {path}{query} -> {}", method.to_uppercase(), statuses.join(" ")));
        }
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn the_documentation_needs_no_network() {
    let api = Api::start().await;
    let page = api.call(Method::GET, "/docs/").send().await.expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'self'"));
    let text = page.text();
    for file in
        text.split("src=\"").skip(1).chain(text.split("href=\"").skip(1)).filter_map(|rest| rest.split('"').next())
    {
        assert!(!file.contains("//"), "{file} is elsewhere");
        api.call(Method::GET, &format!("/docs/{}", file.trim_start_matches("./"))).send().await.expect(200);
    }
    let setup = api.call(Method::GET, "/docs/swagger-initializer.js").send().await.expect(200).text();
    assert!(setup.contains("/openapi.json") && !setup.contains("petstore"), "{setup}");
    assert_eq!(api.call(Method::GET, "/docs").send().await.expect(308).header("location"), "/docs/");
    assert_eq!(api.call(Method::GET, "/").send().await.expect(307).header("location"), "/docs/");
    api.call(Method::GET, "/docs/nothing.js").send().await.expect_error(404, "unknown-path");

    let explained = api.call(Method::GET, "/docs/errors/precondition-failed").send().await.expect(200).text();
    assert!(explained.contains("<code>If-Match</code>"), "{explained}");
    let unknown =
        api.call(Method::GET, "/docs/errors/precondition-faild").send().await.expect_error(404, "unknown-error");
    assert!(unknown.json()["detail"].as_str().expect("a detail").contains("did you mean `precondition-failed`"));
    for lint in model::lint::LINTS {
        let explained = api.call(Method::GET, &format!("/docs/lints/{}", lint.code)).send().await.expect(200).text();
        assert!(explained.contains(&format!("<code>{}</code>", lint.code)), "{explained}");
    }
    api.call(Method::GET, "/docs/lints/no-wait").send().await.expect_error(404, "unknown-lint");
}

#[tokio::test]
async fn probes_answer_without_a_token() {
    let api = Api::start().await;
    for (path, field, value) in
        [("/livez", "status", "ok"), ("/readyz", "status", "ok"), ("/version", "name", "sluice")]
    {
        let answer = api.call(Method::GET, path).header("authorization", "").send().await.expect(200);
        assert_eq!(answer.json()[field], value);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        api.call(Method::HEAD, path).header("authorization", "").send().await.expect(200);
    }
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let api = Api::start().await;
    let kept = api.call(Method::GET, "/livez").header("x-request-id", "from-the-client").send().await;
    assert_eq!(kept.header("x-request-id"), "from-the-client");
    for unfit in ["with space", "ümlaut", &"x".repeat(129)] {
        let made = api.call(Method::GET, "/livez").header("x-request-id", unfit).send().await;
        assert_eq!(made.header("x-request-id").len(), 36, "a uuid instead of {unfit}");
    }
}
