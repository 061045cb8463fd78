//! Gateways: which there are, and the parameter `{gateway}` of everything else.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::Method;
use http::request::Parts;
use model::snapshot::Snapshot;

use super::ApiState;
use super::error::{Error, UNKNOWN_GATEWAY};
use super::json::Json;
use super::request::path_parameter;
use super::table::Operation;
use super::view::{GatewayView, PageView};
use super::write::{at_revision, unknown_gateway};

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
    ]
}

async fn list(State(state): State<ApiState>) -> Json<PageView<GatewayView>> {
    let known = state.publisher.gateways();
    let items = known.filter_map(|name| Some(GatewayView::new(name, &*state.publisher.head(name)?))).collect();
    Json(PageView { items, next_cursor: None })
}

async fn get(gateway: AtGateway) -> Response {
    at_revision(gateway.head.revision, Json(GatewayView::new(&gateway.name, &gateway.head)))
}
