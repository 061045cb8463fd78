//! Everything that this API answers instead of what was asked for: one table of sorts, one shape on the wire
//! (RFC 9457), and the pages in `/docs/errors/` follow from the same table.
//!
//! A handler returns an [`Error`]; [`super::envelope`] writes it out, because only there the request id is known.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use model::problem::{Fault, Location, Problem, Problems};
use schemars::JsonSchema;
use serde::Serialize;

use super::json;

/// A sort of error: what a client may tell errors apart by.
#[derive(Debug)]
pub struct Sort {
    /// Last part of the `type`, stable.
    pub code: &'static str,
    pub status: StatusCode,
    /// One line, the same for every error of the sort.
    pub title: &'static str,
    /// What it means and what to do, for the page that `type` leads to.
    pub explanation: &'static str,
}

macro_rules! sorts {
    ($($id:ident $code:literal $status:ident $title:literal $explanation:literal)*) => {
        $(pub static $id: Sort =
            Sort { code: $code, status: StatusCode::$status, title: $title, explanation: $explanation };)*

        /// Every sort there is.
        pub static SORTS: &[&Sort] = &[$(&$id),*];
    };
}

sorts! {
    INVALID_BODY "invalid-body" BAD_REQUEST "The body cannot be read"
        "The body is no JSON or YAML. `errors` names the line and the column where reading stopped. Nothing was changed."
    INVALID_PARAMETERS "invalid-parameters" BAD_REQUEST "A parameter is wrong"
        "A query parameter or a header field is unknown, or its value is not possible. `errors` names each of them and what \
         is possible. Nothing was changed."
    INVALID_QUESTION "invalid-question" UNPROCESSABLE_ENTITY "The request that is asked about cannot be understood"
        "The description of a request that is to be explained has fields that are unknown or not possible, or names a listener \
         that is not there. `errors` names each of them."
    UNAUTHENTICATED "unauthenticated" UNAUTHORIZED "A valid token is needed"
        "Send `Authorization: Bearer <token>`. The control plane made an admin token when it started for the first time and \
         wrote it into the file `admin-token` in its data folder; only its hash is stored."
    FORBIDDEN "forbidden" FORBIDDEN "This token may not do that"
        "The token is valid, but its role is not `admin`. Tokens of nodes open the configuration stream and nothing else."
    UNKNOWN_PATH "unknown-path" NOT_FOUND "There is nothing at this address"
        "No operation has this path. `/openapi.json` lists all of them, and `/docs` lets you try them."
    UNKNOWN_GATEWAY "unknown-gateway" NOT_FOUND "There is no such gateway"
        "`GET /v1/gateways` lists those that exist; `PUT /v1/gateways/{gateway}` creates one. The gateway `default` is always there."
    UNKNOWN_RESOURCE "unknown-resource" NOT_FOUND "There is no such resource"
        "The gateway has no resource of this kind and name. The list of the kind shows which there are. To create it, use PUT."
    UNKNOWN_REVISION "unknown-revision" NOT_FOUND "There is no such revision"
        "Revisions are counted from 1 in each gateway; `GET /v1/gateways/{gateway}/revisions` lists them. Revision 0 is the empty one \
         that everything starts from."
    FORGOTTEN_REVISION "forgotten-revision" GONE "The revision is not kept any more"
        "Of each gateway the newest revisions are kept, by default 100,000 of them; `sluice control-plane --keep-revisions` says how \
         many, and `--keep-revisions-for` how long. `detail` names the oldest that is kept, which is as far as one can look and go back."
    UNKNOWN_TARGET "unknown-target" NOT_FOUND "There is no such target"
        "The service has no target of this name, or nothing was said about it that could be taken back. \
         `GET /v1/gateways/{gateway}/services/{service}/targets` lists its targets. A target that is to be added is written with PUT."
    UNKNOWN_NODE "unknown-node" NOT_FOUND "There is no such node"
        "No node of this id has joined the gateway with a join token. `GET /v1/gateways/{gateway}/nodes` lists the nodes; those that \
         share a token on loopback cannot be revoked one by one."
    UNKNOWN_ROLLOUT "unknown-rollout" NOT_FOUND "There is no such rollout"
        "The revision went to all nodes at once, or the gateway has no strategy for its changes. \
         `GET /v1/gateways/{gateway}/rollouts` lists the revisions that went out in steps."
    UNKNOWN_JOIN_TOKEN "unknown-join-token" NOT_FOUND "There is no such join token"
        "A join token is called by its id, not by its secret. `GET /v1/gateways/{gateway}/join-tokens` lists those that are known: \
         a month after its end a token is forgotten."
    UNKNOWN_ERROR "unknown-error" NOT_FOUND "There is no such error code"
        "The pages below `/docs/errors/` explain the codes in the `type` of error answers."
    UNKNOWN_LINT "unknown-lint" NOT_FOUND "There is no such code of a warning"
        "The pages below `/docs/lints/` explain the codes of warnings about configurations."
    METHOD_NOT_ALLOWED "method-not-allowed" METHOD_NOT_ALLOWED "This address has no such method"
        "The `Allow` field of the answer lists the methods that are possible there."
    NOT_ACCEPTABLE "not-acceptable" NOT_ACCEPTABLE "This cannot be had in the form asked for"
        "The `Accept` field names no media type that is possible here: an export is `application/yaml` or `application/json`."
    BODY_TIMEOUT "body-timeout" REQUEST_TIMEOUT "The body did not arrive in time"
        "The request was started, but its body did not arrive within 30 seconds. Nothing was changed; send it again."
    GATEWAY_NOT_EMPTY "gateway-not-empty" CONFLICT "The gateway is not empty"
        "A gateway is removed with its whole history, so only one without resources can be. Remove them first; the revisions \
         that led there go with the gateway."
    GATEWAY_KEPT "gateway-kept" CONFLICT "This gateway is always there"
        "The gateway `default` exists from the start and cannot be removed; its resources can."
    AUTHORITY_KEPT "authority-kept" CONFLICT "The authority stays as it is"
        "Another authority takes the place of one in two steps, one pair of steps at a time: `POST /v1/authority:rotate`, and, when \
         every certificate of the one before has ended, `POST /v1/authority:retire`. One that comes from files is changed there."
    REVISION_CONFLICT "revision-conflict" CONFLICT "The configuration has changed in between"
        "The change was based on a revision (`base`) that is no longer the newest one, which `revision` names. Nothing was changed. \
         Look at what happened with `GET revisions/{n}/diff`, base the change on the newest revision, and send it again."
    REFUSED_BY_NODE "refused-by-node" CONFLICT "A node refused the new revision"
        "The revision in `revision` was checked and stored, but a node cannot serve it, for the reason in `errors`: an address \
         that another program uses, for example. That node goes on serving what it had. Correct the resource, or roll back."
    ROLLOUT_UNDER_WAY "rollout-under-way" CONFLICT "A revision is being rolled out"
        "The newest revision goes out in steps, and has not reached all nodes. Nothing was changed. `sluice rollout watch` waits for \
         its end, `sluice rollout promote` gives it to all nodes now, and `sluice rollout abort` takes it back. A strategy with \
         `on_change: queue` lets changes wait as long as their `timeout` says. In an emergency, `rollout=skip` publishes past it."
    ROLLED_BACK "rolled-back" CONFLICT "The revision was rolled back"
        "The revision in `revision` was stored and went out in steps, and did not hold: its gates failed, or somebody aborted it. \
         What was before was published as a new revision. `GET rollouts/{n}` has the reason, and what the nodes had to show."
    ROLLOUT_OVER "rollout-over" CONFLICT "The rollout is over"
        "All nodes have the revision, it was rolled back, or another one was published since. `POST revisions/{n}:rollback` goes back \
         to an earlier one."
    EMPTY_PRUNE "empty-prune" CONFLICT "This would remove everything"
        "The file holds no resource, and `prune` removes whatever a file does not hold: most likely the wrong file was sent. \
         Nothing was changed. Who really wants an empty gateway removes its resources one by one."
    MASS_DELETE "mass-delete" CONFLICT "This would remove most of the configuration"
        "There are ten resources or more, the file was applied with `prune`, and more than half of them would be removed: often \
         that is a wrong file, or a wrong gateway. Nothing was changed. `config:diff` shows what would be; if it is meant, \
         say `allow_mass_delete=true`, or `sluice apply --prune --allow-mass-delete`."
    TOO_MANY_TARGETS "too-many-targets" CONFLICT "Something would be said about too many targets"
        "Beside the configuration something may be said about 10,000 targets of a service and 100,000 of a gateway. Nothing was \
         changed. Write targets that seldom change into the service, and take back what is said about those that are gone."
    PRECONDITION_FAILED "precondition-failed" PRECONDITION_FAILED "The resource is not the one you saw"
        "`If-Match` or `If-None-Match` did not hold: someone changed, created or removed the resource in between. Nothing was \
         changed. Get it again, repeat the change on what you got, and send it with the new `ETag`."
    TOO_LARGE "too-large" PAYLOAD_TOO_LARGE "The body is too large"
        "A single resource may have 1 MiB, a file for `config:apply` and its companions 64 MiB. Apply a larger configuration in several files."
    UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The body has the wrong media type"
        "Resources are sent as `application/json`, patches also as `application/merge-patch+json`, files as `application/yaml` or \
         `application/json`; none of them compressed. `curl --json @file` or `-H 'Content-Type: …'` says so."
    INVALID_CONFIGURATION "invalid-configuration" UNPROCESSABLE_ENTITY "The configuration would not hold"
        "`errors` lists every problem: the kind and name of the resource, a JSON pointer to the field, what is wrong and what to do \
         about it. Nothing was changed, and traffic does not notice."
    INTERNAL "internal" INTERNAL_SERVER_ERROR "Something went wrong inside the control plane"
        "This is a defect. The log of the control plane tells more under the `request_id` of the answer; please report it. \
         Whether a write took effect tells `GET revisions`."
    TOO_MANY_WATCHERS "too-many-watchers" SERVICE_UNAVAILABLE "Too many clients watch already"
        "Streams of events are for few: people, pipelines and programs that tell others on. Close one that nobody reads, or ask another \
         replica of the control plane."
    STORE_UNAVAILABLE "store-unavailable" SERVICE_UNAVAILABLE "The database does not answer"
        "Nothing was changed, or the answer got lost: `GET revisions` tells once the database is back. Nodes go on serving. \
         Send it again after the time in `Retry-After`."
}

/// What a client is told.
#[derive(Clone, Debug)]
pub struct Error {
    sort: &'static Sort,
    detail: Cow<'static, str>,
    errors: Problems,
    revision: Option<u64>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

/// An error as it is sent, `application/problem+json`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorView<'a> {
    /// Where this sort of error is explained, on this control plane.
    pub r#type: String,
    /// The sort of error in one line.
    pub title: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
    /// The same as in the field `X-Request-Id` and in the log.
    pub request_id: &'a str,
    /// The revision that is in the way, or the one that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Every single fault.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub errors: &'a [Problem],
}

impl Error {
    #[must_use]
    pub fn new(sort: &'static Sort, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { sort, detail: detail.into(), errors: Vec::new(), revision: None, headers: Vec::new(), cause: None }
    }

    /// A configuration that does not hold.
    #[must_use]
    pub fn invalid(errors: Problems) -> Self {
        let detail = match &*errors {
            [only] => only.to_string(),
            many => format!("{} problems stand in the way", many.len()),
        };
        Self::new(&INVALID_CONFIGURATION, detail).errors(errors)
    }

    /// The database is away. What it said is logged, not sent.
    #[must_use]
    pub fn store(cause: impl std::fmt::Display) -> Self {
        Self::new(&STORE_UNAVAILABLE, "the database did not answer, or answered with an error")
            .header(RETRY_AFTER, HeaderValue::from_static("2"))
            .cause(cause)
    }

    /// A defect. What it was is logged, not sent.
    #[must_use]
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(&INTERNAL, "").cause(cause)
    }

    #[must_use]
    pub fn errors(mut self, errors: Problems) -> Self {
        self.errors = errors;
        self
    }

    #[must_use]
    pub fn revision(mut self, revision: u64) -> Self {
        self.revision = Some(revision);
        self
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    #[must_use]
    pub fn cause(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    #[must_use]
    pub fn sort(&self) -> &'static Sort {
        self.sort
    }

    /// What only the log is told.
    #[must_use]
    pub fn hidden_cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The answer as it is sent.
    #[must_use]
    pub fn render(&self, request_id: &str) -> Response {
        let view = ErrorView {
            r#type: format!("/docs/errors/{}", self.sort.code),
            title: self.sort.title,
            status: self.sort.status.as_u16(),
            detail: &self.detail,
            request_id,
            revision: self.revision,
            errors: &self.errors,
        };
        let body = json::line(&view).expect("errors are plain data");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.sort.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

impl IntoResponse for Error {
    /// The status alone; [`super::envelope`] finds the error in the extensions and writes it out.
    fn into_response(self) -> Response {
        let mut response = self.sort.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// A fault in what is no resource: a parameter, a header field, the body itself.
#[must_use]
pub fn fault(pointer: &str, code: &'static str, message: impl Into<String>) -> Problem {
    Fault::new(pointer, code, message).into()
}

/// A body that is not JSON, or says a thing twice, with the place where reading it stopped.
#[must_use]
pub fn invalid_json(text: &[u8], error: &serde_json::Error) -> Error {
    let whole = error.to_string();
    let message = whole.rfind(" at line ").map_or(whole.as_str(), |end| &whole[..end]);
    let (line, column) = (error.line().max(1), error.column().max(1));
    let message = if error.is_data() { message.to_owned() } else { format!("the body is not JSON: {message}") };
    let mut problem = fault("", "invalid-json", message);
    problem.location = Some(Location {
        file: "body".to_owned(),
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
        excerpt: excerpt(text, line, column),
    });
    let detail = format!("{} (line {line}, column {column})", problem.message);
    Error::new(&INVALID_BODY, detail).errors(vec![problem])
}

/// The part of a line around `column`, with a marker below it, as in problems of files.
fn excerpt(text: &[u8], line: usize, column: usize) -> String {
    const BEFORE: usize = 60;
    const AFTER: usize = 20;
    let written = text.split(|byte| *byte == b'\n').nth(line - 1).unwrap_or_default();
    let start = column.saturating_sub(BEFORE);
    let written = String::from_utf8_lossy(written);
    let printable = written.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = printable.skip(start).take(BEFORE + AFTER).collect();
    let shown = shown.trim_end();
    let indent = " ".repeat((column - 1).saturating_sub(start).min(shown.chars().count()));
    let margin = " ".repeat(line.to_string().len());
    format!("{line} | {shown}\n{margin} | {indent}^")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let codes: BTreeSet<_> = SORTS.iter().map(|sort| sort.code).collect();
        assert_eq!(codes.len(), SORTS.len());
        assert!(SORTS.iter().all(|sort| sort.status.is_client_error() || sort.status.is_server_error()));
    }

    #[test]
    fn broken_json_is_shown_with_its_place() {
        let text = b"{\n  \"hosts\": [,]\n}";
        let error = serde_json::from_slice::<serde_json::Value>(text).expect_err("broken");
        let error = invalid_json(text, &error);
        let location = error.errors[0].location.as_ref().expect("a place");
        assert_eq!((location.line, location.column), (2, 13));
        assert_eq!(location.excerpt, "2 |   \"hosts\": [,]\n  |             ^");
    }
}
