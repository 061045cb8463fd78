//! From the body of a write to edits, or to all that is wrong with it.

use std::collections::HashSet;

use model::membership::{Entry, Member, Membership};
use model::problem::{Fault, push_pointer};
use model::resource::Name;
use model::resource::service::TargetUrl;
use model::snapshot::Snapshot;
use serde_json::{Map, Value};

use super::name::TargetName;
use crate::api::merge_patch::merge;
use crate::targets::{Edit, WriteError};

/// The targets that a body names, with what it says about each.
pub fn named(service: &Name, body: Value) -> Result<Vec<(TargetName, Value)>, WriteError> {
    let invalid = |faults| WriteError::Invalid { service: service.clone(), faults };
    let Value::Object(fields) = body else {
        let fault = Fault::new("", "invalid-type", "the body is no object");
        return Err(invalid(vec![fault.hint("write `{\"http://10.0.0.11:9000\": {\"weight\": 2}}`")]));
    };
    let mut faults = Vec::new();
    let mut named = Vec::with_capacity(fields.len());
    for (text, body) in fields {
        match TargetName::parse(&text) {
            Ok(name) => named.push((name, body)),
            Err(reason) => faults.push(Fault::new(pointer_to(&text), "invalid-value", reason)),
        }
    }
    if faults.is_empty() { Ok(named) } else { Err(invalid(faults)) }
}

/// The edits of all targets that a body names; or all that is wrong with them.
pub fn each(
    service: &Name,
    head: &Snapshot,
    said: &Membership,
    named: &[(TargetName, Value)],
    member: impl Fn(&TargetUrl, Value) -> Result<Option<Member>, WriteError>,
) -> Result<Vec<Edit>, WriteError> {
    let mut edits = Vec::with_capacity(named.len());
    let mut known = HashSet::with_capacity(named.len());
    let mut all = Vec::new();
    for (name, body) in named {
        let edit = name.find(service, head, said).and_then(|(target, _)| {
            if !known.insert(target.clone()) {
                let fault = Fault::new("", "duplicate-value", format!("the target {target} is named twice"));
                return Err(WriteError::Invalid { service: service.clone(), faults: vec![fault] });
            }
            Ok(Edit { service: service.clone(), member: member(&target, body.clone())?, target })
        });
        match edit {
            Ok(edit) => edits.push(edit),
            Err(WriteError::Invalid { faults, .. }) => {
                all.extend(faults.into_iter().map(|fault| fault.below(&pointer_to(&name.text))));
            }
            Err(other) => return Err(other),
        }
    }
    if all.is_empty() { Ok(edits) } else { Err(WriteError::Invalid { service: service.clone(), faults: all }) }
}

fn pointer_to(field: &str) -> String {
    let mut pointer = String::new();
    push_pointer(&mut pointer, field);
    pointer
}

pub fn merged(service: &Name, entry: Option<&Entry>, patch: Value) -> Result<Member, WriteError> {
    let known = entry.map(|entry| serde_json::to_value(&*entry.member).expect("texts and numbers are JSON"));
    let mut body = known.unwrap_or_else(|| Value::Object(Map::new()));
    merge(&mut body, patch);
    read(service, body)
}

pub fn read(service: &Name, body: Value) -> Result<Member, WriteError> {
    let reading = model::written::read::<Member>(body);
    let faults = match reading {
        Ok(member) => match member.faults() {
            faults if faults.is_empty() => return Ok(member),
            faults => faults,
        },
        Err(faults) => faults,
    };
    Err(WriteError::Invalid { service: service.clone(), faults })
}

pub fn must_be_there(service: &Name, head: &Snapshot) -> Result<(), WriteError> {
    match head.services.slot(service) {
        Some(_) => Ok(()),
        None => Err(WriteError::UnknownService(service.clone())),
    }
}

pub fn unknown(service: &Name, target: &TargetName) -> WriteError {
    WriteError::UnknownTarget { service: service.clone(), target: target.text.clone() }
}
