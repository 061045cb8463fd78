//! The gateway's own error answers: RFC 9457 problems that say what the client can use and nothing internal, and a
//! status of gRPC for who calls that way.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use model::exchange::ResponseHead;
use model::fields::Fields;
use model::rejection::Rejection;
use percent_encoding::{AsciiSet, CONTROLS};
use serde::Serialize;

use super::record::Record;
use super::{Reply, grpc};
use crate::body::Body;
use crate::http1::Fault;

/// What has to be escaped in a message of gRPC: all but printable ASCII, and the escape itself.
const NOT_IN_A_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

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
    if record.speaks_grpc() {
        return grpc_reply(rejection);
    }
    let body = problem(rejection, record.exchange.request_id().to_str().unwrap_or_default());
    let mut headers = Fields::default();
    headers.append(&CONTENT_TYPE, &PROBLEM_JSON);
    headers.append(&CACHE_CONTROL, &HeaderValue::from_static("no-store"));
    for (name, value) in &rejection.fields {
        headers.append(name, value);
    }
    let head = ResponseHead { status: rejection.status, headers };
    Reply { head, body: Body::full(body) }.without_body_for(&record.exchange.request.method)
}

/// The same for a gRPC call: a response of trailers only, as its clients understand no other.
fn grpc_reply(rejection: &Rejection) -> Reply {
    let mut headers = Fields::default();
    headers.append(&CONTENT_TYPE, &HeaderValue::from_static("application/grpc"));
    headers.append(&grpc::STATUS, &HeaderValue::from(grpc_status(rejection)));
    // Bytes that could not stand in a field are escaped, and the percent sign (gRPC over HTTP/2, Status-Message).
    let message = percent_encoding::utf8_percent_encode(&rejection.detail, NOT_IN_A_MESSAGE).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.append(&grpc::MESSAGE, &message);
    }
    for (name, value) in &rejection.fields {
        headers.append(name, value);
    }
    Reply { head: ResponseHead { status: StatusCode::OK, headers }, body: Body::empty() }
}

/// The status code of gRPC that means for a client what the rejection means.
fn grpc_status(rejection: &Rejection) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAUTHENTICATED: u16 = 16;
    match rejection.status {
        // GRPCRoute, BackendRefs.
        _ if rejection.code == "no-backend" => grpc::UNAVAILABLE,
        StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
        StatusCode::FORBIDDEN => PERMISSION_DENIED,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => UNIMPLEMENTED,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            RESOURCE_EXHAUSTED
        }
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => grpc::DEADLINE_EXCEEDED,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => grpc::UNAVAILABLE,
        status if status.is_client_error() => INVALID_ARGUMENT,
        _ => INTERNAL,
    }
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
    let mut line = serde_json::to_vec(&problem).expect("a problem is plain data");
    // Answers do not run together in a terminal.
    line.push(b'\n');
    line.into()
}
