//! A configuration as a file: kinds and names in fixed order, so that two exports differ only where the
//! configurations do.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{VERSION, env, yaml};
use crate::resource::{Document, KINDS, Key, Kind};
use crate::secret;

/// Whether an export holds secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// Marks stand in their place; where they are stored already, applying the export keeps them.
    Redacted,
    Plain,
}

/// Resources as a file. Applied to the configuration that they come from, it changes nothing.
#[must_use]
pub fn export<'a>(resources: impl IntoIterator<Item = (&'a Key, &'a Document)>, secrets: Secrets) -> Value {
    file(resources.into_iter().map(|(key, document)| {
        let mut shown = document.to_value(&key.name);
        if secrets == Secrets::Redacted {
            secret::redact(key.kind, &mut shown);
        }
        (key.kind, shown)
    }))
}

/// A file of resources with their names, in the order of the kinds and otherwise as they come.
pub(super) fn file(resources: impl IntoIterator<Item = (Kind, Value)>) -> Value {
    let mut lists: Vec<Vec<Value>> = KINDS.iter().map(|_| Vec::new()).collect();
    for (kind, mut resource) in resources {
        escape(&mut resource);
        lists[kind as usize].push(resource);
    }
    let mut file = Map::new();
    file.insert("version".into(), Value::from(VERSION));
    for (info, list) in KINDS.iter().zip(lists) {
        if !list.is_empty() {
            file.insert(info.plural.into(), Value::Array(list));
        }
    }
    Value::Object(file)
}

/// What is text now must not become a reference to a variable when it is read again.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("${env:") => *text = env::escape(text),
        Value::Array(list) => list.iter_mut().for_each(escape),
        Value::Object(map) => map.values_mut().for_each(escape),
        _ => {}
    }
}

/// The file as YAML, with a line between its lists.
#[must_use]
pub fn to_yaml(file: &Value) -> String {
    let mut text = String::new();
    let Value::Object(lists) = file else { return yaml::write(file) };
    for (key, list) in lists {
        if !text.is_empty() {
            text.push('\n');
        }
        let one = Value::Object(Map::from_iter([(key.clone(), list.clone())]));
        text.push_str(&yaml::write(&one));
    }
    text
}

/// The file as JSON.
#[must_use]
pub fn to_json(file: &Value) -> String {
    let mut text = String::new();
    writeln!(text, "{file:#}").expect("writing to a string cannot fail");
    text
}
