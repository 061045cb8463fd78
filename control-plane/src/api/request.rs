//! What handlers are given: parameters, bodies and header fields, each read once, each with an [`Error`] that
//! names every fault. axum's own extractors answer in plain text, so none of them is used for input.

use std::ops::Deref;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::problem::did_you_mean;
use model::resource::{Key, Kind, Name};
use model::written;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{
    BODY_TIMEOUT, Error, INVALID_BODY, INVALID_PARAMETERS, METHOD_NOT_ALLOWED, TOO_LARGE, UNKNOWN_RESOURCE,
    UNKNOWN_REVISION, UNSUPPORTED_MEDIA_TYPE, fault, invalid_json,
};
use super::json;

/// Largest single resource.
pub const MAX_RESOURCE_BYTES: usize = 1024 * 1024;
/// Largest file.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;
/// A body that takes longer is given up.
const BODY_TIMEOUT_AFTER: Duration = Duration::from_secs(30);

/// The query string, as a type with named fields. A field may be text, a number, a flag (`?dry_run` is the
/// same as `?dry_run=true`), anything that parses from a string, or a list of these (the parameter repeated).
/// Unknown parameters are faults: a misspelt `dry_run` must not write.
pub struct Params<T>(pub T);

impl<T> Deref for Params<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<S: Sync, T: DeserializeOwned + JsonSchema> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let unreadable = |why: String| Error::new(&INVALID_PARAMETERS, why);
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| unreadable(format!("the query string cannot be read: {error}")))?;
        let schema = schemars::schema_for!(T);
        let is_number = |name: &str| is_type(&schema.as_value()["properties"][name], "integer");
        let is_flag = |name: &str| is_type(&schema.as_value()["properties"][name], "boolean");
        let value = typed(pairs, &schema).map_err(|twice| unreadable(format!("`{twice}` is given twice")))?;
        written::read(value.clone()).map(Self).map_err(|faults| {
            let problems: Vec<_> = faults
                .into_iter()
                .map(|found| {
                    let name = found.pointer.trim_start_matches('/').to_owned();
                    let message = match found.code {
                        "unknown-field" => format!("there is no parameter `{name}`"),
                        _ if is_number(&name) => format!("parameter `{name}`: {} is no whole number", value[&name]),
                        _ if is_flag(&name) => format!("parameter `{name}`: {} is not true or false", value[&name]),
                        _ => format!("parameter `{name}`: {}", found.message),
                    };
                    let mut problem = fault(&found.pointer, "invalid-parameter", message);
                    problem.hint = found.hint;
                    problem
                })
                .collect();
            let detail = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Error::new(&INVALID_PARAMETERS, detail).errors(problems)
        })
    }
}

/// Gives each parameter the JSON type that its field has; what does not fit stays text and fails later, with
/// a message about its value.
fn typed(pairs: Vec<(String, String)>, schema: &Schema) -> Result<Value, String> {
    let mut object = Map::new();
    for (name, text) in pairs {
        let property = &schema.as_value()["properties"][&name];
        if is_type(property, "array") {
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(Value::from(text));
            }
            continue;
        }
        let value = match &*text {
            "true" | "" if is_type(property, "boolean") => Value::Bool(true),
            "false" if is_type(property, "boolean") => Value::Bool(false),
            _ if is_type(property, "integer") => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
            _ => Value::from(text),
        };
        if object.insert(name.clone(), value).is_some() {
            return Err(name);
        }
    }
    Ok(Value::Object(object))
}

fn is_type(property: &Value, wanted: &str) -> bool {
    match &property["type"] {
        Value::String(one) => one == wanted,
        Value::Array(several) => several.iter().any(|one| one == wanted),
        _ => false,
    }
}

/// The last part of a resource's address, as it was written: whether it is a name at all is checked with the
/// rest of the resource.
pub struct WrittenName(pub String);

impl WrittenName {
    #[must_use]
    pub fn parse(&self) -> Option<Name> {
        self.0.parse().ok()
    }

    /// The resource of that name: what has no valid name cannot be there.
    pub fn key(&self, kind: Kind) -> Result<Key, Error> {
        let name = self.parse();
        name.map(|name| Key::new(kind, name))
            .ok_or_else(|| Error::new(&UNKNOWN_RESOURCE, format!("there is no {kind} `{}`", self.0)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WrittenName {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        path_parameter(parts, state, "name").await.map(Self)
    }
}

/// The number of a revision in a path. An action may hang on it (`7:rollback`), because a path parameter is always
/// a whole segment.
pub struct RevisionNumber(pub u64);

/// The number of a revision to go back to: `7:rollback`.
pub struct RollbackNumber(pub u64);

impl<S: Send + Sync> FromRequestParts<S> for RevisionNumber {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let text = path_parameter(parts, state, "n").await?;
        if text.ends_with(":rollback") {
            return Err(wrong_method("POST"));
        }
        revision_number(&text).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RollbackNumber {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let text = path_parameter(parts, state, "n").await?;
        match text.strip_suffix(":rollback") {
            Some(number) => revision_number(number).map(Self),
            None => Err(wrong_method("GET,HEAD")),
        }
    }
}

fn wrong_method(allowed: &'static str) -> Error {
    Error::new(&METHOD_NOT_ALLOWED, format!("possible here: {allowed}"))
        .header(ALLOW, HeaderValue::from_static(allowed))
}

fn revision_number(text: &str) -> Result<u64, Error> {
    // No store counts further than i64.
    let number = text.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| Error::new(&UNKNOWN_REVISION, format!("`{text}` is no number of a revision")))
}

/// A part of the path, percent-decoded.
pub async fn path_parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Error> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| Error::new(&super::error::UNKNOWN_PATH, format!("the path cannot be read: {error}")))?;
    let found = params.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.to_owned()).ok_or_else(|| Error::internal(format!("the path has no part `{name}`")))
}

/// A resource or a patch: JSON.
pub struct JsonBody(pub Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        media_type(request.headers(), &["application/json", "application/merge-patch+json"])?;
        let body = read_body(request, MAX_RESOURCE_BYTES).await?;
        json::read(&body).map(Self).map_err(|error| invalid_json(&body, &error))
    }
}

/// A file of resources; JSON is YAML too.
pub struct FileBody(pub String);

impl<S: Send + Sync> FromRequest<S> for FileBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        const POSSIBLE: &[&str] =
            &["application/yaml", "text/yaml", "application/x-yaml", "text/x-yaml", "application/json"];
        media_type(request.headers(), POSSIBLE)?;
        let body = read_body(request, MAX_FILE_BYTES).await?;
        String::from_utf8(body.into()).map(Self).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::new(&INVALID_BODY, format!("the file is not UTF-8: see byte {at}"))
        })
    }
}

/// Whether the body is said to be one of `possible`, or nothing is said. Parameters such as `charset` do not
/// matter: all of it is UTF-8 (RFC 8259 section 8.1).
fn media_type(headers: &HeaderMap, possible: &[&'static str]) -> Result<(), Error> {
    let wrong = |detail: String| Err(Error::new(&UNSUPPORTED_MEDIA_TYPE, detail));
    if let Some(coding) = headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let coding = String::from_utf8_lossy(coding.as_bytes());
        return wrong(format!("the body is compressed ({coding}): send it as it is"));
    }
    let Some(sent) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let sent = String::from_utf8_lossy(sent.as_bytes());
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if possible.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let hint = did_you_mean(essence, possible.iter().copied())
        .unwrap_or_else(|| format!("possible are {}", possible.join(", ")));
    wrong(format!("`{essence}` cannot be read here: {hint}"))
}

async fn read_body(request: Request, limit: usize) -> Result<Bytes, Error> {
    let too_large = || Error::new(&TOO_LARGE, format!("the body may have {limit} bytes"));
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(BODY_TIMEOUT_AFTER, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Error::new(&INVALID_BODY, format!("the body broke off: {error}"))),
        Err(_) => Err(Error::new(&BODY_TIMEOUT, "the body did not arrive within 30 seconds")),
    }
}
