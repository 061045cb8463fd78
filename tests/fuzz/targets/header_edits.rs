//! Edits of header fields: what is written is refused or done to the letter, and nothing else is done.
//!
//! The first line is the edits as JSON, each other line a field of a request.

#![no_main]

use std::net::SocketAddr;
use std::rc::Rc;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use model::exchange::{Client, Exchange, RequestHead, Scheme, Time};
use model::fields::Fields;
use model::policy::PolicyKind;
use model::snapshot::Snapshot;
use serde_json::{Value, json};

type Lines = Vec<(String, Vec<u8>)>;

/// What one connection or the framing of a message depends on.
const RESERVED: [&str; 8] =
    ["host", "connection", "keep-alive", "te", "trailer", "upgrade", "content-length", "transfer-encoding"];

fuzz_target!(|text: &str| {
    let (edits, fields) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(edits) = serde_json::from_str::<Value>(edits) else { return };
    let kind = PolicyKind::find("headers").expect("it is in the table");
    let Ok(policy) = kind.compile(&json!({ "request": edits }), None) else { return };
    let mut headers = Fields::default();
    let mut expected = Lines::new();
    for (name, value) in fields.lines().filter_map(|line| line.split_once(": ")) {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else {
            continue;
        };
        headers.append(&name, &value);
        expected.push((name.to_string(), value.as_bytes().to_vec()));
    }
    let target = PathAndQuery::from_static("/");
    let request = RequestHead { method: Method::GET, host: "".into(), target, headers };
    let client = Client { address: SocketAddr::from(([192, 0, 2, 1], 1)), scheme: Scheme::Http };
    let time = Time { monotonic_ns: 0, unix_ms: 0 };
    let mut exchange = Exchange::new(Rc::new(Snapshot::default()), request, client, time, 0);
    let _ = policy.on_request(&mut exchange);
    let line = |(name, value): (&[u8], &[u8])| (String::from_utf8_lossy(name).into_owned(), value.to_vec());
    let mut made: Lines = exchange.request.headers.iter().map(line).collect();
    assert!(made.iter().all(|(_, value)| !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))));

    // The same, done one after the other on a list.
    let pairs = |what: &str| -> Lines {
        let pairs = edits.get(what).and_then(Value::as_object).into_iter().flatten();
        pairs.map(|(name, value)| (name.to_lowercase(), value.as_str().unwrap_or_default().into())).collect()
    };
    let removed = edits.get("remove").and_then(Value::as_array).into_iter().flatten();
    let removed: Vec<String> = removed.filter_map(|name| Some(name.as_str()?.to_lowercase())).collect();
    let changed: Vec<String> = [pairs("set"), pairs("add")].concat().into_iter().map(|(name, _)| name).collect();
    let mut edited = removed.iter().chain(&changed);
    assert!(
        edited.all(|name| !RESERVED.contains(&&**name) && !name.starts_with("proxy-")),
        "a field of the connection"
    );
    expected.retain(|(name, _)| !removed.contains(name));
    for (name, value) in pairs("set") {
        expected.retain(|(known, _)| *known != name);
        expected.push((name, value));
    }
    expected.extend(pairs("add"));
    // The order of fields of different names does not count.
    expected.sort_by(|(one, _), (other, _)| one.cmp(other));
    made.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(made, expected);
});
