//! The configuration as a whole: files in, all or nothing, and an export that changes nothing when it is applied.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Method};
use model::config::Edit;
use model::file::{self, Others, Parsed, Secrets, Source, Surroundings};
use model::problem::Problem;
use model::resource::{KINDS, Key, Kind};
use model::snapshot::Snapshot;
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::conditions::MESSAGE_HEADER;
use super::error::{
    EMPTY_PRUNE, Error, INVALID_BODY, INVALID_CONFIGURATION, MASS_DELETE, NOT_ACCEPTABLE, REFUSED_BY_NODE,
    REVISION_CONFLICT, ROLLED_BACK, ROLLOUT_UNDER_WAY,
};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{FileBody, Params};
use super::rollouts::RolloutParam;
use super::table::{HeaderField, Operation};
use super::view::{Action, AppliedView, DiffView};
use super::write::{Author, Share, WaitFor, Write, WriteParams, at_revision, carry_out, check, with_headers};
use crate::nodes::Selector;
use crate::publish::Refused;

const FAMILY: &str = "configuration";
const FILE: &[&str] = &["application/yaml", "application/json"];
const ACCEPT_HEADER: &[HeaderField] =
    &[HeaderField { name: "Accept", description: "`application/yaml` or `application/json`. Default: YAML." }];
/// Of fewer resources, all may go: that is somebody trying things.
const SMALLEST_GUARDED: usize = 10;
/// How a file that was sent is called in problems.
const BODY_NAME: &str = "body";

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CheckParams {
    /// `true`: removes every resource that the file does not mention. Default: they stay.
    #[serde(default)]
    prune: bool,
    /// The revision that the file is based on: if another one is the newest by now, the answer is 409.
    base: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ApplyParams {
    /// `true`: removes every resource that the file does not mention. Default: they stay.
    #[serde(default)]
    prune: bool,
    /// `true`: `prune` may remove more than half of the resources, also where there are ten or more. Default: that is 409.
    #[serde(default)]
    allow_mass_delete: bool,
    /// `true`: checks everything and writes nothing; the answer shows what would change.
    #[serde(default)]
    dry_run: bool,
    /// The revision that the file is based on: if another one is the newest by now, the answer is 409.
    base: Option<u64>,
    /// `serving`: the answer comes when the nodes serve the change. 409 if a node refuses it, 202 if the time is over first.
    wait: Option<WaitFor>,
    /// How long to wait, `10s` for example. Default: 10s. At most 5m.
    timeout: Option<model::value::Span>,
    /// For which share of the connected nodes to wait. Default: 100%.
    share: Option<Share>,
    /// Wait only for nodes with this label, `key=value` or `key`. Given several times, all must hold.
    #[serde(default)]
    label: Selector,
    /// How it goes out: `skip` gives it to all nodes at once, past a rollout that is under way; or a strategy as JSON. Default: as
    /// the gateway's `rollout-strategy` says, or to all nodes at once without one.
    rollout: Option<RolloutParam>,
    /// Why: kept with the revision.
    message: Option<String>,
}

/// What a file would do.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Validated")]
struct ValidatedView {
    /// The revision that the file was checked against.
    revision: u64,
    /// How many resources it would create.
    create: usize,
    /// How many it would change.
    update: usize,
    /// How many it would remove.
    delete: usize,
    /// What is possible and hardly meant; `/docs/lints/{code}` explains each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Problem>,
}

pub fn operations() -> Vec<Operation> {
    const ALL: &str = "/v1/gateways/{gateway}/config";
    let action = |name: &str| format!("{ALL}:{name}");
    let write_errors = [&REVISION_CONFLICT, &INVALID_CONFIGURATION, &EMPTY_PRUNE];
    vec![
        Operation::new(Method::GET, ALL, "exportConfig", export)
            .about(FAMILY, "Everything, as one file")
            .description(
                "Applied again it changes nothing. In the place of secrets there are marks that mean: as it is.",
            )
            .headers(ACCEPT_HEADER)
            .answers_with(200, "the file", FILE, file_schema)
            .errors(&[&NOT_ACCEPTABLE]),
        Operation::new(Method::POST, action("validate"), "validateConfig", validate)
            .about(FAMILY, "Check a file without writing anything")
            .query::<CheckParams>()
            .body(FILE, file_schema)
            .answers::<ValidatedView>(200, "it would hold")
            .errors(&write_errors),
        Operation::new(Method::POST, action("diff"), "diffConfig", diff)
            .about(FAMILY, "Show what applying a file would change")
            .query::<CheckParams>()
            .body(FILE, file_schema)
            .answers::<DiffView>(200, "the difference")
            .errors(&write_errors),
        Operation::new(Method::POST, action("apply"), "applyConfig", apply)
            .about(FAMILY, "Apply a file: all of it in one revision, or nothing")
            .description("The file may hold only a part of the configuration: what it does not mention stays, unless `prune` is given.")
            .query::<ApplyParams>()
            .headers(MESSAGE_HEADER)
            .body(FILE, file_schema)
            .answers::<AppliedView>(200, "the revision that holds it; with `dry_run` the difference that it would make")
            .or_diff_on_dry_run()
            .answers::<AppliedView>(202, "it is written, but the nodes do not serve it yet")
            .errors(&write_errors)
            .errors(&[&MASS_DELETE, &REFUSED_BY_NODE, &ROLLOUT_UNDER_WAY, &ROLLED_BACK]),
    ]
}

/// The format of files: a list for each kind.
fn file_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
    let mut schema = json_schema!({
        "type": "object",
        "required": ["version"],
        "additionalProperties": false,
        "properties": { "version": { "const": file::VERSION } },
    });
    for info in model::resource::KINDS {
        let resource = model::schema::resource(info, generator);
        if let Some(properties) = schema.get_mut("properties") {
            properties[info.plural] = json_schema!({ "type": "array", "items": resource }).to_value();
        }
    }
    schema
}

async fn export(gateway: AtGateway, headers: HeaderMap) -> Result<Response, Error> {
    let is_json = prefers_json(&headers)?;
    let head = gateway.head;
    let revision = head.revision;
    let text = blocking(move || {
        let file = file::export(head.config.iter(), Secrets::Redacted);
        if is_json { file::to_json(&file) } else { file::to_yaml(&file) }
    })
    .await?;
    let media_type = if is_json { "application/json" } else { "application/yaml" };
    let headers =
        [(CONTENT_TYPE, media_type), (VARY, "accept")].map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok(at_revision(revision, with_headers(text, headers)))
}

async fn validate(
    State(state): State<ApiState>,
    gateway: AtGateway,
    Params(params): Params<CheckParams>,
    body: FileBody,
) -> Result<Response, Error> {
    let (checked, base) = check(&state, read(body, gateway.name, params.prune, params.base).await?).await?;
    let diff = DiffView::of_check(&checked, base);
    let count = |action| diff.changes.iter().filter(|change| change.action == action).count();
    let view = ValidatedView {
        revision: base,
        create: count(Action::Create),
        update: count(Action::Update),
        delete: count(Action::Delete),
        warnings: diff.warnings,
    };
    Ok(at_revision(base, Json(view)))
}

async fn diff(
    State(state): State<ApiState>,
    gateway: AtGateway,
    Params(params): Params<CheckParams>,
    body: FileBody,
) -> Result<Response, Error> {
    let (checked, base) = check(&state, read(body, gateway.name, params.prune, params.base).await?).await?;
    Ok(at_revision(base, Json(DiffView::of_check(&checked, base))))
}

async fn apply(
    State(state): State<ApiState>,
    gateway: AtGateway,
    author: Author,
    Params(params): Params<ApplyParams>,
    body: FileBody,
) -> Result<Response, Error> {
    let ApplyParams { prune, allow_mass_delete, dry_run, base, wait, timeout, share, label, rollout, message } = params;
    let mut write = read(body, gateway.name, prune, base).await?;
    if !allow_mass_delete && !dry_run {
        let edits = write.edits;
        write.edits = Arc::new(move |head: &Snapshot| edits(head).and_then(|edits| expected(head, edits)));
    }
    write.author = author;
    write.params = WriteParams { dry_run, base, wait, timeout, share, label, rollout, message };
    carry_out(&state, write, |published, wait| Json(AppliedView::new(published, wait)).into_response()).await
}

/// The write that a file asks for. What the file refers to outside of itself is the client's, not ours: neither
/// the environment nor any file of this machine is read.
async fn read(body: FileBody, gateway: String, prune: bool, base: Option<u64>) -> Result<Write, Error> {
    let parsed = blocking(move || {
        let file = |_: &Path| Err(io::Error::other("files are put in by whoever sends this, as `sluice apply` does"));
        let source = Source { path: BODY_NAME.to_owned(), text: body.0 };
        file::parse(vec![source], &Surroundings { env: &|_| None, file: &file })
    })
    .await?;
    if let Some(unreadable) = parsed.problems().iter().find(|problem| problem.code == "invalid-syntax") {
        return Err(Error::new(&INVALID_BODY, unreadable.message.clone()).errors(parsed.problems().to_vec()));
    }
    if prune && parsed.is_empty() {
        return Err(Error::new(&EMPTY_PRUNE, "the file holds no resource"));
    }
    let parsed = Arc::new(parsed);
    let others = if prune { Others::Remove } else { Others::Keep };
    let file = Arc::clone(&parsed);
    let params = WriteParams { base, ..WriteParams::default() };
    let edits = Arc::new(move |head: &Snapshot| edits(&parsed, head, others));
    Ok(Write { gateway, author: Author::nobody(), params, edits, file: Some(file) })
}

/// The edits of a file, with the secrets that it only marks.
fn edits(parsed: &Parsed, head: &Snapshot, others: Others) -> Result<Vec<Edit>, Refused> {
    let mut edits = parsed.edits_on(head, others).map_err(Refused::Problems)?;
    let mut problems: Vec<Problem> = Vec::new();
    for edit in &mut edits {
        let Edit::Put { kind, name, spec } = edit else { continue };
        let current = name.parse().ok().and_then(|name| head.config.get(&Key::new(*kind, name)));
        let fault = model::secret::restore(*kind, spec, current).err();
        problems.extend(fault.map(|fault| fault.in_resource(*kind, name)));
    }
    if problems.is_empty() {
        return Ok(edits);
    }
    // All problems at once: also those that publishing would have found.
    let place = |problem: &Problem| (problem.kind, problem.name.clone(), problem.pointer.clone());
    let known: Vec<_> = problems.iter().map(place).collect();
    let more = head.apply(head.revision + 1, edits).err().into_iter().flatten();
    problems.extend(more.filter(|problem| !known.contains(&place(problem))));
    Err(Refused::Problems(problems))
}

/// The edits, unless they remove so much that it is hardly meant.
fn expected(head: &Snapshot, edits: Vec<Edit>) -> Result<Vec<Edit>, Refused> {
    let total = head.config.len();
    let of_kind =
        |kind: Kind| edits.iter().filter(|edit| matches!(edit, Edit::Remove { key } if key.kind == kind)).count();
    let removed = KINDS.iter().map(|info| (info.kind, of_kind(info.kind))).filter(|(_, count)| *count > 0);
    let removed: Vec<_> = removed.collect();
    let count: usize = removed.iter().map(|(_, count)| count).sum();
    if total >= SMALLEST_GUARDED && count * 2 > total {
        return Err(Refused::MassDelete { removed, total });
    }
    Ok(edits)
}

/// Reading and writing a large file takes a while.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)
}

/// Whether the client would rather have JSON than YAML (RFC 9110 section 12.5.1).
fn prefers_json(headers: &HeaderMap) -> Result<bool, Error> {
    /// With the wildcards: who takes anything gets YAML.
    const YAML: [&str; 7] =
        ["application/yaml", "text/yaml", "application/x-yaml", "text/x-yaml", "text/*", "application/*", "*/*"];
    let mut yaml: Option<f32> = None;
    let mut json: Option<f32> = None;
    let mut asked = String::new();
    for value in headers.get_all(ACCEPT) {
        let text = String::from_utf8_lossy(value.as_bytes());
        asked.push_str(&text);
        for range in text.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            let better = |known: Option<f32>| Some(known.unwrap_or(0.0).max(weight));
            match &*media_type {
                "application/json" => json = better(json),
                media_type if YAML.contains(&media_type) => yaml = better(yaml),
                _ => {}
            }
        }
    }
    if asked.trim().is_empty() {
        return Ok(false);
    }
    let (yaml, json) = (yaml.unwrap_or(0.0), json.unwrap_or(0.0));
    if yaml.max(json) <= 0.0 {
        return Err(Error::new(
            &NOT_ACCEPTABLE,
            format!("`{asked}` names neither application/yaml nor application/json"),
        ));
    }
    Ok(json > yaml)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses_the_form() {
        let prefers = |accept: &str| {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().expect("a field value"))]);
            prefers_json(&headers).ok()
        };
        for (accept, expected) in [
            ("", Some(false)),
            ("*/*", Some(false)),
            ("application/json", Some(true)),
            ("application/json, */*;q=0.1", Some(true)),
            ("application/yaml;q=0.5, application/json;q=0.4", Some(false)),
            ("text/html, */*", Some(false)),
            ("text/html", None),
            ("application/json;q=0", None),
        ] {
            assert_eq!(prefers(accept), expected, "{accept}");
        }
    }
}
