//! Rollouts: how revisions go out in steps, what has become of them, and what an operator does about one.

use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use model::problem::{Fault, Problem};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::ApiState;
use super::error::{Error, INVALID_CONFIGURATION, ROLLOUT_OVER, UNKNOWN_ROLLOUT};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{JsonBody, Params, RevisionNumber};
use super::resources::{limit_of, next_page};
use super::table::Operation;
use super::view::PageView;
use super::write::{Author, store_error};
use crate::publish::Staging;
use crate::rollout::strategy::Strategy;
use crate::rollout::{Rollout, State as RolloutState};
use crate::store::RolloutRow;

const FAMILY: &str = "rollouts";
/// How often a change of a rollout is tried while its owner changes it too.
const ATTEMPTS: usize = 10;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// How many at most, 1 to 1000. Default: 100.
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
}

/// How a write goes out: `skip`, or a strategy as JSON.
#[derive(Clone, Debug)]
pub struct RolloutParam(Staging);

impl RolloutParam {
    #[must_use]
    pub fn into_staging(self) -> Staging {
        self.0
    }
}

impl<'de> Deserialize<'de> for RolloutParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "skip" {
            return Ok(Self(Staging::Skip));
        }
        let written = serde_json::from_str(&text).map_err(|_| {
            D::Error::custom("write `skip`, or a strategy as JSON: `{\"steps\":[{\"nodes\":{\"count\":1}}]}`")
        })?;
        strategy(written).map(|strategy| Self(Staging::With(strategy))).map_err(|faults| {
            let told: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
            D::Error::custom(told.join("; "))
        })
    }
}

impl JsonSchema for RolloutParam {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rollout parameter".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

pub fn operations() -> Vec<Operation> {
    const ALL: &str = "/v1/gateways/{gateway}/rollouts";
    const STRATEGY: &str = "/v1/gateways/{gateway}/rollout-strategy";
    let one = format!("{ALL}/{{n}}");
    let action = |name: &str| format!("{one}/{name}");
    let act = |operation: Operation| {
        operation.answers::<Rollout>(200, "the rollout as it is then").errors(&[&UNKNOWN_ROLLOUT, &ROLLOUT_OVER])
    };
    vec![
        Operation::new(Method::GET, ALL, "listRollouts", list)
            .about(FAMILY, "The rollouts of a gateway, the newest first")
            .query::<ListParams>()
            .answers::<PageView<Rollout>>(200, "a page of rollouts"),
        Operation::new(Method::GET, &one, "getRollout", get)
            .about(FAMILY, "The rollout of a revision, with what the nodes had to show")
            .answers::<Rollout>(200, "the rollout")
            .errors(&[&UNKNOWN_ROLLOUT]),
        act(Operation::new(Method::POST, action("pause"), "pauseRollout", pause)
            .about(FAMILY, "Let a rollout go no further")
            .description("Nodes keep what they have. Its gates still hold: it is rolled back when one fails.")),
        act(Operation::new(Method::POST, action("resume"), "resumeRollout", resume)
            .about(FAMILY, "Let a paused rollout go on")),
        act(Operation::new(Method::POST, action("promote"), "promoteRollout", promote)
            .about(FAMILY, "Give the revision to all nodes now")),
        act(Operation::new(Method::POST, action("abort"), "abortRollout", abort)
            .about(FAMILY, "Roll a revision back")
            .description("What was before is published as a new revision, within a second or two.")),
        Operation::new(Method::GET, STRATEGY, "getRolloutStrategy", get_strategy)
            .about(FAMILY, "How changes of the gateway go out unless they say otherwise")
            .answers::<Strategy>(200, "the strategy")
            .errors(&[&UNKNOWN_ROLLOUT]),
        Operation::new(Method::PUT, STRATEGY, "putRolloutStrategy", put_strategy)
            .about(FAMILY, "Say how changes of the gateway go out unless they say otherwise")
            .body(&["application/json"], |generator| generator.subschema_for::<Strategy>())
            .answers::<Strategy>(200, "the strategy, for changes from now on")
            .errors(&[&INVALID_CONFIGURATION]),
        Operation::new(Method::DELETE, STRATEGY, "deleteRolloutStrategy", delete_strategy)
            .about(FAMILY, "Let changes of the gateway go to all nodes at once")
            .answers_nothing(204, "there is none any more")
            .errors(&[&UNKNOWN_ROLLOUT]),
    ]
}

async fn list(
    State(state): State<ApiState>,
    gateway: AtGateway,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<ListParams>,
) -> Result<Response, Error> {
    let limit = limit_of(params.limit)?;
    let asked = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    // No store counts further than i64.
    let before = params.cursor.map(|cursor| cursor.min(u64::try_from(i64::MAX).unwrap_or(u64::MAX)));
    let rows = state.store.rollouts(&gateway.name, before, asked).await.map_err(store_error)?;
    let mut items: Vec<Rollout> = rows.into_iter().map(read).collect::<Result<_, _>>()?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let cursor = items.last().filter(|_| has_more).map(|last| last.revision.to_string());
    let link = next_page(&uri, cursor.as_deref());
    Ok((link, Json(PageView { items, next_cursor: cursor })).into_response())
}

async fn get(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RevisionNumber,
) -> Result<Json<Rollout>, Error> {
    find(&state, &gateway.name, number.0).await.map(Json)
}

async fn pause(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RevisionNumber,
    author: Author,
) -> Result<Json<Rollout>, Error> {
    change(&state, &gateway.name, number.0, &author.into_name(), "paused it", RolloutState::Paused).await
}

async fn resume(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RevisionNumber,
    author: Author,
) -> Result<Json<Rollout>, Error> {
    change(&state, &gateway.name, number.0, &author.into_name(), "resumed it", RolloutState::Running).await
}

async fn promote(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RevisionNumber,
    author: Author,
) -> Result<Json<Rollout>, Error> {
    change(&state, &gateway.name, number.0, &author.into_name(), "promoted it", RolloutState::Promoted).await
}

async fn abort(
    State(state): State<ApiState>,
    gateway: AtGateway,
    number: RevisionNumber,
    author: Author,
) -> Result<Json<Rollout>, Error> {
    change(&state, &gateway.name, number.0, &author.into_name(), "aborted it", RolloutState::RollingBack).await
}

/// Brings an open rollout to another state, also while its owner writes into it.
async fn change(
    state: &ApiState,
    gateway: &str,
    revision: u64,
    author: &str,
    what: &str,
    to: RolloutState,
) -> Result<Json<Rollout>, Error> {
    for _ in 0..ATTEMPTS {
        let mut rollout = find(state, gateway, revision).await?;
        if rollout.state == to {
            return Ok(Json(rollout));
        }
        let head = state.store.head(gateway).await.map_err(store_error)?.revision;
        if !rollout.state.is_open() || rollout.state == RolloutState::RollingBack || head > revision {
            let detail = format!("the rollout of revision {revision} is over, or about to be");
            return Err(Error::new(&ROLLOUT_OVER, detail).revision(revision));
        }
        let now = OffsetDateTime::now_utc();
        let text = format!("`{author}` {what}");
        match to {
            RolloutState::Promoted => rollout.end(to, now),
            RolloutState::RollingBack => (rollout.state, rollout.reason) = (to, Some(text.clone())),
            _ => rollout.state = to,
        }
        rollout.note(now, text);
        rollout.version += 1;
        if state.store.change_rollout(&rollout.to_row()).await.map_err(store_error)? {
            tracing::info!(gateway, revision, "`{author}` {what}: the rollout");
            state.publisher.follow_rollout(rollout.clone());
            return Ok(Json(rollout));
        }
    }
    Err(Error::store("others changed the rollout all the time"))
}

async fn find(state: &ApiState, gateway: &str, revision: u64) -> Result<Rollout, Error> {
    let rows = state.store.rollouts_at(gateway, revision).await.map_err(store_error)?;
    let row = rows.into_iter().find(|row| row.revision == revision);
    let unknown = || Error::new(&UNKNOWN_ROLLOUT, format!("revision {revision} did not go out in steps"));
    row.ok_or_else(unknown).and_then(read)
}

/// A rollout as it was stored.
pub fn read(row: RolloutRow) -> Result<Rollout, Error> {
    Rollout::from_row(row).map_err(store_error)
}

async fn get_strategy(State(state): State<ApiState>, gateway: AtGateway) -> Result<Json<Strategy>, Error> {
    let stored = state.store.rollout_strategy(&gateway.name).await.map_err(store_error)?;
    let stored = stored.ok_or_else(|| no_strategy(&gateway.name))?;
    serde_json::from_str(&stored).map(Json).map_err(Error::internal)
}

async fn put_strategy(
    State(state): State<ApiState>,
    gateway: AtGateway,
    JsonBody(body): JsonBody,
) -> Result<Json<Strategy>, Error> {
    let strategy = strategy(body).map_err(invalid)?;
    let text = serde_json::to_string(&strategy).map_err(Error::internal)?;
    state.store.set_rollout_strategy(&gateway.name, Some(&text)).await.map_err(store_error)?;
    Ok(Json(strategy))
}

async fn delete_strategy(State(state): State<ApiState>, gateway: AtGateway) -> Result<StatusCode, Error> {
    match state.store.set_rollout_strategy(&gateway.name, None).await.map_err(store_error)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_strategy(&gateway.name)),
    }
}

fn no_strategy(gateway: &str) -> Error {
    Error::new(&UNKNOWN_ROLLOUT, format!("changes of the gateway `{gateway}` go to all nodes at once"))
}

fn strategy(written: serde_json::Value) -> Result<Strategy, Vec<Fault>> {
    let strategy: Strategy = model::written::read(written)?;
    let faults = strategy.faults();
    if faults.is_empty() { Ok(strategy) } else { Err(faults) }
}

fn invalid(faults: Vec<Fault>) -> Error {
    Error::invalid(faults.into_iter().map(Problem::from).collect())
}
