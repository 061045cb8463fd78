//! A checked set of resources: everything parses, every reference resolves.
//!
//! Only [`Config::apply`] makes one, from a smaller one and a list of edits; it costs what the edits touch,
//! and reports all problems at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::HashMap;
use serde_json::Value;

use crate::digest::Digest;
use crate::problem::{Fault, Problem, Problems, closest};
use crate::resource::{
    Document, Key, Kind, Mention, Name, Reference, Resource, ShortForm, pointer_in, unknown_reference,
};
use crate::secret;
use crate::sorted::Sorted;

/// For how many references of a change what was meant is looked for: that compares with every name there is.
const MAX_GUESSES: u32 = 50;

/// A checked set of resources. Cloning costs nothing; two of them share what they have in common.
#[derive(Clone, Default)]
pub struct Config {
    documents: Sorted<Key, Document>,
    /// How often each resource is referred to.
    referrers: HashMap<Key, u32>,
    digest: Digest,
}

/// One thing that a change does to one resource.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Creates or replaces, from what a person wrote. Marks of secrets keep what is there (see [`secret`]).
    Put { kind: Kind, name: String, spec: Value },
    /// Creates or replaces by something that was checked before: from the store, the stream or a rollback.
    Restore { key: Key, document: Document },
    /// Removes it, if it is there.
    Remove { key: Key },
}

/// What a change did to one resource.
#[derive(Clone, Debug)]
pub struct Changed {
    pub key: Key,
    pub before: Option<Document>,
    pub after: Option<Document>,
}

impl Changed {
    /// The parsed form of `after`. It is read again by whoever needs it: kept for every resource of a large
    /// change, it would be most of the memory that a node ever takes.
    #[must_use]
    pub fn resource(&self) -> Option<Resource> {
        self.after.as_ref()?.parse(self.key.kind).ok()
    }
}

impl Config {
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Document> {
        self.documents.get(key)
    }

    /// All resources, by kind and then by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Document)> {
        self.documents.iter()
    }

    /// The resources of a kind whose names come after `after`, by name.
    pub fn of_kind(&self, kind: Kind, after: Option<&Name>) -> impl Iterator<Item = (&Name, &Document)> {
        let start = Key::new(kind, after.map_or_else(Name::lowest, Name::clone));
        let from_start = self.documents.from(&start);
        from_start
            .skip_while(move |(key, _)| **key == start)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(key, document)| (&key.name, document))
    }

    /// The edits that turn this set into the other.
    #[must_use]
    pub fn edits_to(&self, other: &Self) -> Vec<Edit> {
        let removed = self.iter().map(|(key, _)| key).filter(|key| !other.documents.contains(key));
        let mut edits: Vec<Edit> = removed.map(|key| Edit::Remove { key: key.clone() }).collect();
        edits.extend(
            other
                .documents
                .iter()
                .filter(|(key, document)| self.documents.get(*key) != Some(*document))
                .map(|(key, document)| Edit::Restore { key: key.clone(), document: document.clone() }),
        );
        edits
    }

    /// The set after `edits`, and what they changed, or every problem with them. `revision` becomes the age
    /// of resources that are new. An edit that changes nothing is no change.
    pub fn apply(&self, edits: Vec<Edit>, revision: u64) -> Result<(Self, Vec<Changed>), Problems> {
        let (config, changes, problems) = self.try_apply(edits, revision);
        if problems.is_empty() { Ok((config, changes)) } else { Err(problems) }
    }

    /// [`Config::apply`] as far as it goes. With problems the set is not a checked one, and only good for
    /// finding more of them.
    pub(crate) fn try_apply(&self, edits: Vec<Edit>, revision: u64) -> (Self, Vec<Changed>, Problems) {
        let mut problems = Problems::new();
        let repeated = repeated(&edits);
        let mut faulty = BTreeMap::new();
        let mut short_forms = BTreeMap::new();
        let mut changes = Vec::with_capacity(edits.len());
        let mut config = self.clone();
        for (place, edit) in edits.into_iter().enumerate() {
            let Some(key) = key_of(&edit, &mut problems) else { continue };
            if repeated.contains(&place) {
                let message = format!("the change holds {key} more than once");
                problems.push(Fault::new("/name", "duplicate-name", message).at(&key));
                continue;
            }
            match self.parse(key.clone(), &edit, revision) {
                Ok((change, resource)) if change.before != change.after => {
                    if let Edit::Put { kind, spec, .. } = &edit
                        && let Some(short_form) = kind.info().short_form(spec)
                    {
                        short_forms.insert(key, short_form);
                    }
                    config.replace(&change, resource.as_ref());
                    changes.push(change);
                }
                Ok(_) => {}
                Err(faults) => {
                    problems.extend(faults.into_iter().map(|fault| fault.at(&key)));
                    let mentions = match edit {
                        Edit::Put { kind, spec, .. } => Resource::mentions(kind, spec),
                        Edit::Restore { .. } | Edit::Remove { .. } => Vec::new(),
                    };
                    faulty.insert(key, mentions);
                }
            }
        }
        config.check_references(&changes, &short_forms, &faulty, &mut problems);
        (config, changes, problems)
    }

    fn parse(&self, key: Key, edit: &Edit, revision: u64) -> Result<(Changed, Option<Resource>), Vec<Fault>> {
        let before = self.get(&key).cloned();
        let (resource, document) = match edit {
            Edit::Remove { .. } => return Ok((Changed { key, before, after: None }, None)),
            Edit::Put { kind, spec, .. } => {
                let mut spec = spec.clone();
                let restored = secret::restore(*kind, &mut spec, before.as_ref());
                // Without the secret there are more faults, but none of the author's.
                let resource = restored.map_err(|fault| vec![fault]).and_then(|()| Resource::parse(*kind, spec))?;
                let created = before.as_ref().map_or(revision, |document| document.created);
                let spec = Arc::from(resource.canonical());
                (resource, Document { created, spec })
            }
            Edit::Restore { document, .. } => (document.parse(key.kind)?, document.clone()),
        };
        Ok((Changed { key, before, after: Some(document) }, Some(resource)))
    }

    /// `resource` is the parsed form of what the change leads to.
    fn replace(&mut self, change: &Changed, resource: Option<&Resource>) {
        if let Some(before) = &change.before {
            self.digest = self.digest.minus(digest_of(&change.key, before));
            self.count_references(&change.key, before, |count| count - 1);
        }
        match &change.after {
            Some(after) => {
                self.digest = self.digest.plus(digest_of(&change.key, after));
                self.documents.insert(change.key.clone(), after.clone());
                if let Some(resource) = resource {
                    self.count_resource(resource, |count| count + 1);
                }
            }
            None => {
                self.documents.remove(&change.key);
            }
        }
    }

    fn count_references(&mut self, key: &Key, document: &Document, step: fn(u32) -> u32) {
        if let Ok(resource) = document.parse(key.kind) {
            self.count_resource(&resource, step);
        }
    }

    fn count_resource(&mut self, resource: &Resource, step: fn(u32) -> u32) {
        resource.references(&mut |reference| {
            // What has no valid name is not there: check_references says so.
            let Ok(name) = reference.name.parse() else { return };
            let key = Key::new(reference.kind, name);
            let count = step(self.referrers.get(&key).copied().unwrap_or(0));
            if count == 0 {
                self.referrers.remove(&key);
            } else {
                self.referrers.insert(key, count);
            }
        });
    }

    /// `faulty` are resources with faults of their own and what they refer to; a reference to one of them is good.
    fn check_references(
        &self,
        changes: &[Changed],
        short_forms: &BTreeMap<Key, ShortForm>,
        faulty: &BTreeMap<Key, Vec<Mention>>,
        problems: &mut Problems,
    ) {
        let mut guesses = 0;
        let mut check = |key: &Key, reference: Reference<'_>| {
            let target = reference.name.parse().map(|name| Key::new(reference.kind, name));
            if target.is_ok_and(|target| self.documents.contains(&target) || faulty.contains_key(&target)) {
                return;
            }
            guesses += 1;
            let names = self.of_kind(reference.kind, None).map(|(name, _)| name.as_str());
            let meant = if guesses <= MAX_GUESSES { closest(reference.name, names) } else { None };
            problems.push(unknown_reference(&reference, meant).at(key));
        };
        for change in changes {
            if let Some(resource) = change.resource() {
                resource.references(&mut |Reference { kind, name, pointer }| {
                    let pointer = pointer_in(short_forms.get(&change.key).copied(), pointer);
                    check(&change.key, Reference { kind, name, pointer });
                });
            }
        }
        for (key, mentions) in faulty {
            for Mention { kind, name, pointer } in mentions {
                check(key, Reference { kind: *kind, name, pointer: pointer.clone() });
            }
        }
        let removed = changes.iter().filter(|change| change.after.is_none()).map(|change| &change.key);
        let needed: BTreeMap<&Key, Vec<String>> =
            removed.filter(|key| self.referrers.contains_key(*key)).map(|key| (key, Vec::new())).collect();
        if !needed.is_empty() {
            problems.extend(self.still_needed(needed, &|user| faulty.contains_key(user)));
        }
        let mut once = BTreeSet::new();
        problems.retain(|problem| {
            once.insert((problem.kind, problem.name.clone(), problem.pointer.clone(), problem.message.clone()))
        });
    }

    /// Why resources cannot be removed. This walks over everything, which is only done to say so. Users that the
    /// change meant to replace do not count.
    fn still_needed<'k>(
        &self,
        mut needed: BTreeMap<&'k Key, Vec<String>>,
        is_replaced: &dyn Fn(&Key) -> bool,
    ) -> impl Iterator<Item = Problem> + use<'k> {
        for (user, document) in self.iter().filter(|(user, _)| !is_replaced(user)) {
            let Ok(resource) = document.parse(user.kind) else { continue };
            resource.references(&mut |Reference { kind, name, pointer }| {
                let Ok(name) = name.parse() else { return };
                if let Some(users) = needed.get_mut(&Key::new(kind, name)) {
                    users.push(format!("{user} at {pointer}"));
                }
            });
        }
        needed.into_iter().filter(|(_, users)| !users.is_empty()).map(|(key, users)| {
            let verb = if users.len() == 1 { "refers" } else { "refer" };
            let shown = users.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let more = users.len().saturating_sub(5);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message = format!("{key} cannot be removed: {shown}{more} {verb} to it");
            Fault::new("", "still-referenced", message)
                .hint("remove or change what refers to it, in the same change or before")
                .at(key)
        })
    }
}

/// Which resource an edit is about, or what is wrong with its name and the rest of it.
fn key_of(edit: &Edit, problems: &mut Problems) -> Option<Key> {
    match edit {
        Edit::Restore { key, .. } | Edit::Remove { key } => Some(key.clone()),
        Edit::Put { kind, name, spec } => match name.parse() {
            Ok(valid) => Some(Key::new(*kind, valid)),
            Err(message) => {
                let mut faults = vec![Fault::new("/name", "invalid-name", message)];
                faults.extend(Resource::parse(*kind, spec.clone()).err().into_iter().flatten());
                problems.extend(faults.into_iter().map(|fault| fault.in_resource(*kind, name)));
                None
            }
        },
    }
}

/// Which edits are about a resource that an earlier one is about. Sorting their places takes a fraction of the memory
/// of a set of keys, and large changes set the memory that a node takes.
fn repeated(edits: &[Edit]) -> BTreeSet<usize> {
    let about = |place: usize| match &edits[place] {
        Edit::Put { kind, name, .. } => (*kind, name.as_str()),
        Edit::Restore { key, .. } | Edit::Remove { key } => (key.kind, key.name.as_str()),
    };
    let mut places: Vec<usize> = (0..edits.len()).collect();
    places.sort_by(|one, other| about(*one).cmp(&about(*other)));
    places.windows(2).filter(|pair| about(pair[0]) == about(pair[1])).map(|pair| pair[1]).collect()
}

/// The part of one resource in the digest of the whole.
fn digest_of(key: &Key, document: &Document) -> Digest {
    Digest::of_resource(key.kind.singular(), &key.name, document.created, &document.spec)
}

#[cfg(test)]
mod tests;
