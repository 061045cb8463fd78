//! Revisions: what was changed when, by whom and why, and the way back.

use std::collections::BTreeMap;

use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use http::Method;
use model::resource::{Document, Key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::conditions::MESSAGE_HEADER;
use super::error::{
    Error, FORGOTTEN_REVISION, INVALID_CONFIGURATION, INVALID_PARAMETERS, REFUSED_BY_NODE, REVISION_CONFLICT,
    UNKNOWN_REVISION, fault,
};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{Params, RevisionNumber, RollbackNumber};
use super::resources::{limit_of, next_page};
use super::rollouts;
use super::table::Operation;
use super::view::{AppliedView, ChangeView, DiffView, PageView, RevisionView};
use super::write::{Author, Write, WriteParams, at_revision, carry_out, publish_error, store_error, unknown_revision};
use crate::publish::PublishError;
use crate::publish::history::follows;
use crate::rollout::Rollout;

const FAMILY: &str = "revisions";
/// Revisions read at once while walking through the history.
const BATCH: u32 = 256;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// How many at most, 1 to 1000. Default: 100.
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DiffParams {
    /// The revision to compare with; 0 is the empty one. Default: the one before.
    against: Option<u64>,
}

/// A revision with what it changed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RevisionWithChanges")]
struct RecordView {
    #[serde(flatten)]
    revision: RevisionView,
    changes: Vec<ChangeView>,
    /// The rollout of the revision, and that which it ended, with what the nodes had to show.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rollouts: Vec<Rollout>,
}

pub fn operations() -> Vec<Operation> {
    const ALL: &str = "/v1/gateways/{gateway}/revisions";
    let one = format!("{ALL}/{{n}}");
    vec![
        Operation::new(Method::GET, ALL, "listRevisions", list)
            .about(FAMILY, "All revisions, the newest first")
            .query::<ListParams>()
            .answers::<PageView<RevisionView>>(200, "a page of revisions"),
        Operation::new(Method::GET, &one, "getRevision", get)
            .about(FAMILY, "A revision with what it changed")
            .answers::<RecordView>(200, "the revision")
            .errors(&[&UNKNOWN_REVISION, &FORGOTTEN_REVISION]),
        Operation::new(Method::GET, format!("{one}/diff"), "diffRevisions", diff)
            .about(FAMILY, "What is different between two revisions")
            .query::<DiffParams>()
            .answers::<DiffView>(200, "the difference")
            .errors(&[&UNKNOWN_REVISION, &FORGOTTEN_REVISION]),
        Operation::new(Method::POST, format!("{one}:rollback"), "rollBack", rollback)
            .routed_at(&one)
            .about(FAMILY, "Go back to a revision")
            .description("Makes a new revision whose content is that of the old one; nothing in the history is lost.")
            .query::<WriteParams>()
            .headers(MESSAGE_HEADER)
            .answers::<AppliedView>(200, "the revision that was made; with `dry_run` the difference that it would make")
            .or_diff_on_dry_run()
            .answers::<AppliedView>(202, "it was made, but the nodes do not serve it yet")
            .errors(&[
                &UNKNOWN_REVISION,
                &FORGOTTEN_REVISION,
                &REVISION_CONFLICT,
                &REFUSED_BY_NODE,
                &INVALID_CONFIGURATION,
            ]),
    ]
}

async fn list(
    State(state): State<ApiState>,
    gateway: AtGateway,
    OriginalUri(uri): OriginalUri,
    params: Params<ListParams>,
) -> Result<Response, Error> {
    let limit = limit_of(params.limit)?;
    let wanted = u32::try_from(limit).expect("limits are small") + 1;
    if params.cursor.is_some_and(|cursor| i64::try_from(cursor).is_err()) {
        let text = "parameter `cursor`: this is no cursor";
        return Err(Error::new(&INVALID_PARAMETERS, text).errors(vec![fault("/cursor", "invalid-parameter", text)]));
    }
    let found = state.store.revisions(&gateway.name, params.cursor, wanted).await.map_err(store_error)?;
    let mut items: Vec<RevisionView> = found.into_iter().map(RevisionView::from).collect();
    let has_more = items.len() > limit;
    items.truncate(limit);
    for row in state.store.rollouts(&gateway.name, params.cursor, wanted).await.map_err(store_error)? {
        let rollout = rollouts::read(row)?;
        if let Some(item) = items.iter_mut().find(|item| item.number == rollout.revision) {
            item.rollout = Some(rollout.state);
        }
    }
    let cursor = items.last().filter(|_| has_more).map(|last| last.number.to_string());
    let link = next_page(&uri, cursor.as_deref());
    Ok(at_revision(gateway.head.revision, (link, Json(PageView { items, next_cursor: cursor }))))
}

async fn get(State(state): State<ApiState>, gateway: AtGateway, number: RevisionNumber) -> Result<Response, Error> {
    let record = state.store.revision(&gateway.name, number.0).await.map_err(store_error)?;
    let Some(record) = record else {
        let oldest = state.store.oldest_revision(&gateway.name).await.map_err(store_error)?;
        return Err(publish_error(match oldest.filter(|oldest| (1..*oldest).contains(&number.0)) {
            Some(oldest) => PublishError::Forgotten { revision: number.0, oldest },
            None => PublishError::UnknownRevision(number.0),
        }));
    };
    let changes = record.changes.iter().map(ChangeView::from).collect();
    let rows = state.store.rollouts_at(&gateway.name, number.0).await.map_err(store_error)?;
    let rollouts: Vec<Rollout> = rows.into_iter().map(rollouts::read).collect::<Result<_, _>>()?;
    let mut revision = RevisionView::from(record.revision);
    revision.rollout = rollouts.iter().find(|rollout| rollout.revision == number.0).map(|rollout| rollout.state);
    Ok(at_revision(number.0, Json(RecordView { revision, changes, rollouts })))
}

async fn diff(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RevisionNumber,
    params: Params<DiffParams>,
) -> Result<Response, Error> {
    let to = number.0;
    let head = state.store.head(&gateway.name).await.map_err(store_error)?.revision;
    let from = params.against.unwrap_or(to.saturating_sub(1));
    if let Some(unknown) = [to, from].into_iter().find(|revision| *revision > head) {
        return Err(unknown_revision(unknown));
    }
    let changes = net_changes(&state, &gateway.name, from.min(to), from.max(to)).await?;
    let shown = changes.iter().map(|(key, (older, newer))| {
        let (before, after) = if from <= to { (older, newer) } else { (newer, older) };
        ChangeView::new(key, before.as_ref(), after.as_ref())
    });
    Ok(at_revision(to, Json(DiffView { from, to: Some(to), changes: shown.collect(), warnings: Vec::new() })))
}

type BeforeAndAfter = (Option<Document>, Option<Document>);

/// What is different between two revisions, not counting what was undone in between.
async fn net_changes(
    state: &ApiState,
    gateway: &str,
    older: u64,
    newer: u64,
) -> Result<BTreeMap<Key, BeforeAndAfter>, Error> {
    let mut net: BTreeMap<Key, BeforeAndAfter> = BTreeMap::new();
    let mut at = older;
    while at < newer {
        let records = state.store.changes_since(gateway, at, BATCH).await.map_err(store_error)?;
        follows(records.first(), at, older).map_err(publish_error)?;
        at = records.last().map_or(at, |last| last.revision.number);
        for record in records.iter().take_while(|record| record.revision.number <= newer) {
            for change in &*record.changes {
                let entry = net.entry(change.key.clone()).or_insert_with(|| (change.before.clone(), None));
                entry.1.clone_from(&change.after);
            }
        }
    }
    // The age of a resource is in its document too, but nobody wrote it.
    let spec = |document: &Option<Document>| document.as_ref().map(|document| document.spec.clone());
    net.retain(|_, (before, after)| spec(before) != spec(after));
    Ok(net)
}

async fn rollback(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RollbackNumber,
    author: Author,
    params: Params<WriteParams>,
) -> Result<Response, Error> {
    let Params(mut params) = params;
    let change = state.publisher.rollback(&gateway.name, number.0, String::new(), String::new()).await;
    let change = change.map_err(publish_error)?;
    params.message = params.message.or_else(|| author.default_message(format!("roll back to revision {}", number.0)));
    // The edits lead from the head that was read to the old revision, so they hold for that head alone.
    params.base = params.base.or(change.base);
    let write = Write { gateway: gateway.name, author, params, edits: change.edits, file: None };
    carry_out(&state, write, |published, wait| Json(AppliedView::new(published, wait)).into_response()).await
}
