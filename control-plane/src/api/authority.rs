//! The authority by which nodes know the control planes, and how another takes its place.

use axum::extract::State;
use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ApiState;
use super::error::{AUTHORITY_KEPT, Error};
use super::json::Json;
use super::request::Params;
use super::table::Operation;
use super::write::store_error;
use crate::trust::authorities::RotationError;
use crate::trust::authority::Authority;

const FAMILY: &str = "authority";

/// By whom nodes know the control planes.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Authorities")]
struct AuthoritiesView {
    /// The first one certifies; one of before is trusted until it is retired.
    items: Vec<AuthorityView>,
    /// When every certificate of the one before has ended, so that it can be retired; absent if there is none.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    retirable_at: Option<OffsetDateTime>,
}

/// An authority.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Authority")]
struct AuthorityView {
    /// The SHA-256 of its public key, in hexadecimal digits (RFC 7469 section 2.4); join tokens hold it.
    pin: String,
    certifies: bool,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    made_at: OffsetDateTime,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RetireParams {
    /// `true`: now, although nodes may have certificates of it. Those must join again. Default: false.
    #[serde(default)]
    force: bool,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/authority", "getAuthority", get)
            .about(FAMILY, "By whom nodes know the control planes")
            .answers::<AuthoritiesView>(200, "the authorities that count"),
        Operation::new(Method::POST, "/v1/authority:rotate", "rotateAuthority", rotate)
            .about(FAMILY, "Have a new authority take the place of the one that certifies")
            .description(
                "It certifies from now on, on every control plane. The one before vouches for it: nodes that know that one \
                 alone take it, and get a certificate of the new one when they renew theirs, without a pause.",
            )
            .answers::<AuthoritiesView>(200, "the new one certifies")
            .errors(&[&AUTHORITY_KEPT]),
        Operation::new(Method::POST, "/v1/authority:retire", "retireAuthority", retire)
            .about(FAMILY, "Trust the authority before the one that certifies no more")
            .description("Join tokens that were made before the rotation let nobody in from then on.")
            .query::<RetireParams>()
            .answers::<AuthoritiesView>(200, "only the new one counts")
            .errors(&[&AUTHORITY_KEPT]),
    ]
}

fn view(state: &ApiState) -> Json<AuthoritiesView> {
    let authorities = state.trust.authorities();
    let trusted = authorities.now();
    let view = |(at, authority): (usize, &std::sync::Arc<Authority>)| AuthorityView {
        pin: authority.pin().to_string(),
        certifies: at == 0,
        made_at: authority.made_at(),
    };
    let items = trusted.iter().enumerate().map(view).collect();
    Json(AuthoritiesView { items, retirable_at: authorities.retirable_at() })
}

async fn get(State(state): State<ApiState>) -> Json<AuthoritiesView> {
    view(&state)
}

async fn rotate(State(state): State<ApiState>) -> Result<Json<AuthoritiesView>, Error> {
    state.trust.authorities().rotate(OffsetDateTime::now_utc()).await.map_err(refused)?;
    Ok(view(&state))
}

async fn retire(State(state): State<ApiState>, params: Params<RetireParams>) -> Result<Json<AuthoritiesView>, Error> {
    let now = (!params.0.force).then(OffsetDateTime::now_utc);
    state.trust.authorities().retire(now).await.map_err(refused)?;
    Ok(view(&state))
}

fn refused(error: RotationError) -> Error {
    match error {
        RotationError::Store(error) => store_error(error),
        other => Error::new(&AUTHORITY_KEPT, other.to_string()),
    }
}
