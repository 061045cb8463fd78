//! Targets of services beside the configuration: who is one, who drains, what each gets. No revision is made by it.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use model::membership::{EffectiveTarget, Member, Membership, Origin, effective, effective_one};
use model::resource::service::{Target, TargetUrl};
use model::resource::{Key, Kind, Name, Resource};
use model::snapshot::Snapshot;
use model::value::Span;
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::ApiState;
use super::error::{Error, INVALID_CONFIGURATION, TOO_MANY_TARGETS, UNKNOWN_RESOURCE, UNKNOWN_TARGET};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{JsonBody, Params, WrittenName};
use super::resources::{limit_of, next_page};
use super::table::Operation;
use super::view::{PageView, WaitState, WaitView};
use super::write::{Author, Share, WaitFor, at_revision, store_error, unknown_gateway, unknown_resource, wait_timeout};
use crate::nodes::{Goal, Quorum, Selector, WaitOutcome};
use crate::store::TargetRecord;
use crate::targets::{DeriveEdits, Edit, Write, WriteError, Written};

mod body;
mod name;

use body::{each, merged, must_be_there, named, read, unknown};
use name::TargetName;

const FAMILY: &str = "targets";
const JSON: &[&str] = &["application/json"];
const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];
/// The version of what is said about targets that an answer is about.
pub const TARGETS_VERSION: HeaderName = HeaderName::from_static("sluice-targets-version");

/// What a write of targets understands.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TargetParams {
    /// `true`: checks it and answers as if it had been written, with the version that it would have. Nothing is written, and nobody is waited for.
    #[serde(default)]
    dry_run: bool,
    /// `serving`: the answer comes when requests on the nodes go by the change. 202 if the time is over first.
    wait: Option<WaitFor>,
    /// How long to wait, `10s` for example. Default: 10s. At most 5m.
    timeout: Option<Span>,
    /// For which share of the connected nodes to wait. Default: 100%.
    share: Option<Share>,
    /// Wait only for nodes with this label, `key=value` or `key`. Given several times, all must hold.
    #[serde(default)]
    label: Selector,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// How many at most, 1 to 1000. Default: 100.
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<TargetUrl>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LogParams {
    /// Only changes of targets of this service.
    service: Option<String>,
    /// How many at most, 1 to 1000. Default: 100.
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
}

/// What a write of targets did.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TargetsApplied")]
struct TargetsApplied {
    /// The version that holds it.
    version: u64,
    /// How many targets it changed.
    changed: usize,
    /// How far the nodes are; only when it was asked to wait for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<WaitView>,
}

/// A change of one target, and who made it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TargetChange")]
struct TargetChangeView {
    /// Counted in each gateway, without gaps.
    version: u64,
    service: String,
    /// Its URL.
    target: String,
    /// What was said; absent when nothing was said any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Value>,
    /// Name of the token that made it; `control-plane` when the service was removed.
    author: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    created_at: OffsetDateTime,
}

const HOW_NAMED: &str = "A target is named by its URL, `http://10.0.0.11:9000`; in an address, `/` is `%2F`. `10.0.0.11:9000` \
                         is short for the target of the service at that address, and if there is none, for `http`.";

pub fn operations() -> Vec<Operation> {
    let all = "/v1/gateways/{gateway}/services/{name}/targets";
    let one = format!("{all}/{{target}}");
    let member = |generator: &mut SchemaGenerator| generator.subschema_for::<Member>();
    let members = |generator: &mut SchemaGenerator| {
        let member = generator.subschema_for::<Member>();
        json_schema!({ "type": "object", "additionalProperties": member })
    };
    let object = |_: &mut SchemaGenerator| json_schema!({ "type": "object" });
    let late = "it is written, but not all nodes go by it yet";
    let write_errors = [&UNKNOWN_RESOURCE, &INVALID_CONFIGURATION, &TOO_MANY_TARGETS];
    vec![
        Operation::new(Method::GET, all, "listTargets", list)
            .about(FAMILY, "The targets of a service as they are in effect")
            .description("Those that the service says, in their order, then those that were added, by name. What a service finds in DNS is in its health.")
            .query::<ListParams>()
            .answers::<PageView<EffectiveTarget>>(200, "the targets")
            .errors(&[&UNKNOWN_RESOURCE]),
        Operation::new(Method::PUT, all, "putTargets", put_all)
            .about(FAMILY, "Replace all that is said about targets of a service beside the configuration")
            .description(format!("An object with the name of each target; what is not in it is said no longer. {HOW_NAMED}"))
            .query::<TargetParams>()
            .body(JSON, members)
            .answers::<TargetsApplied>(200, "all of it is written, or was so before")
            .answers::<TargetsApplied>(202, late)
            .errors(&write_errors),
        Operation::new(Method::PATCH, all, "patchTargets", patch_all)
            .about(FAMILY, "Change many targets of a service at once")
            .description(format!(
                "JSON Merge Patch (RFC 7396) on what is said beside the configuration: an object with the name of each target; \
                 `null` takes back what was said about it. {HOW_NAMED}"
            ))
            .query::<TargetParams>()
            .body(PATCH, object)
            .answers::<TargetsApplied>(200, "all of it is written, or was so before")
            .answers::<TargetsApplied>(202, late)
            .errors(&write_errors),
        Operation::new(Method::GET, &one, "getTarget", get)
            .about(FAMILY, "One target of a service as it is in effect")
            .description(HOW_NAMED)
            .answers::<EffectiveTarget>(200, "the target")
            .errors(&[&UNKNOWN_RESOURCE, &UNKNOWN_TARGET]),
        Operation::new(Method::PUT, &one, "putTarget", put)
            .about(FAMILY, "Add a target, or say anew what holds for one")
            .description(format!("What is left out is what the service says. {HOW_NAMED}"))
            .query::<TargetParams>()
            .body(JSON, member)
            .answers::<EffectiveTarget>(200, "the target as it is in effect now")
            .answers::<TargetsApplied>(202, late)
            .errors(&write_errors),
        Operation::new(Method::PATCH, &one, "patchTarget", patch)
            .about(FAMILY, "Change what is said about a target")
            .description(format!(
                "JSON Merge Patch (RFC 7396) on what is said beside the configuration: `{{\"draining\": true}}` drains it. The \
                 target must be there. {HOW_NAMED}"
            ))
            .query::<TargetParams>()
            .body(PATCH, object)
            .answers::<EffectiveTarget>(200, "the target as it is in effect now")
            .answers::<TargetsApplied>(202, late)
            .errors(&write_errors)
            .errors(&[&UNKNOWN_TARGET]),
        Operation::new(Method::DELETE, &one, "deleteTarget", delete)
            .about(FAMILY, "Take back what was said about a target")
            .description(format!(
                "A target that was added is gone; one that the service says is again as the service says. {HOW_NAMED}"
            ))
            .query::<TargetParams>()
            .answers::<TargetsApplied>(202, late)
            .answers_nothing(204, "nothing is said about it any more")
            .errors(&write_errors)
            .errors(&[&UNKNOWN_TARGET]),
        Operation::new(Method::GET, "/v1/gateways/{gateway}/target-changes", "listTargetChanges", log)
            .about(FAMILY, "Who changed which targets and when, the newest first")
            .description("The newest 10,000 changes of a gateway are kept.")
            .query::<LogParams>()
            .answers::<PageView<TargetChangeView>>(200, "a page of changes"),
    ]
}

/// The service in the path, which is there.
struct AtService {
    gateway: String,
    head: Arc<Snapshot>,
    service: Name,
}

impl FromRequestParts<ApiState> for AtService {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        let AtGateway { name, head } = AtGateway::from_request_parts(parts, state).await?;
        let key = WrittenName::from_request_parts(parts, state).await?.key(Kind::Service)?;
        if head.services.slot(&key.name).is_none() {
            return Err(unknown_resource(&key));
        }
        Ok(Self { gateway: name, head, service: key.name })
    }
}

async fn list(
    State(state): State<ApiState>,
    at: AtService,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<ListParams>,
) -> Result<Response, Error> {
    let limit = limit_of(params.limit)?;
    let said = state.lanes.now(&at.gateway).await.map_err(store_error)?;
    let mut items = effective(&written(&at.head, &at.service), said.membership.of(&at.service));
    if let Some(last) = params.cursor {
        // One that is gone meanwhile was among those that are in order.
        let place = items.iter().position(|target| target.url == last).map(|place| place + 1);
        let is_after = |target: &EffectiveTarget| target.origin == Origin::Added && target.url > last;
        items.drain(..place.or_else(|| items.iter().position(is_after)).unwrap_or(items.len()));
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let cursor = items.last().filter(|_| has_more).map(|target| target.url.to_string());
    let link = next_page(&uri, cursor.as_deref());
    let page = at_revision(at.head.revision, (link, Json(PageView { items, next_cursor: cursor })));
    Ok(at_version(said.membership.version(), page))
}

async fn get(State(state): State<ApiState>, at: AtService, target: TargetName) -> Result<Response, Error> {
    let said = state.lanes.now(&at.gateway).await.map_err(store_error)?;
    let (url, _) = target.find(&at.service, &at.head, &said.membership).map_err(write_error)?;
    let found = effective_one(&written(&at.head, &at.service), &url, said.membership.of(&at.service));
    let found = found.ok_or_else(|| write_error(unknown(&at.service, &target)))?;
    Ok(at_version(said.membership.version(), at_revision(at.head.revision, Json(found))))
}

async fn put(
    State(state): State<ApiState>,
    at: AtService,
    target: TargetName,
    author: Author,
    Params(params): Params<TargetParams>,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let member = read(&at.service, body).map_err(write_error)?;
    let (service, named) = (at.service.clone(), target.clone());
    let edits = Arc::new(move |head: &Snapshot, said: &Membership| {
        must_be_there(&service, head)?;
        let (target, _) = named.find(&service, head, said)?;
        Ok(vec![Edit { service: service.clone(), target, member: Some(member.clone()) }])
    });
    carry_out(&state, &at, author, &params, edits, |written, _| one(&at, &target, written)).await
}

async fn patch(
    State(state): State<ApiState>,
    at: AtService,
    target: TargetName,
    author: Author,
    Params(params): Params<TargetParams>,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let (service, named) = (at.service.clone(), target.clone());
    let edits = Arc::new(move |head: &Snapshot, said: &Membership| {
        must_be_there(&service, head)?;
        let (target, is_there) = named.find(&service, head, said)?;
        if !is_there {
            return Err(unknown(&service, &named));
        }
        let member = merged(&service, said.get(&service, &target), body.clone())?;
        Ok(vec![Edit { service: service.clone(), target, member: Some(member) }])
    });
    carry_out(&state, &at, author, &params, edits, |written, _| one(&at, &target, written)).await
}

async fn delete(
    State(state): State<ApiState>,
    at: AtService,
    target: TargetName,
    author: Author,
    Params(params): Params<TargetParams>,
) -> Result<Response, Error> {
    let service = at.service.clone();
    let edits = Arc::new(move |head: &Snapshot, said: &Membership| {
        must_be_there(&service, head)?;
        let (url, _) = target.find(&service, head, said)?;
        if said.get(&service, &url).is_none() {
            return Err(unknown(&service, &target));
        }
        Ok(vec![Edit { service: service.clone(), target: url, member: None }])
    });
    carry_out(&state, &at, author, &params, edits, |_, _| StatusCode::NO_CONTENT.into_response()).await
}

async fn put_all(
    State(state): State<ApiState>,
    at: AtService,
    author: Author,
    Params(params): Params<TargetParams>,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let named = named(&at.service, body).map_err(write_error)?;
    let service = at.service.clone();
    let edits = Arc::new(move |head: &Snapshot, said: &Membership| {
        must_be_there(&service, head)?;
        let mut edits = each(&service, head, said, &named, |_, body| read(&service, body).map(Some))?;
        let kept: HashSet<TargetUrl> = edits.iter().map(|edit| edit.target.clone()).collect();
        let gone = said.of(&service).into_iter().flatten().filter(|(target, _)| !kept.contains(target));
        edits.extend(gone.map(|(target, _)| Edit { service: service.clone(), target: target.clone(), member: None }));
        Ok(edits)
    });
    carry_out(&state, &at, author, &params, edits, applied).await
}

async fn patch_all(
    State(state): State<ApiState>,
    at: AtService,
    author: Author,
    Params(params): Params<TargetParams>,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let named = named(&at.service, body).map_err(write_error)?;
    let service = at.service.clone();
    let edits = Arc::new(move |head: &Snapshot, said: &Membership| {
        must_be_there(&service, head)?;
        each(&service, head, said, &named, |target, body| match body {
            Value::Null => Ok(None),
            body => merged(&service, said.get(&service, target), body).map(Some),
        })
    });
    carry_out(&state, &at, author, &params, edits, applied).await
}

async fn log(
    State(state): State<ApiState>,
    gateway: AtGateway,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<LogParams>,
) -> Result<Response, Error> {
    let limit = limit_of(params.limit)?;
    let asked = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    // No store counts further than i64.
    let before = params.cursor.map(|cursor| cursor.min(u64::try_from(i64::MAX).unwrap_or(u64::MAX)));
    let records = state.store.target_log(&gateway.name, params.service.as_deref(), before, asked).await;
    let mut records = records.map_err(store_error)?;
    let has_more = records.len() > limit;
    records.truncate(limit);
    let cursor = records.last().filter(|_| has_more).map(|record| record.version.to_string());
    let link = next_page(&uri, cursor.as_deref());
    let items: Vec<TargetChangeView> = records.into_iter().map(TargetChangeView::from).collect();
    Ok((link, Json(PageView { items, next_cursor: cursor })).into_response())
}

impl From<TargetRecord> for TargetChangeView {
    fn from(record: TargetRecord) -> Self {
        let TargetRecord { version, service, target, spec, author, created_at } = record;
        let member = spec.and_then(|spec| serde_json::from_str(&spec).ok());
        Self { version, service, target, member, author, created_at }
    }
}

/// Has it written, also when the client goes away in the middle, and waits for the nodes if that was asked for.
async fn carry_out(
    state: &ApiState,
    at: &AtService,
    author: Author,
    params: &TargetParams,
    edits: Arc<DeriveEdits>,
    answer: impl FnOnce(&Written, Option<WaitView>) -> Response,
) -> Result<Response, Error> {
    let timeout = wait_timeout(params.timeout)?;
    let (lanes, gateway, write) =
        (state.lanes.clone(), at.gateway.clone(), Write { author: author.into_name(), edits });
    if params.dry_run {
        let written = lanes.try_out(&gateway, &write).await.map_err(write_error)?;
        return Ok(at_version(written.version, answer(&written, None)));
    }
    let task = state.writes.spawn(async move { lanes.write(&gateway, write).await });
    let written =
        task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(write_error)?;
    let mut wait = None;
    if params.wait.is_some() {
        let quorum = Quorum { labels: params.label.clone(), share: params.share.unwrap_or_default().of_all() };
        let goal = Goal::Targets(written.version);
        let view = match state.nodes.wait_serving(&at.gateway, goal, &quorum, timeout).await {
            WaitOutcome::Serving { nodes, total } => WaitView { state: WaitState::Serving, serving: nodes, total },
            WaitOutcome::TimedOut { serving, total } => WaitView { state: WaitState::TimedOut, serving, total },
            // Targets are not refused.
            WaitOutcome::NoNodes | WaitOutcome::Refused { .. } => {
                WaitView { state: WaitState::NoNodes, serving: 0, total: 0 }
            }
        };
        if view.state != WaitState::Serving {
            let late = (StatusCode::ACCEPTED, applied(&written, Some(view))).into_response();
            return Ok(at_version(written.version, late));
        }
        wait = Some(view);
    }
    Ok(at_version(written.version, answer(&written, wait)))
}

fn applied(written: &Written, wait: Option<WaitView>) -> Response {
    Json(TargetsApplied { version: written.version, changed: written.changed, wait }).into_response()
}

/// A target as it is after a write.
fn one(at: &AtService, target: &TargetName, done: &Written) -> Response {
    let url = target.find(&at.service, &at.head, &done.membership).map(|(url, _)| url).ok();
    let found =
        url.and_then(|url| effective_one(&written(&at.head, &at.service), &url, done.membership.of(&at.service)));
    found.map_or_else(|| applied(done, None), |found| Json(found).into_response())
}

/// The targets that the service says.
pub(super) fn written(head: &Snapshot, service: &Name) -> Vec<Target> {
    let key = Key::new(Kind::Service, service.clone());
    match head.config.get(&key).map(|document| document.parse(Kind::Service)) {
        Some(Ok(Resource::Service(service))) => service.targets,
        _ => Vec::new(),
    }
}

fn write_error(error: WriteError) -> Error {
    match error {
        WriteError::UnknownGateway(gateway) => unknown_gateway(&gateway),
        WriteError::UnknownService(service) => unknown_resource(&Key::new(Kind::Service, service)),
        WriteError::UnknownTarget { service, target } => {
            let detail = format!("nothing is said about a target `{target}` of the service `{service}`");
            Error::new(&UNKNOWN_TARGET, detail)
        }
        WriteError::Invalid { service, faults } => {
            Error::invalid(faults.into_iter().map(|fault| fault.in_resource(Kind::Service, &service)).collect())
        }
        WriteError::TooMany { of, limit } => {
            let detail = format!("something would be said about more than {limit} targets of {of}");
            Error::new(&TOO_MANY_TARGETS, detail)
        }
        WriteError::Contended => Error::store("other replicas wrote targets all the time"),
        WriteError::Store(error) => match &*error {
            crate::store::StoreError::Unreadable(_) => Error::internal(error),
            _ => Error::store(error),
        },
    }
}

/// An answer with the version of targets that it is about.
fn at_version(version: u64, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(TARGETS_VERSION, HeaderValue::from(version));
    response
}
