//! Changes of a configuration, a line each: `kind name {"json": "spec"}`, or `kind name` alone to remove it. An empty
//! line ends a revision.
//!
//! Problems point at something in what was written or next to it, and stepwise changes lead to what one change from
//! nothing leads to.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model::config::Edit;
use model::problem::Problem;
use model::resource::{Key, Kind};
use model::snapshot::Snapshot;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let mut held = Snapshot::default();
    for revision in text.split("\n\n") {
        let edits: Vec<Edit> = revision.lines().filter_map(edit).collect();
        match held.apply(held.revision + 1, edits.clone()) {
            Ok((next, _)) => held = next,
            Err(problems) => problems.iter().for_each(|problem| check_pointer(problem, &edits)),
        }
    }
    let whole =
        held.config.iter().map(|(key, document)| Edit::Restore { key: key.clone(), document: document.clone() });
    let (whole, _) = Snapshot::default().apply(held.revision, whole.collect()).expect("what is held holds");
    assert_eq!(whole.config.digest(), held.config.digest());
    assert_eq!(whole.routes.len(), held.routes.len());
    for (key, document) in held.config.iter() {
        let resource = document.parse(key.kind).expect("what is kept is good");
        assert_eq!(resource.canonical(), *document.spec, "the canonical form is its own");
    }
});

fn edit(line: &str) -> Option<Edit> {
    let (kind, rest) = line.split_once(' ')?;
    let kind = Kind::parse(kind)?;
    match rest.split_once(' ') {
        Some((name, spec)) => Some(Edit::Put { kind, name: name.to_owned(), spec: serde_json::from_str(spec).ok()? }),
        None => Some(Edit::Remove { key: Key::new(kind, rest.parse().ok()?) }),
    }
}

/// What a problem points at is there, or is missing from something that is there or was left out as a whole.
fn check_pointer(problem: &Problem, edits: &[Edit]) {
    let about = |edit: &&Edit| match edit {
        Edit::Put { kind, name, .. } => Some(*kind) == problem.kind && Some(name) == problem.name.as_ref(),
        Edit::Restore { .. } | Edit::Remove { .. } => false,
    };
    let specs: Vec<&Value> = edits.iter().filter(about).filter_map(spec).collect();
    let Some((container, _)) = problem.pointer.rsplit_once('/') else { return };
    let around = container.rsplit_once('/').map_or("", |(around, _)| around);
    let is_there = |spec: &&Value| spec.pointer(container).or(spec.pointer(around)).is_some();
    assert!(specs.is_empty() || specs.iter().any(is_there), "{problem:?}");
}

fn spec(edit: &Edit) -> Option<&Value> {
    match edit {
        Edit::Put { spec, .. } => Some(spec),
        Edit::Restore { .. } | Edit::Remove { .. } => None,
    }
}
