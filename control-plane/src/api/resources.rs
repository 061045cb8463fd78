//! Resources, one by one: list, get, put, patch and delete for every kind in the table of kinds.

use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri, State};
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, LINK};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use model::config::Edit;
use model::problem::Fault;
use model::resource::{Document, KINDS, Key, Kind, KindInfo, Labels, Name, Resource};
use model::snapshot::Snapshot;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::ApiState;
use super::conditions::{Conditions, READ_HEADERS, WRITE_HEADERS, entity_tag_value};
use super::error::{
    Error, INVALID_CONFIGURATION, INVALID_PARAMETERS, PRECONDITION_FAILED, REFUSED_BY_NODE, REVISION_CONFLICT,
    UNKNOWN_RESOURCE, fault,
};
use super::gateways::AtGateway;
use super::json::Json;
use super::merge_patch::merge;
use super::openapi::page_schema;
use super::request::{JsonBody, Params, WrittenName};
use super::table::Operation;
use super::view::{AppliedView, shown};
use super::write::{Author, Edits, Write, WriteParams, at_revision, carry_out, unknown_resource, with_headers};
use crate::nodes::Selector;
use crate::publish::{Published, Refused};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
const JSON: &[&str] = &["application/json"];
const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// How many at most, 1 to 1000. Default: 100.
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// `key=value` or `key`: only those that have this label. Given several times, all must hold.
    #[serde(default)]
    label: Selector,
}

pub fn operations() -> Vec<Operation> {
    KINDS.iter().flat_map(of_kind).collect()
}

fn of_kind(info: &'static KindInfo) -> Vec<Operation> {
    let KindInfo { kind, singular, plural, summary, .. } = info;
    let kind = *kind;
    let all = format!("/v1/gateways/{{gateway}}/{plural}");
    let one = format!("{all}/{{name}}");
    let title = capitalised(singular);
    let schema = move |generator: &mut schemars::SchemaGenerator| model::schema::resource(info, generator);
    let write_errors = [&PRECONDITION_FAILED, &REVISION_CONFLICT, &REFUSED_BY_NODE, &INVALID_CONFIGURATION];
    let not_everywhere = "it is written, but the nodes do not serve it yet";
    vec![
        Operation::new(Method::GET, &all, format!("list{}", capitalised(plural)), move |gateway, uri, params| {
            list(kind, gateway, uri, params)
        })
        .about(plural, format!("All {plural}: {summary}"))
        .query::<ListParams>()
        .answers_with(200, "a page, by name", JSON, move |generator| page_schema(&model::schema::resource(info, generator))),
        Operation::new(Method::GET, &one, format!("get{title}"), move |gateway, name, conditions| {
            get(kind, gateway, name, conditions)
        })
        .about(plural, format!("One {singular}"))
        .headers(READ_HEADERS)
        .answers_with(200, "the resource, with its `ETag`", JSON, schema)
        .answers_nothing(304, "it is the one that you have")
        .errors(&[&UNKNOWN_RESOURCE]),
        Operation::new(Method::PUT, &one, format!("put{title}"), move |state, target, author, params, body| {
            put(kind, state, target, author, params, body)
        })
        .about(plural, format!("Create or replace a {singular}"))
        .description("What is left out gets its default. `name` may be left out; if it is there, it must be that of the address.")
        .query::<WriteParams>()
        .headers(WRITE_HEADERS)
        .body(JSON, schema)
        .answers_with(200, "it was replaced; with `dry_run` the difference that it would make", JSON, schema)
        .or_diff_on_dry_run()
        .answers_with(201, "it was created", JSON, schema)
        .answers::<AppliedView>(202, not_everywhere)
        .errors(&write_errors),
        Operation::new(Method::PATCH, &one, format!("patch{title}"), move |state, target, author, params, body| {
            patch(kind, state, target, author, params, body)
        })
        .about(plural, format!("Change some fields of a {singular}"))
        .description("JSON Merge Patch (RFC 7396) on what GET shows: `null` removes a field, lists are replaced whole.")
        .query::<WriteParams>()
        .headers(WRITE_HEADERS)
        .body(PATCH, |_| schemars::json_schema!({ "type": "object" }))
        .answers_with(200, "it was changed; with `dry_run` the difference that it would make", JSON, schema)
        .or_diff_on_dry_run()
        .answers::<AppliedView>(202, not_everywhere)
        .errors(&write_errors)
        .errors(&[&UNKNOWN_RESOURCE]),
        Operation::new(Method::DELETE, &one, format!("delete{title}"), move |state, target, author, params| {
            delete(kind, state, target, author, params)
        })
        .about(plural, format!("Remove a {singular}"))
        .query::<WriteParams>()
        .headers(WRITE_HEADERS)
        .answers::<super::view::DiffView>(200, "only with `dry_run`: the difference that it would make")
        .answers::<AppliedView>(202, "it is removed, but not yet on the nodes")
        .answers_nothing(204, "it is removed")
        .errors(&write_errors)
        .errors(&[&UNKNOWN_RESOURCE]),
    ]
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

async fn list(
    kind: Kind,
    gateway: AtGateway,
    OriginalUri(uri): OriginalUri,
    params: Params<ListParams>,
) -> Result<Response, Error> {
    let limit = limit_of(params.limit)?;
    let after = params.cursor.as_deref().map(str::parse::<Name>).transpose().map_err(|_| {
        let text = "parameter `cursor`: this is no cursor";
        Error::new(&INVALID_PARAMETERS, text).errors(vec![fault("/cursor", "invalid-parameter", text)])
    })?;
    let config = &gateway.head.config;
    let mut matching = config
        .of_kind(kind, after.as_ref())
        .filter(|(_, document)| has_labels(document, &params.label))
        .take(limit + 1);
    let page: Vec<_> = matching.by_ref().take(limit).collect();
    let has_more = matching.next().is_some();
    let cursor = page.last().filter(|_| has_more).map(|(name, _)| name.to_string());
    let items: Vec<Value> =
        page.into_iter().map(|(name, document)| shown(&Key::new(kind, name.clone()), document)).collect();
    let link = next_page(&uri, cursor.as_deref());
    let body = Json(super::view::PageView { items, next_cursor: cursor });
    Ok(at_revision(gateway.head.revision, (link, body)))
}

/// The number of entries on a page.
pub fn limit_of(asked: Option<u64>) -> Result<usize, Error> {
    let Some(asked) = asked else { return Ok(DEFAULT_LIMIT) };
    let limit = usize::try_from(asked).ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| {
        let text = format!("parameter `limit`: {asked} is not between 1 and {MAX_LIMIT}");
        Error::new(&INVALID_PARAMETERS, text.clone()).errors(vec![fault("/limit", "invalid-parameter", text)])
    })
}

/// The field `Link` (RFC 8288) that leads to the next page: the same address with another cursor.
pub fn next_page(uri: &Uri, cursor: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(cursor) = cursor else { return headers };
    let kept = uri.query().into_iter().flat_map(|query| query.split('&'));
    let mut query: Vec<&str> = kept.filter(|pair| !pair.is_empty() && !pair.starts_with("cursor=")).collect();
    let cursor = format!("cursor={cursor}");
    query.push(&cursor);
    let link = format!("<{}?{}>; rel=\"next\"", uri.path(), query.join("&"));
    // Whatever came in an address can stand in a field.
    headers.extend(HeaderValue::from_str(&link).ok().map(|link| (LINK, link)));
    headers
}

fn has_labels(document: &Document, wanted: &Selector) -> bool {
    #[derive(Deserialize)]
    struct Labelled {
        #[serde(default)]
        labels: Labels,
    }
    if wanted.is_empty() {
        return true;
    }
    serde_json::from_str(&document.spec).is_ok_and(|Labelled { labels }| wanted.matches(&labels))
}

async fn get(kind: Kind, gateway: AtGateway, name: WrittenName, conditions: Conditions) -> Result<Response, Error> {
    let AtGateway { head, .. } = gateway;
    let key = name.key(kind)?;
    let document = head.config.get(&key).ok_or_else(|| unknown_resource(&key))?;
    let tag = entity_tag_value(&key, document);
    let is_unchanged = tag.to_str().is_ok_and(|tag| conditions.is_unchanged(tag));
    let headers = [(ETAG, tag)];
    if is_unchanged {
        return Ok(at_revision(head.revision, with_headers(StatusCode::NOT_MODIFIED, headers)));
    }
    Ok(at_revision(head.revision, with_headers(Json(shown(&key, document)), headers)))
}

/// The resource that a write is about, and what must hold for it.
struct Target {
    gateway: AtGateway,
    name: WrittenName,
    conditions: Conditions,
}

impl FromRequestParts<ApiState> for Target {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        Ok(Self {
            gateway: AtGateway::from_request_parts(parts, state).await?,
            name: WrittenName::from_request_parts(parts, state).await?,
            conditions: Conditions::from_request_parts(parts, state).await?,
        })
    }
}

async fn put(
    kind: Kind,
    State(state): State<ApiState>,
    Target { gateway, name, conditions }: Target,
    author: Author,
    Params(params): Params<WriteParams>,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let key = name.parse().map(|name| Key::new(kind, name));
    let written = name.0.clone();
    let edits: Edits = Arc::new(move |head: &Snapshot| {
        let current = key.as_ref().and_then(|key| head.config.get(key));
        if let Some(key) = &key {
            conditions.check_write(key, current)?;
        }
        put_edit(kind, &written, body.clone(), current)
    });
    let write = Write { gateway: gateway.name, author, params, edits, file: None };
    carry_out(&state, write, |published, _| written_answer(kind, &name, published)).await
}

async fn patch(
    kind: Kind,
    State(state): State<ApiState>,
    Target { gateway, name, conditions }: Target,
    author: Author,
    Params(params): Params<WriteParams>,
    JsonBody(patch): JsonBody,
) -> Result<Response, Error> {
    let key = name.key(kind)?;
    let edits: Edits = Arc::new(move |head: &Snapshot| {
        let current = head.config.get(&key);
        conditions.check_write(&key, current)?;
        let current = current.ok_or_else(|| Refused::Missing(key.clone()))?;
        let mut body = shown(&key, current);
        merge(&mut body, patch.clone());
        put_edit(kind, &key.name, body, Some(current))
    });
    let write = Write { gateway: gateway.name, author, params, edits, file: None };
    carry_out(&state, write, |published, _| written_answer(kind, &name, published)).await
}

async fn delete(
    kind: Kind,
    State(state): State<ApiState>,
    Target { gateway, name, conditions }: Target,
    author: Author,
    Params(params): Params<WriteParams>,
) -> Result<Response, Error> {
    let key = name.key(kind)?;
    let edits: Edits = Arc::new(move |head: &Snapshot| {
        let current = head.config.get(&key);
        conditions.check_write(&key, current)?;
        match current {
            Some(_) => Ok(vec![Edit::Remove { key: key.clone() }]),
            None => Err(Refused::Missing(key.clone())),
        }
    });
    let write = Write { gateway: gateway.name, author, params, edits, file: None };
    carry_out(&state, write, |_, _| StatusCode::NO_CONTENT.into_response()).await
}

/// The edit that writes `body`: without the name, which is in the address, and with the secrets that the
/// body only marks.
fn put_edit(kind: Kind, name: &str, mut body: Value, current: Option<&Document>) -> Result<Vec<Edit>, Refused> {
    let mut faults = Vec::new();
    if let Some(fields) = body.as_object_mut()
        && let Some(said) = fields.shift_remove("name")
        && said != name
    {
        let fault = Fault::new("/name", "name-mismatch", format!("the body says {said}, and the address `{name}`"));
        faults.push(fault.hint("leave `name` away, or create the resource under its new name and delete this one"));
    }
    faults.extend(model::secret::restore(kind, &mut body, current).err());
    if !faults.is_empty() {
        // All faults at once: also those that publishing would have found.
        let others = Resource::parse(kind, body).err().into_iter().flatten();
        let others: Vec<_> = others.filter(|other| faults.iter().all(|known| known.pointer != other.pointer)).collect();
        faults.extend(others);
        return Err(Refused::Problems(faults.into_iter().map(|fault| fault.in_resource(kind, name)).collect()));
    }
    Ok(vec![Edit::Put { kind, name: name.to_owned(), spec: body }])
}

/// The resource as it is now: 201 if the write created it.
fn written_answer(kind: Kind, name: &WrittenName, published: &Published) -> Response {
    let Some(key) = name.parse().map(|name| Key::new(kind, name)) else {
        return Error::internal("a resource without a valid name was published").into_response();
    };
    let Some(document) = published.snapshot.config.get(&key) else {
        return Error::internal(format!("{key} was published and is not there")).into_response();
    };
    let is_created = published.changes.iter().any(|change| change.key == key && change.before.is_none());
    let headers = [(ETAG, entity_tag_value(&key, document))];
    let answer = with_headers(Json(shown(&key, document)), headers);
    if !is_created {
        return answer;
    }
    (StatusCode::CREATED, answer).into_response()
}
