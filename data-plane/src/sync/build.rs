//! From a record to the snapshot that it leads to. Pure, and slow for large records: runs on blocking threads.

use std::sync::Arc;

use model::config::{Config, Edit};
use model::digest::Digest;
use model::problem::{Problem, Problems};
use model::snapshot::Snapshot;
use proto::Envelope;
use proto::body::BodyError;

use crate::last_good::{Position, Record};

/// How many bytes of resources one revision may hold.
const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// How many problems are named in one line.
const SHOWN: usize = 3;

/// Why a record leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub enum BuildError {
    /// What is held and what was sent do not make what was announced. A snapshot may.
    Drifted(String),
    /// The node cannot serve what was sent.
    Refused(Problems),
}

/// A record that is whole and leads to what it says, ready to be compiled.
pub struct Checked {
    base: Arc<Snapshot>,
    edits: Vec<Edit>,
    reached: Position,
    /// The record stood on its own.
    is_whole: bool,
}

/// The envelopes of a body, within bounds.
pub fn envelopes(body: &[u8]) -> impl Iterator<Item = Result<Envelope, BodyError>> {
    let (decoded, error) = match proto::body::decode(body, MAX_BYTES) {
        Ok(decoded) => (Some(decoded), None),
        Err(error) => (None, Some(Err(error))),
    };
    decoded.into_iter().flatten().chain(error)
}

/// Decodes a record and works out the digest it leads to. `held` is what the node serves.
pub fn check(held: &Arc<Snapshot>, record: &Record) -> Result<Checked, BuildError> {
    let is_whole = record.is_whole();
    let base = if is_whole { Arc::default() } else { Arc::clone(held) };
    if Position::of(&base) != record.base {
        let (base, held) = (record.base.revision, held.revision);
        return Err(BuildError::Drifted(format!("the change builds on revision {base}, but revision {held} is held")));
    }
    let mut edits = Vec::new();
    let mut problems = Problems::new();
    for envelope in envelopes(&record.body) {
        let envelope = envelope.map_err(|error| BuildError::Drifted(error.to_string()))?;
        match model::wire::edit(&envelope) {
            Ok(edit) => edits.push(edit),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(BuildError::Refused(problems));
    }
    let digest = digest_after(&base.config, &edits);
    if digest != record.reached.digest {
        let Position { revision, digest: announced } = record.reached;
        return Err(BuildError::Drifted(format!(
            "revision {revision} shall have the digest {announced}, not {digest}"
        )));
    }
    Ok(Checked { base, edits, reached: record.reached, is_whole })
}

impl Checked {
    pub fn compile(self) -> Result<Arc<Snapshot>, BuildError> {
        match self.base.apply(self.reached.revision, self.edits) {
            Ok((snapshot, _)) if Position::of(&snapshot) == self.reached => Ok(Arc::new(snapshot)),
            Ok(_) => Err(BuildError::Drifted("what was compiled has another digest than what was sent".to_owned())),
            Err(problems) if self.is_whole => Err(BuildError::Refused(problems)),
            // What was checked one revision after the other may not hold in one step. From nothing, only what
            // the last of them holds counts.
            Err(problems) => Err(BuildError::Drifted(summary(&problems))),
        }
    }
}

/// Costs what the edits cost. Two edits of one resource give a wrong result, which is then refused.
fn digest_after(config: &Config, edits: &[Edit]) -> Digest {
    let mut digest = config.digest();
    for edit in edits {
        let (key, after) = match edit {
            Edit::Remove { key } => (key, None),
            Edit::Restore { key, document } => (key, Some(document)),
            Edit::Put { .. } => unreachable!("envelopes hold no unchecked resources"),
        };
        let of = |document: &model::resource::Document| {
            Digest::of_resource(key.kind.singular(), &key.name, document.created, &document.spec)
        };
        if let Some(before) = config.get(key) {
            digest = digest.minus(of(before));
        }
        if let Some(after) = after {
            digest = digest.plus(of(after));
        }
    }
    digest
}

/// The first few problems, for a log line.
pub fn summary(problems: &[Problem]) -> String {
    let mut text = problems.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if problems.len() > SHOWN {
        text.push_str(&format!("; and {} more", problems.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use model::resource::{Document, Key, Kind};
    use model::wire::envelope;
    use serde_json::json;

    use super::*;

    fn put(name: &str, status: u16) -> Edit {
        let spec = json!({"paths": [format!("/{name}")], "respond": {"status": status}});
        Edit::Put { kind: Kind::Route, name: name.to_owned(), spec }
    }

    fn after(base: &Snapshot, edits: Vec<Edit>) -> Arc<Snapshot> {
        Arc::new(base.apply(base.revision + 1, edits).expect("good edits").0)
    }

    fn record(base: &Snapshot, reached: &Snapshot, envelopes: Vec<Envelope>) -> Record {
        Record { base: Position::of(base), reached: Position::of(reached), body: proto::body::encode(envelopes) }
    }

    fn written(snapshot: &Snapshot, name: &str) -> Envelope {
        let key = Key::new(Kind::Route, name.parse().expect("a name"));
        envelope(&key, snapshot.config.get(&key).expect("it is there"))
    }

    fn build(held: &Arc<Snapshot>, record: &Record) -> Result<Arc<Snapshot>, BuildError> {
        check(held, record)?.compile()
    }

    #[test]
    fn a_delta_needs_its_base_and_leads_to_its_digest() {
        let first = after(&Snapshot::default(), vec![put("a", 200)]);
        let second = after(&first, vec![put("b", 200)]);
        let good = record(&first, &second, vec![written(&second, "b")]);
        let built = build(&first, &good).expect("it fits");
        assert_eq!(Position::of(&built), Position::of(&second));

        let drifted =
            |held: &Arc<Snapshot>, record: &Record| matches!(build(held, record), Err(BuildError::Drifted(_)));
        assert!(drifted(&second, &good), "another base");
        assert!(drifted(&first, &record(&first, &second, vec![])), "something is missing");
        let twice = vec![written(&second, "b"), written(&second, "b")];
        assert!(drifted(&first, &record(&first, &second, twice)), "something is there twice");
        let cut = Record { body: good.body.slice(..good.body.len() - 1), ..good };
        assert!(drifted(&first, &cut), "the body ends too early");
    }

    #[test]
    fn a_snapshot_stands_on_its_own_whatever_is_held() {
        let held = after(&Snapshot::default(), vec![put("old", 200)]);
        let goal = after(&Snapshot::default(), vec![put("a", 200)]);
        let built = build(&held, &Record::whole(&goal)).expect("it fits");
        assert_eq!((Position::of(&built), built.routes.len()), (Position::of(&goal), 1));
    }

    #[test]
    fn what_this_node_cannot_do_is_refused_with_the_resource() {
        let held = Arc::default();
        let unknown = Envelope { kind: "teapot".to_owned(), name: "brown".to_owned(), ..Envelope::default() };
        let refused = build(&held, &record(&held, &held, vec![unknown]));
        let Err(BuildError::Refused(problems)) = refused else { panic!("it is not known") };
        assert_eq!((&*problems[0].code, problems[0].name.as_deref()), ("unknown-kind", Some("brown")));

        // Whole and with the right digest, but not to be compiled.
        let key = Key::new(Kind::Route, "a".parse().expect("a name"));
        let document = Document { created: 1, spec: r#"{"paths":["/a"],"teapot":true}"#.into() };
        let digest = Digest::of_resource("route", "a", document.created, &document.spec);
        let reached = Position { revision: 1, digest };
        let body = proto::body::encode([envelope(&key, &document)]);
        let refused = build(&held, &Record { base: Position::default(), reached, body });
        let Err(BuildError::Refused(problems)) = refused else { panic!("it is not known") };
        assert!(problems.iter().any(|problem| problem.pointer == "/teapot"), "{problems:?}");
    }
}
