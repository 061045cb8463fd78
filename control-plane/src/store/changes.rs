//! The changes of a revision as one column: JSON that people can read in the database. Specs stand in it
//! byte for byte, because digests are made of those bytes.

use std::sync::Arc;

use model::resource::{Document, Key, Kind, Name};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ResourceChange;

#[derive(Serialize, Deserialize)]
struct ChangeColumn<'a> {
    kind: Kind,
    name: Name,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    before: Option<DocumentColumn<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    after: Option<DocumentColumn<'a>>,
}

#[derive(Serialize, Deserialize)]
struct DocumentColumn<'a> {
    created: u64,
    #[serde(borrow)]
    spec: &'a RawValue,
}

pub(super) fn write(changes: &[ResourceChange]) -> String {
    let columns: Vec<_> = changes
        .iter()
        .map(|change| ChangeColumn {
            kind: change.key.kind,
            name: change.key.name.clone(),
            before: change.before.as_ref().map(document_to_column),
            after: change.after.as_ref().map(document_to_column),
        })
        .collect();
    serde_json::to_string(&columns).expect("names and canonical specs are JSON")
}

pub(super) fn read(text: &str) -> serde_json::Result<Arc<[ResourceChange]>> {
    let columns: Vec<ChangeColumn<'_>> = serde_json::from_str(text)?;
    let change = |column: ChangeColumn<'_>| ResourceChange {
        key: Key::new(column.kind, column.name),
        before: column.before.map(|document| document_from_column(&document)),
        after: column.after.map(|document| document_from_column(&document)),
    };
    Ok(columns.into_iter().map(change).collect())
}

fn document_to_column(document: &Document) -> DocumentColumn<'_> {
    let spec = serde_json::from_str(&document.spec).expect("specs are canonical JSON");
    DocumentColumn { created: document.created, spec }
}

fn document_from_column(column: &DocumentColumn<'_>) -> Document {
    Document { created: column.created, spec: Arc::from(column.spec.get()) }
}
