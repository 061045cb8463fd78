//! Join tokens: what lets nodes into a gateway. A token is shown once, when it is made.

use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use model::problem::{Fault, Problem};
use model::value::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ApiState;
use super::error::{Error, INVALID_CONFIGURATION, UNKNOWN_JOIN_TOKEN};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{JsonBody, Params, path_parameter};
use super::table::Operation;
use super::view::PageView;
use super::write::{Author, store_error};
use crate::store::JoinToken;
use crate::trust::enrolment::State as TokenState;

const FAMILY: &str = "join-tokens";
const DEFAULT_LIFETIME: Span = Span::from_secs(3600);
const MAX_LIFETIME: Span = Span::from_secs(30 * 24 * 3600);
const MAX_USES: u32 = 10_000;

/// What a join token shall be.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewJoinToken")]
struct NewJoinToken {
    /// How long nodes may join with it, `1h` for example. Default: 1h. At most 30 days.
    #[serde(default)]
    ttl: Option<Span>,
    /// How many nodes may join with it. Default: 1. At most 10,000.
    #[serde(default)]
    uses: Option<u32>,
}

/// A join token as it is known later, without its secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JoinToken")]
struct JoinTokenView {
    id: String,
    /// Whether nodes may still join with it.
    state: TokenState,
    uses: u32,
    uses_left: u32,
    author: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    expires_at: OffsetDateTime,
}

/// A join token that was just made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MadeJoinToken")]
struct MadeView {
    /// What a node is given. It is not stored and never shown again.
    token: String,
    #[serde(flatten)]
    known: JoinTokenView,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RevokeParams {
    /// `true`: the nodes that joined with it are revoked too.
    #[serde(default)]
    nodes: bool,
}

pub fn operations() -> Vec<Operation> {
    let all = "/v1/gateways/{gateway}/join-tokens";
    vec![
        Operation::new(Method::GET, all, "listJoinTokens", list)
            .about(FAMILY, "The join tokens of a gateway, without their secrets")
            .answers::<PageView<JoinTokenView>>(200, "the tokens, the oldest first"),
        Operation::new(Method::POST, all, "createJoinToken", create)
            .about(FAMILY, "Make a token with which nodes join the gateway")
            .description(
                "A node that is started with it makes a key, gets a certificate for it, and is known by that from then on.",
            )
            .body(&["application/json"], |generator| generator.subschema_for::<NewJoinToken>())
            .answers::<MadeView>(201, "the token, which is shown this once")
            .errors(&[&INVALID_CONFIGURATION]),
        Operation::new(Method::DELETE, format!("{all}/{{name}}"), "revokeJoinToken", revoke)
            .about(FAMILY, "Revoke a join token")
            .description("No node joins with it any more. Those that have joined stay, unless `nodes` says otherwise.")
            .query::<RevokeParams>()
            .answers_nothing(204, "it is revoked")
            .errors(&[&UNKNOWN_JOIN_TOKEN]),
    ]
}

async fn list(State(state): State<ApiState>, gateway: AtGateway) -> Result<Response, Error> {
    let now = OffsetDateTime::now_utc();
    let tokens = state.store.join_tokens(&gateway.name).await.map_err(store_error)?;
    let items: Vec<_> = tokens.into_iter().map(|token| JoinTokenView::new(token, now)).collect();
    Ok(Json(PageView { items, next_cursor: None }).into_response())
}

async fn create(
    State(state): State<ApiState>,
    gateway: AtGateway,
    author: Author,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let wanted: NewJoinToken = model::written::read(body).map_err(invalid)?;
    let (lifetime, uses) = (wanted.ttl.unwrap_or(DEFAULT_LIFETIME), wanted.uses.unwrap_or(1));
    let mut faults = Vec::new();
    if lifetime.as_millis() == 0 || lifetime > MAX_LIFETIME {
        faults.push(Fault::new("/ttl", "out-of-range", "a join token lives for 30 days at most"));
    }
    if !(1..=MAX_USES).contains(&uses) {
        faults.push(Fault::new("/uses", "out-of-range", format!("a join token has 1 to {MAX_USES} uses")));
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    let (now, lifetime) = (OffsetDateTime::now_utc(), lifetime.get());
    let made = state.trust.enrolment.make_token(&gateway.name, lifetime, uses, author.into_name(), now).await;
    let (kept, token) = made.map_err(store_error)?;
    tracing::info!(gateway = gateway.name, "the join token {} was made", kept.id);
    let view = MadeView { token: token.reveal(), known: JoinTokenView::new(kept, now) };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// The id of a token in the path.
struct TokenId(String);

impl FromRequestParts<ApiState> for TokenId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        path_parameter(parts, state, "name").await.map(Self)
    }
}

async fn revoke(
    State(state): State<ApiState>,
    gateway: AtGateway,
    TokenId(id): TokenId,
    params: Params<RevokeParams>,
) -> Result<StatusCode, Error> {
    let revoked = state.trust.revoke_token(&gateway.name, &id, params.nodes, OffsetDateTime::now_utc()).await;
    if !revoked.map_err(store_error)? {
        let text = format!("the gateway `{}` has no join token `{id}`", gateway.name);
        return Err(Error::new(&UNKNOWN_JOIN_TOKEN, text));
    }
    Ok(StatusCode::NO_CONTENT)
}

impl JoinTokenView {
    fn new(token: JoinToken, now: OffsetDateTime) -> Self {
        let state = TokenState::of(&token, now);
        let JoinToken { id, uses, uses_left, author, created_at, expires_at, .. } = token;
        Self { id, state, uses, uses_left, author, created_at, expires_at }
    }
}

fn invalid(faults: Vec<Fault>) -> Error {
    Error::invalid(faults.into_iter().map(Problem::from).collect())
}
