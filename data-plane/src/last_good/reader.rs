//! From the bytes of the files to the snapshot that they hold. Pure, so that it can be tried with bytes that nobody
//! wrote.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use model::snapshot::Snapshot;

use super::record::{MAGIC, Position, Record};
use crate::sync::build;

/// What a snapshot and its journal come to.
pub struct Loaded {
    pub snapshot: Snapshot,
    /// Why the journal ends before its end.
    pub damage: Option<&'static str>,
}

/// Reads a snapshot and the journal of what followed it. A journal counts as far as it is whole.
pub fn read(snapshot: Bytes, journal: Option<Bytes>) -> Result<Loaded, String> {
    let mut bytes = after_magic(snapshot)?;
    let whole = Record::take(&mut bytes).filter(|record| record.is_whole() && bytes.is_empty());
    let whole = whole.ok_or("the file is damaged")?;
    let (deltas, damage) = match journal.map(after_magic) {
        None => (Vec::new(), None),
        Some(Ok(bytes)) => deltas(bytes, whole.reached),
        Some(Err(damage)) => (Vec::new(), Some(damage)),
    };
    Ok(Loaded { snapshot: compile(&whole, &deltas)?, damage })
}

/// What follows the head of a file.
fn after_magic(mut bytes: Bytes) -> Result<Bytes, &'static str> {
    if !bytes.starts_with(&MAGIC) {
        return Err("it was written by another version, or damaged");
    }
    bytes.advance(MAGIC.len());
    Ok(bytes)
}

/// The records of a journal that follow each other from `start`, and why that is not all of it.
fn deltas(mut bytes: Bytes, start: Position) -> (Vec<Record>, Option<&'static str>) {
    let mut records: Vec<Record> = Vec::new();
    while let Some(record) = Record::take(&mut bytes) {
        let reached = records.last().map_or(start, |record| record.reached);
        if record.base != reached {
            return (records, Some("its records do not follow each other"));
        }
        records.push(record);
    }
    (records, (!bytes.is_empty()).then_some("its end is torn or damaged"))
}

/// One compilation of everything, whatever the number of records: only the last word on each resource counts.
fn compile(whole: &Record, deltas: &[Record]) -> Result<Snapshot, String> {
    let mut resources = BTreeMap::new();
    for record in std::iter::once(whole).chain(deltas) {
        for envelope in build::envelopes(&record.body) {
            let envelope = envelope.map_err(|error| error.to_string())?;
            resources.insert((envelope.kind.clone(), envelope.name.clone()), envelope);
        }
    }
    let reached = deltas.last().unwrap_or(whole).reached;
    let present = resources.into_values().filter(|envelope| !envelope.removed);
    let edits = present.map(|envelope| model::wire::edit(&envelope)).collect::<Result<Vec<_>, _>>();
    let edits = edits.map_err(|problem| problem.to_string())?;
    let built = Snapshot::default().apply(reached.revision, edits);
    let (snapshot, _) = built.map_err(|problems| build::summary(&problems))?;
    if Position::of(&snapshot) != reached {
        return Err(format!("it does not hold what revision {} held", reached.revision));
    }
    Ok(snapshot)
}
