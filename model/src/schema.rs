//! JSON Schema (2020-12) of what people write: for editors, forms and the description of the admin API.
//!
//! It follows from the types and their comments. Only what types cannot say is added here: names, which
//! settings belong to which type of policy, and what is special about files.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::file::VERSION;
use crate::policy::{POLICIES, PolicyKind};
use crate::resource::{KINDS, Kind, KindInfo, Name};

/// The schema of the file format.
#[must_use]
pub fn file() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let version = json!({ "const": VERSION, "description": "Version of the format." });
    let mut lists = Map::from_iter([("version".to_owned(), version)]);
    for info in KINDS {
        let mut item = resource(info, &mut generator);
        item.insert("required".into(), json!(["name"]));
        // A list that was emptied by taking out its last entry is no mistake.
        let list = json!({ "type": ["array", "null"], "description": sentence(info.summary), "items": item });
        lists.insert(info.plural.into(), list);
    }
    for info in KINDS {
        let reference = (info.schema)(&mut generator);
        if let Some(definition) = definition_mut(&reference, &mut generator) {
            allow_files(definition, info.file_fields);
        }
    }
    let mut definitions = Value::Object(generator.take_definitions(true));
    allow_variables(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sluice configuration",
        "description": "What a gateway does. Anywhere in a string, `${env:NAME}` stands for a variable of the environment.",
        "type": "object",
        "required": ["version"],
        "additionalProperties": false,
        "properties": lists,
        "$defs": definitions,
    })
}

/// A reference to the schema of a kind, with `name` among its fields; the schema is one of the generator's
/// definitions.
pub fn resource(info: &KindInfo, generator: &mut SchemaGenerator) -> Schema {
    let reference = (info.schema)(generator);
    let name = generator.subschema_for::<Name>().to_value();
    let rules = if info.kind == Kind::Policy { settings_by_type(generator) } else { Vec::new() };
    let Some(definition) = definition_mut(&reference, generator) else { return reference };
    if let Some(Value::Object(fields)) = definition.get_mut("properties") {
        fields.shift_insert(0, "name".into(), name);
    }
    if !rules.is_empty() {
        definition["properties"]["type"]["enum"] = POLICIES.iter().map(|policy| policy.name).collect();
        definition["allOf"] = rules.into();
    }
    reference
}

/// Which settings a policy has follows from its type.
fn settings_by_type(generator: &mut SchemaGenerator) -> Vec<Value> {
    let rule = |policy: &PolicyKind| {
        let config = (policy.schema)(generator);
        let needs_some = definition_mut(&config, generator).is_some_and(|config| config.get("required").is_some());
        let required = if needs_some { vec!["config"] } else { Vec::new() };
        json!({
            "if": { "properties": { "type": { "const": policy.name } }, "required": ["type"] },
            "then": { "properties": { "config": config }, "required": required },
        })
    };
    POLICIES.iter().map(rule).collect()
}

fn definition_mut<'g>(reference: &Schema, generator: &'g mut SchemaGenerator) -> Option<&'g mut Value> {
    let name = reference.get("$ref")?.as_str()?.rsplit('/').next()?;
    generator.definitions_mut().get_mut(name)
}

/// In a file another file may stand for a value.
fn allow_files(definition: &mut Value, fields: &[&str]) {
    let mut choices = Vec::new();
    for field in fields {
        let file = format!("{field}_file");
        definition["properties"][&file] = json!({
            "type": "string",
            "description": format!("A file with what `{field}` would hold; its path is seen from this file."),
        });
        let is_needed = definition["required"].as_array().is_some_and(|needed| needed.iter().any(|name| name == field));
        choices.push(if is_needed {
            json!({ "oneOf": [{ "required": [field] }, { "required": [file] }] })
        } else {
            json!({ "not": { "required": [field, file] } })
        });
    }
    if let Some(Value::Array(required)) = definition.get_mut("required") {
        required.retain(|name| !fields.iter().any(|field| name == field));
    }
    if !choices.is_empty() {
        definition["allOf"] = choices.into();
    }
}

/// A pattern is meant for the value that is put in, which an editor does not know.
fn allow_variables(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(allow_variables),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(pattern) if key == "pattern" => *pattern = format!(r"\$\{{env:\w+\}}|{pattern}"),
                    value => allow_variables(value),
                }
            }
        }
        _ => {}
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}
