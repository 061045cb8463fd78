//! No answer of the API holds a secret: everything that it can say is searched.

use http::Method;
use serde_json::json;

use super::harness::{Api, GATEWAY};
use crate::api::table::operations;

/// What of a key in PEM form nobody else has.
fn essence(pem: &str) -> String {
    pem.lines().nth(1).expect("a key has lines").to_owned()
}

#[tokio::test]
async fn nothing_that_the_api_says_holds_a_secret() {
    let api = Api::start().await;
    let [first, second] = ["a.test", "b.test"].map(|name| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    let write = |(cert, key): &(String, String)| json!({ "cert": cert, "key": key });
    let mut said = Vec::new();
    said.push(api.put("certificates/some", write(&first)).await.expect(201).text());
    said.push(api.put("certificates/some?dry_run", write(&second)).await.text());
    said.push(api.put("certificates/some", write(&second)).await.expect(200).text());
    // Refused, each for something else.
    said.push(api.put("certificates/some", json!({ "cert": second.0, "key": first.1 })).await.text());
    said.push(api.put("certificates/some", json!({ "cert": second.0, "key": second.1, "kye": first.1 })).await.text());
    said.push(api.put("certificates/some", json!({ "cert": second.0, "key": [second.1] })).await.text());
    let file =
        json!({ "version": 1, "certificates": [{ "name": "some", "cert": first.0, "key": first.1 }] }).to_string();
    for action in ["config:diff", "config:validate", "config:apply?dry_run"] {
        said.push(api.file(action, &file).await.text());
    }
    let made = api.call(Method::POST, &format!("{GATEWAY}/join-tokens")).json(&json!({})).send().await.expect(201);
    let token = made.json()["token"].as_str().expect("it is shown once").to_owned();
    let secret = token.split('.').nth(1).expect("a secret").to_owned();

    for operation in operations().iter().filter(|operation| operation.method == Method::GET) {
        let path = operation.path.replace("{gateway}", "default").replace("{name}", "some").replace("{n}", "2");
        for accept in ["application/json", "application/yaml"] {
            let call = api.call(Method::GET, &path).header("accept", accept).header("last-event-id", "0");
            let mut answer = call.begin().await;
            // A stream of events has no end; what has happened until now comes at once.
            let is_endless = answer.headers.get("content-type").is_some_and(|form| form == "text/event-stream");
            said.push(match is_endless {
                true => String::from_utf8_lossy(&answer.piece().await.expect("events")).into_owned(),
                false => answer.finish().await.text(),
            });
        }
    }
    let said = said.join("\n");
    for seen in ["redacted:sha256:", "\"uses_left\"", "\"type\":\"revision\""] {
        assert!(said.contains(seen), "the search looks at nothing with {seen}");
    }
    for hidden in [essence(&first.1), essence(&second.1), secret] {
        assert!(!said.contains(&hidden), "a secret was said: …{}", &said[said.find(&hidden).unwrap_or(0)..][..80]);
    }
}
