//! The OpenAPI 3.1 document, made from the table of operations and the types that they take and give.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::error::{
    BODY_TIMEOUT, ErrorView, FORBIDDEN, INTERNAL, INVALID_BODY, INVALID_PARAMETERS, STORE_UNAVAILABLE, Sort, TOO_LARGE,
    UNAUTHENTICATED, UNKNOWN_GATEWAY, UNSUPPORTED_MEDIA_TYPE,
};
use super::table::{MakeSchema, Operation};

/// The whole document.
#[must_use]
pub fn document(operations: &[Operation]) -> Value {
    // JSON Schema 2020-12 is what OpenAPI 3.1 speaks; only the place of definitions differs.
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator();
    generator.subschema_for::<ErrorView<'_>>();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let described = describe(operation, &mut generator);
        let path = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_lowercase()] = described;
    }
    let mut families: Vec<&str> = operations.iter().map(|operation| operation.family).collect();
    families.dedup();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": families.into_iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "headers": {
                "Revision": {
                    "description": "The revision that was read, or the one that the write made.",
                    "schema": { "type": "integer" },
                },
            },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

const DESCRIPTION: &str = "\
Configures gateways and tells how they are. All that a gateway does is written in resources; each write makes one \
revision, whole or not at all, and every node serves exactly one revision at a time.

Answers about a gateway carry the field `Sluice-Revision`: the revision that was read, or the one that the write made. \
\
A write of something that is possible and hardly meant carries `Sluice-Warning`, once for each. \
Errors are `application/problem+json` (RFC 9457) and name every fault at once; their `type` leads to an explanation.";

/// A page of a list.
#[must_use]
pub fn page_schema(items: &Schema) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": { "type": "array", "items": items },
            "next_cursor": {
                "type": "string",
                "description": "Send it as `cursor` to get the next page; absent on the last one.",
            },
        },
    })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.family],
        "summary": operation.summary,
        "responses": responses(operation, generator),
    });
    if !operation.description.is_empty() {
        described["description"] = Value::from(operation.description.as_str());
    }
    let mut parameters = path_parameters(&operation.path);
    if let Some(query) = &operation.query {
        parameters.extend(query_parameters(query, generator));
    }
    parameters.extend(operation.headers.iter().map(|header| {
        json!({ "in": "header", "name": header.name, "description": header.description, "schema": { "type": "string" } })
    }));
    if !parameters.is_empty() {
        described["parameters"] = Value::from(parameters);
    }
    if let Some(body) = &operation.body {
        let schema = (body.schema)(generator);
        described["requestBody"] = json!({ "required": true, "content": content(body.media_types, &schema) });
    }
    if operation.needs_token() {
        described["security"] = json!([{ "token": [] }]);
    }
    described
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    names
        .map(|name| {
            let (kind, description) = match name {
                "gateway" => ("string", "Name of the gateway; `default` always exists."),
                "name" => ("string", "Name of the resource, or what else is meant."),
                "n" => ("integer", "Number of the revision."),
                _ => ("string", ""),
            };
            json!({ "in": "path", "name": name, "required": true, "description": description, "schema": { "type": kind } })
        })
        .collect()
}

fn query_parameters(query: &MakeSchema, generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = query(generator);
    let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    properties
        .into_iter()
        .map(|(name, mut schema)| {
            let description = schema.as_object_mut().and_then(|fields| fields.remove("description"));
            // A parameter that is not given is absent, never null.
            if let Some(kinds) = schema["type"].as_array() {
                schema["type"] = kinds.iter().find(|kind| **kind != "null").cloned().unwrap_or_default();
            }
            if let Some(choices) = schema["anyOf"].as_array() {
                schema = choices.iter().find(|choice| choice["type"] != "null").cloned().unwrap_or_default();
            }
            if schema["type"].is_null() {
                schema.as_object_mut().map(|fields| fields.remove("type"));
            }
            json!({ "in": "query", "name": name, "description": description, "schema": schema })
        })
        .collect()
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for answer in &operation.answers {
        let mut response = json!({ "description": answer.description });
        if let Some(make) = &answer.schema {
            let schema = make(generator);
            response["content"] = content(answer.media_types, &schema);
        }
        if operation.path.contains("{gateway}") {
            response["headers"] = json!({ "Sluice-Revision": { "$ref": "#/components/headers/Revision" } });
        }
        responses.insert(answer.status.to_string(), response);
    }
    let mut by_status: BTreeMap<u16, Vec<&Sort>> = BTreeMap::new();
    for sort in errors(operation) {
        by_status.entry(sort.status.as_u16()).or_default().push(sort);
    }
    for (status, sorts) in by_status {
        let described: Vec<_> = sorts.iter().map(|sort| format!("`{}`: {}", sort.code, sort.title)).collect();
        let error = json!({ "$ref": "#/components/schemas/Error" });
        responses.insert(
            status.to_string(),
            json!({
                "description": described.join("; "),
                "content": { "application/problem+json": { "schema": error } },
            }),
        );
    }
    Value::Object(responses)
}

/// The errors of an operation: its own, and those that follow from what it takes.
fn errors(operation: &Operation) -> Vec<&'static Sort> {
    let mut errors = operation.errors.clone();
    if operation.needs_token() {
        errors.extend([&UNAUTHENTICATED, &FORBIDDEN, &STORE_UNAVAILABLE, &INTERNAL]);
    }
    if operation.path.contains("{gateway}/") {
        errors.push(&UNKNOWN_GATEWAY);
    }
    if operation.query.is_some() {
        errors.push(&INVALID_PARAMETERS);
    }
    if operation.body.is_some() {
        errors.extend([&INVALID_BODY, &TOO_LARGE, &UNSUPPORTED_MEDIA_TYPE, &BODY_TIMEOUT]);
    }
    errors
}

fn content(media_types: &[&str], schema: &Schema) -> Value {
    media_types
        .iter()
        .map(|media_type| ((*media_type).to_owned(), json!({ "schema": schema })))
        .collect::<Map<_, _>>()
        .into()
}
