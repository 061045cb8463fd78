//! What a gateway would do with a request, and why, by any of its revisions.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::Method;
use model::explain::{Explanation, Question, explain};
use model::problem::{Fault, Problem};
use model::written;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ApiState;
use super::error::{Error, INVALID_QUESTION, UNKNOWN_REVISION};
use super::gateways::AtGateway;
use super::json::Json;
use super::request::{JsonBody, Params};
use super::table::Operation;
use super::write::{at_revision, publish_error};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExplainParams {
    /// The revision that is asked. Default: the newest.
    revision: Option<u64>,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, "/v1/gateways/{gateway}/explain", "explainRequest", ask)
            .about("explain", "What would be done with a request, and why")
            .description(
                "Shows each step to the canonical path, the listener, every route that is looked at with what decides against it, \
                 the route that wins, its captures, and the policies, filters and timeouts with where they come from. \
                 Nothing is sent and nothing is written. It is read from the same tables that requests are matched by.",
            )
            .query::<ExplainParams>()
            .body(&["application/json"], |generator| generator.subschema_for::<Question>())
            .answers::<Explanation>(200, "the explanation")
            .errors(&[&INVALID_QUESTION, &UNKNOWN_REVISION]),
    ]
}

async fn ask(
    State(state): State<ApiState>,
    gateway: AtGateway,
    Params(params): Params<ExplainParams>,
    JsonBody(body): JsonBody,
) -> Result<Response, Error> {
    let question: Question = written::read(body).map_err(invalid)?;
    let snapshot = match params.revision {
        Some(revision) if revision != gateway.head.revision => {
            state.publisher.at(&gateway.name, revision).await.map_err(publish_error)?
        }
        _ => Arc::clone(&gateway.head),
    };
    let explanation = explain(&snapshot, &question).map_err(invalid)?;
    Ok(at_revision(params.revision.unwrap_or(gateway.head.revision), Json(explanation)))
}

fn invalid(faults: Vec<Fault>) -> Error {
    let problems = faults.into_iter().map(Problem::from);
    Error::new(&INVALID_QUESTION, "the request that is asked about cannot be understood").errors(problems.collect())
}
