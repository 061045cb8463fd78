//! The gateway's own error answers: RFC 9457 problems that say what the client can use and nothing internal.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use model::exchange::ResponseHead;
use model::rejection::Rejection;
use serde::Serialize;

use super::Reply;
use super::record::Record;
use crate::body::Body;
use crate::http1::Fault;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The members of RFC 9457 section 3.1, and two of our own.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
}

/// The answer for a request that was rejected.
pub fn reply(rejection: &Rejection, record: &mut Record) -> Reply {
    record.rejected(rejection);
    let body = problem(rejection, record.exchange.request_id().to_str().unwrap_or_default());
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in &rejection.fields {
        headers.append(name.clone(), value.clone());
    }
    let head = ResponseHead { status: rejection.status, headers };
    Reply { head, body: Body::full(body) }.without_body_for(&record.exchange.request.method)
}

/// The message for a client that did not get its head done in time.
pub fn slow_head() -> Bytes {
    let detail = "The head of the request did not arrive in time.";
    last_words(&Rejection::new(StatusCode::REQUEST_TIMEOUT, "header-too-slow", detail))
}

/// The message for a client whose head cannot be read.
pub fn unreadable(fault: Fault) -> Bytes {
    last_words(&Rejection::new(fault.status(), fault.code(), fault.detail()))
}

/// A whole message where there is no request to answer; the connection closes behind it.
fn last_words(rejection: &Rejection) -> Bytes {
    let body = problem(rejection, &uuid::Uuid::now_v7().to_string());
    let mut message = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        rejection.status,
        body.len()
    )
    .into_bytes();
    message.extend_from_slice(&body);
    message.into()
}

fn problem(rejection: &Rejection, request_id: &str) -> Bytes {
    let problem = Problem {
        r#type: format!("urn:sluice:problem:{}", rejection.code),
        title: rejection.status.canonical_reason().unwrap_or_default(),
        status: rejection.status.as_u16(),
        detail: &rejection.detail,
        code: rejection.code,
        request_id,
    };
    serde_json::to_vec(&problem).expect("a problem is plain data").into()
}
