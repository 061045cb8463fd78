//! Gateways: which there are, and the parameter `{gateway}` of everything else.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::request::Parts;
use http::{Method, StatusCode};
use model::resource::Name;
use model::snapshot::Snapshot;

use super::ApiState;
use super::error::{Error, GATEWAY_KEPT, GATEWAY_NOT_EMPTY, INVALID_PARAMETERS, UNKNOWN_GATEWAY, fault};
use super::json::Json;
use super::request::path_parameter;
use super::table::Operation;
use super::view::{GatewayView, PageView};
use super::write::{at_revision, publish_error, store_error, unknown_gateway};
use crate::store::DEFAULT_GATEWAY;

const FAMILY: &str = "gateways";

/// The gateway in the path, with its newest revision: a handler reads all from that one snapshot.
pub struct AtGateway {
    pub name: String,
    pub head: Arc<Snapshot>,
}

impl FromRequestParts<ApiState> for AtGateway {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        let name = path_parameter(parts, state, "gateway").await?;
        match state.publisher.head(&name) {
            Some(head) => Ok(Self { name, head }),
            None => Err(unknown_gateway(&name)),
        }
    }
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/gateways", "listGateways", list)
            .about(FAMILY, "All gateways")
            .answers::<PageView<GatewayView>>(200, "the gateways by name"),
        Operation::new(Method::GET, "/v1/gateways/{gateway}", "getGateway", get)
            .about(FAMILY, "A gateway and its newest revision")
            .answers::<GatewayView>(200, "the gateway")
            .errors(&[&UNKNOWN_GATEWAY]),
        Operation::new(Method::PUT, "/v1/gateways/{gateway}", "putGateway", put)
            .about(FAMILY, "Create a gateway")
            .description("It is empty at first. Nodes belong to it that are started with `--gateway` and its name.")
            .answers::<GatewayView>(200, "it is there already")
            .answers::<GatewayView>(201, "it was created"),
        Operation::new(Method::DELETE, "/v1/gateways/{gateway}", "deleteGateway", delete)
            .about(FAMILY, "Remove a gateway")
            .description("Only without resources; its revisions go with it. Nodes of it serve on what they have.")
            .answers_nothing(204, "it is removed")
            .errors(&[&UNKNOWN_GATEWAY, &GATEWAY_NOT_EMPTY, &GATEWAY_KEPT]),
    ]
}

async fn list(State(state): State<ApiState>) -> Json<PageView<GatewayView>> {
    let known = state.publisher.gateways();
    let view = |name: String| Some(GatewayView::new(&name, &*state.publisher.head(&name)?));
    let items = known.into_iter().filter_map(view).collect();
    Json(PageView { items, next_cursor: None })
}

/// The name of a gateway that may not exist yet.
struct NewGateway(Name);

impl FromRequestParts<ApiState> for NewGateway {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        let text = path_parameter(parts, state, "gateway").await?;
        text.parse().map(Self).map_err(|reason| {
            let text = format!("a gateway cannot be called so: {reason}");
            Error::new(&INVALID_PARAMETERS, text.clone()).errors(vec![fault("/gateway", "invalid-parameter", text)])
        })
    }
}

async fn put(State(state): State<ApiState>, NewGateway(name): NewGateway) -> Result<Response, Error> {
    let is_new = state.publisher.create(&name).await.map_err(store_error)?;
    let head = state.publisher.head(&name).ok_or_else(|| unknown_gateway(&name))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(at_revision(head.revision, (status, Json(GatewayView::new(&name, &head)))))
}

async fn delete(State(state): State<ApiState>, gateway: AtGateway) -> Result<StatusCode, Error> {
    if gateway.name == DEFAULT_GATEWAY {
        return Err(Error::new(&GATEWAY_KEPT, "the gateway `default` cannot be removed"));
    }
    state.publisher.remove(&gateway.name).await.map_err(publish_error)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn get(gateway: AtGateway) -> Response {
    at_revision(gateway.head.revision, Json(GatewayView::new(&gateway.name, &gateway.head)))
}
