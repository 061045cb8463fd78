//! The file format: resources in YAML or JSON, and where in it a problem lies.
//!
//! ```yaml
//! version: 1
//! services:
//!   - { name: orders, url: "http://10.0.0.11:9000" }
//! routes:
//!   - { name: orders-api, paths: [/orders], service: orders }
//! ```
//!
//! There is a list for each kind, under its plural. Several files count as one. Reading finds every problem and
//! never stops at one; what a file says is checked where it is applied, like everything else that a person wrote.
//! The environment and other files are asked for through functions, because this crate does no I/O.

mod env;
mod excerpt;
mod export;
mod read;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use self::excerpt::Lines;
pub use self::export::{Secrets, export, to_json, to_yaml};
pub use self::read::{Surroundings, parse};
pub use self::yaml::value;
use self::yaml::{Form, Node, Place};
use crate::config::Edit;
use crate::problem::{Problem, Problems};
use crate::resource::{Key, Kind};
use crate::snapshot::Snapshot;

/// The version of the format, in its field `version`.
pub const VERSION: u64 = 1;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// As it is shown in problems; other files are looked for beside it.
    pub path: String,
    pub text: String,
}

/// What becomes of the resources that a file does not mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    Keep,
    Remove,
}

/// What files ask for.
pub struct Parsed {
    sources: Vec<Lines>,
    resources: Vec<Written>,
    /// The place in `resources` of the first of each name.
    by_name: BTreeMap<(Kind, String), usize>,
    /// With what no other check can find: syntax, unknown kinds, names, variables, missing files.
    problems: Problems,
    /// Where a value could not be had. What other checks say of these places is no fault of the author's.
    unresolved: BTreeSet<(Kind, String, String)>,
}

/// A resource in a file.
struct Written {
    kind: Kind,
    /// Without the name.
    spec: Value,
    source: usize,
    node: Node,
}

impl Parsed {
    /// What was found wrong before anything else was checked, with locations.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether the files hold no resource at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The edits that turn `base` into what the files say, or every problem with that, with locations. Without
    /// problems of reading the edits are not checked yet: whoever applies them does, and lets
    /// [`Parsed::locate`] say where the problems are.
    pub fn edits_on(&self, base: &Snapshot, others: Others) -> Result<Vec<Edit>, Problems> {
        let mut edits = Vec::with_capacity(self.by_name.len());
        if others == Others::Remove {
            let unmentioned = base.config.iter().map(|(key, _)| key).filter(|key| !self.mentions(key));
            edits.extend(unmentioned.map(|key| Edit::Remove { key: key.clone() }));
        }
        edits.extend(self.by_name.iter().map(|((kind, name), index)| Edit::Put {
            kind: *kind,
            name: name.clone(),
            spec: self.resources[*index].spec.clone(),
        }));
        if self.problems.is_empty() {
            return Ok(edits);
        }
        let mut problems = self.problems.clone();
        if let Err(more) = base.apply(base.revision + 1, edits) {
            problems.extend(more.into_iter().filter(|problem| !self.is_unresolved(problem)));
        }
        self.locate(&mut problems);
        Err(problems)
    }

    fn mentions(&self, key: &Key) -> bool {
        self.by_name.contains_key(&(key.kind, key.name.to_string()))
    }

    fn is_unresolved(&self, problem: &Problem) -> bool {
        let (Some(kind), Some(name)) = (problem.kind, &problem.name) else { return false };
        self.unresolved.contains(&(kind, name.clone(), problem.pointer.clone()))
    }

    /// Adds to each problem where in the files it lies, as far as it is about something in them.
    pub fn locate(&self, problems: &mut Problems) {
        for problem in problems.iter_mut().filter(|problem| problem.location.is_none()) {
            let (Some(kind), Some(name)) = (problem.kind, &problem.name) else { continue };
            let Some(index) = self.by_name.get(&(kind, name.clone())) else { continue };
            let written = &self.resources[*index];
            let at = place_of(&written.node, &problem.pointer, &problem.code);
            problem.location = Some(excerpt::location(&self.sources[written.source], at));
        }
    }

    /// All of it as one file in JSON, with variables and files put in.
    #[must_use]
    pub fn to_value(&self) -> Value {
        export::file(self.by_name.iter().map(|((kind, name), index)| {
            let mut fields = Map::new();
            fields.insert("name".into(), Value::from(name.as_str()));
            if let Value::Object(spec) = &self.resources[*index].spec {
                fields.extend(spec.clone());
            }
            (*kind, Value::Object(fields))
        }))
    }
}

/// Where the value at `pointer` is written, or the key of a field that should not be there, or else what should
/// contain it.
fn place_of(resource: &Node, pointer: &str, code: &str) -> Place {
    let steps: Vec<String> =
        pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    // What stands in another file is checked in the field that it fills.
    if let Some(first) = steps.first()
        && resource.get(first).is_none()
        && let Some((_, name)) = resource.get(&format!("{first}_file"))
    {
        return name.at;
    }
    let mut here = resource;
    for (index, step) in steps.iter().enumerate() {
        here = match &here.form {
            Form::Map(_) => match here.get(step) {
                Some((key, _)) if code == "unknown-field" && index + 1 == steps.len() => return key.at,
                Some((_, value)) => value,
                None => return here.at,
            },
            Form::List(entries) => match step.parse().ok().and_then(|index: usize| entries.get(index)) {
                Some(entry) => entry,
                None => return here.at,
            },
            Form::Leaf(_) => return here.at,
        };
    }
    here.at
}

#[cfg(test)]
mod tests;
