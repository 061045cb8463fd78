//! One table of operations. The router and the OpenAPI document are both made from it, so that neither can have
//! what the other has not; a new endpoint is one entry in the file of its family.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::ApiState;
use super::error::Sort;
use super::view::DiffView;

/// One method of one path.
pub struct Operation {
    pub method: Method,
    /// As people see it, `/v1/gateways/{gateway}/revisions/{n}:rollback` for example.
    pub path: String,
    /// Where the router finds it, if that is not the same: its parameters are whole segments.
    pub routed_at: Option<String>,
    /// Unique, for generated clients.
    pub id: String,
    /// The family that it is shown in.
    pub family: &'static str,
    pub summary: String,
    pub description: String,
    pub query: Option<MakeSchema>,
    /// Request header fields that mean something here.
    pub headers: &'static [HeaderField],
    pub body: Option<Body>,
    pub answers: Vec<Answer>,
    /// Errors beyond those that every operation can answer.
    pub errors: Vec<&'static Sort>,
    handler: MethodRouter<ApiState>,
}

/// Adds the schema of a type to a document.
pub type MakeSchema = Box<dyn Fn(&mut SchemaGenerator) -> Schema + Send + Sync>;

/// A request header field.
#[derive(Debug)]
pub struct HeaderField {
    pub name: &'static str,
    pub description: &'static str,
}

/// What may be sent.
pub struct Body {
    pub media_types: &'static [&'static str],
    pub schema: MakeSchema,
}

/// What comes back when all goes well.
pub struct Answer {
    pub status: u16,
    pub description: &'static str,
    pub media_types: &'static [&'static str],
    pub schema: Option<MakeSchema>,
}

const JSON: &[&str] = &["application/json"];

impl Operation {
    pub fn new<H, T>(method: Method, path: impl Into<String>, id: impl Into<String>, handler: H) -> Self
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("operations use ordinary methods");
        Self {
            method,
            path: path.into(),
            routed_at: None,
            id: id.into(),
            family: "",
            summary: String::new(),
            description: String::new(),
            query: None,
            headers: &[],
            body: None,
            answers: Vec::new(),
            errors: Vec::new(),
            handler: on(filter, handler),
        }
    }

    pub fn about(mut self, family: &'static str, summary: impl Into<String>) -> Self {
        (self.family, self.summary) = (family, summary.into());
        self
    }

    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    pub fn routed_at(mut self, path: impl Into<String>) -> Self {
        self.routed_at = Some(path.into());
        self
    }

    pub fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(Box::new(|generator| T::json_schema(generator)));
        self
    }

    pub fn headers(mut self, headers: &'static [HeaderField]) -> Self {
        self.headers = headers;
        self
    }

    pub fn body(
        mut self,
        media_types: &'static [&'static str],
        schema: impl Fn(&mut SchemaGenerator) -> Schema + Send + Sync + 'static,
    ) -> Self {
        self.body = Some(Body { media_types, schema: Box::new(schema) });
        self
    }

    pub fn answers<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.answers_with(status, description, JSON, |generator| generator.subschema_for::<T>())
    }

    pub fn answers_with(
        mut self,
        status: u16,
        description: &'static str,
        media_types: &'static [&'static str],
        schema: impl Fn(&mut SchemaGenerator) -> Schema + Send + Sync + 'static,
    ) -> Self {
        self.answers.push(Answer { status, description, media_types, schema: Some(Box::new(schema)) });
        self
    }

    /// The first answer has another form when nothing was written.
    pub fn or_diff_on_dry_run(mut self) -> Self {
        if let Some(answer) = self.answers.first_mut()
            && let Some(written) = answer.schema.take()
        {
            answer.schema = Some(Box::new(move |generator| {
                let forms = [written(generator), generator.subschema_for::<DiffView>()];
                json_schema!({ "anyOf": forms })
            }));
        }
        self
    }

    pub fn answers_nothing(mut self, status: u16, description: &'static str) -> Self {
        self.answers.push(Answer { status, description, media_types: &[], schema: None });
        self
    }

    pub fn errors(mut self, errors: &[&'static Sort]) -> Self {
        self.errors.extend(errors);
        self
    }

    /// Everything below `/v1` needs an admin token; the rest says nothing that is worth one.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        needs_token(&self.path)
    }
}

/// See [`Operation::needs_token`].
#[must_use]
pub fn needs_token(path: &str) -> bool {
    path.strip_prefix("/v1").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Every operation, in the order of the document.
#[must_use]
pub fn operations() -> Vec<Operation> {
    let families: [fn() -> Vec<Operation>; 14] = [
        super::gateways::operations,
        super::authority::operations,
        super::resources::operations,
        super::targets::operations,
        super::config::operations,
        super::revisions::operations,
        super::rollouts::operations,
        super::nodes::operations,
        super::events::operations,
        super::join_tokens::operations,
        super::health::operations,
        super::explain::operations,
        super::probes::operations,
        super::docs::operations,
    ];
    families.into_iter().flat_map(|family| family()).collect()
}

/// The router of `operations`.
pub fn router(operations: Vec<Operation>) -> Router<ApiState> {
    operations.into_iter().fold(Router::new(), |router, operation| {
        router.route(operation.routed_at.as_deref().unwrap_or(&operation.path), operation.handler)
    })
}
