//! What is said about the targets of services beside the configuration: who else is a target, who drains, who has another
//! weight.
//!
//! It changes hundreds of times a second where targets come and go, so it makes no revisions: every change of one target
//! has a version of its own, from one sequence per gateway, and the newest counts. Services and targets are named, a target
//! by its URL; what is said joins whatever configuration is served. What names a service that is not there has no effect.

use std::sync::Arc;

use imbl::OrdMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::service::{Target, TargetUrl};
use crate::resource::{Labels, Name, is_default};

mod join;
#[cfg(test)]
mod tests;

pub use join::{EffectiveTarget, Found, Origin, TargetState, effective, effective_one};

/// What is said about one target. Without a field, what the service says holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TargetMember")]
pub struct Member {
    /// Share of the requests, relative to the other targets; 0 sends none. Default: what the service says, or 1. At
    /// most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `true` sends no new requests to the target, lets it finish what it serves, and closes idle connections to it.
    /// Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub draining: bool,
    /// Free key-value pairs, in place of those that the service says. At most 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
}

/// The longest name or value of a label, in bytes.
const MAX_LABEL: usize = 255;
const MAX_LABELS: usize = 32;

impl Member {
    /// The faults beyond those of types.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(weight) = self.weight {
            faults.extend(Target::check_weight(weight, "/weight"));
        }
        let labels = self.labels.iter().flatten();
        if labels.clone().count() > MAX_LABELS {
            let message = format!("there are more than {MAX_LABELS} labels");
            faults.push(Fault::new("/labels", "invalid-value", message).hint("leave some away"));
        }
        if labels.clone().any(|(name, value)| name.is_empty() || name.len().max(value.len()) > MAX_LABEL) {
            let message = format!("names of labels have 1 to {MAX_LABEL} bytes, and values at most {MAX_LABEL}");
            faults.push(Fault::new("/labels", "invalid-value", message).hint("shorten it"));
        }
        faults
    }
}

/// One change of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub service: Name,
    pub target: TargetUrl,
    pub version: u64,
    /// What is said from now on; nothing if nothing is said any more.
    pub member: Option<Member>,
}

/// What is said about a target, and since which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub version: u64,
    pub member: Arc<Member>,
}

/// What is said about the targets of one service.
pub type Entries = OrdMap<TargetUrl, Entry>;

/// All that is said in a gateway. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    version: u64,
    services: OrdMap<Name, Entries>,
    len: usize,
}

impl Membership {
    /// What is said at a version: all of it.
    #[must_use]
    pub fn whole(version: u64, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut whole = Self::default();
        changes.into_iter().for_each(|change| whole.put(change));
        Self { version, ..whole }
    }

    /// Everything up to this version is in it.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Of how many targets something is said.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn of(&self, service: &str) -> Option<&Entries> {
        self.services.get(service)
    }

    #[must_use]
    pub fn get(&self, service: &str, target: &TargetUrl) -> Option<&Entry> {
        self.of(service)?.get(target)
    }

    /// The services of whose targets something is said, by name.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Entries)> {
        self.services.iter()
    }

    /// Everything as changes from nothing.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.services.iter().flat_map(|(service, entries)| {
            entries.iter().map(|(target, entry)| Change {
                service: service.clone(),
                target: target.clone(),
                version: entry.version,
                member: Some(Member::clone(&entry.member)),
            })
        })
    }

    /// Takes in changes that lead up to a version. Of changes of one target only the newest need be among them; what
    /// is known already changes nothing.
    pub fn apply(&mut self, version: u64, changes: impl IntoIterator<Item = Change>) {
        let known = self.version;
        for change in changes.into_iter().filter(|change| change.version > known) {
            if self.get(&change.service, &change.target).is_none_or(|entry| entry.version < change.version) {
                self.put(change);
            }
        }
        self.version = known.max(version);
    }

    fn put(&mut self, change: Change) {
        let Change { service, target, version, member } = change;
        let mut entries = self.services.get(&service).cloned().unwrap_or_default();
        match member {
            Some(member) => {
                let before = entries.insert(target, Entry { version, member: Arc::new(member) });
                self.len += usize::from(before.is_none());
            }
            None => self.len -= usize::from(entries.remove(&target).is_some()),
        }
        if entries.is_empty() {
            self.services.remove(&service);
        } else {
            self.services.insert(service, entries);
        }
    }
}
