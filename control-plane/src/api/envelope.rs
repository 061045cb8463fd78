//! What surrounds every request: its id, the token, what a defect answers, the header fields of every answer, the log line.

use std::any::Any;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::ApiState;
use super::error::{Error, FORBIDDEN, UNAUTHENTICATED};
use super::table::needs_token;
use crate::metrics::COUNTED;
use crate::token::Role;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids are replaced: they would only fill logs.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The outermost layer. Errors become text here, because only here the id of the request is known in all cases.
pub async fn surround(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut author = None;
    let mut response = match identify(&state, &path, request.headers()).await {
        Ok(identity) => {
            if let Some(identity) = identity {
                author = Some(identity.0.clone());
                request.extensions_mut().insert(identity);
            }
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    let error = response.extensions_mut().remove::<Error>();
    if let Some(error) = &error {
        let headers = std::mem::take(response.headers_mut());
        response = error.render(&id);
        for (name, value) in headers {
            if let Some(name) = name.filter(|name| !response.headers().contains_key(name)) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    COUNTED.answered(response.status().as_u16());
    finish(response.headers_mut(), &id);
    log(&Line { id: &id, method: &method, path: &path, author, error, started }, &response);
    response
}

/// Who calls: the name of the token.
#[derive(Clone, Debug)]
pub struct Identity(pub String);

async fn identify(state: &ApiState, path: &str, headers: &HeaderMap) -> Result<Option<Identity>, Error> {
    if !needs_token(path) {
        return Ok(None);
    }
    let refuse = |detail: &'static str, challenge: &'static str| {
        Error::new(&UNAUTHENTICATED, detail).header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    };
    let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((scheme, token)) = sent.and_then(|value| value.split_once(' ')) else {
        return Err(refuse("the request has no token", "Bearer realm=\"sluice\""));
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refuse("the token is not sent as `Bearer`", "Bearer realm=\"sluice\""));
    }
    match state.tokens.find(token.trim()).await.map_err(super::write::store_error)? {
        Some(found) if found.role == Role::Admin => Ok(Some(Identity(found.name))),
        Some(found) => Err(Error::new(&FORBIDDEN, format!("the token `{}` is for nodes", found.name))),
        None => Err(refuse("no such token is known", "Bearer realm=\"sluice\", error=\"invalid_token\"")),
    }
}

/// The caller's id if it is fit for logs, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits =
        |id: &&str| (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    sent.filter(fits).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// What every answer says. Nothing here is meant for other sites' pages, so there is no CORS.
fn finish(headers: &mut HeaderMap, id: &str) {
    headers.insert(REQUEST_ID, HeaderValue::from_str(id).expect("ids are visible ASCII"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

struct Line<'a> {
    id: &'a str,
    method: &'a Method,
    path: &'a str,
    author: Option<String>,
    error: Option<Error>,
    started: Instant,
}

/// One line for each write and for each defect; reads are not worth one.
fn log(line: &Line<'_>, response: &Response) {
    let status = response.status();
    let revision = response.headers().get(super::write::REVISION).and_then(|value| value.to_str().ok());
    let duration_ms = u64::try_from(line.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let author = line.author.as_deref().unwrap_or_default();
    let cause = line.error.as_ref().and_then(Error::hidden_cause).unwrap_or_default();
    if status.is_server_error() {
        tracing::error!(
            request_id = line.id, method = %line.method, path = line.path, status = status.as_u16(), author, cause, duration_ms,
            "the admin API failed to answer"
        );
    } else if response.headers().contains_key(super::targets::TARGETS_VERSION) {
        // Hundreds a second, and every one of them is listed by `target-changes`.
        tracing::debug!(
            request_id = line.id, method = %line.method, path = line.path, status = status.as_u16(), author, duration_ms,
            "the admin API answered about targets"
        );
    } else if !line.method.is_safe() {
        tracing::info!(
            request_id = line.id, method = %line.method, path = line.path, status = status.as_u16(), author, revision, duration_ms,
            "the admin API answered a write"
        );
    }
}

/// A panic is a defect of one request and of no other.
#[expect(clippy::needless_pass_by_value, reason = "what catches panics gives it away")]
pub fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("panic: {}", text.unwrap_or("without a message"))).into_response()
}
