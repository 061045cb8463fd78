//! Edits as envelopes, and changes of targets: the only file here that knows protobuf.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Changed, Edit};
use crate::membership::{self, Member};
use crate::problem::{Fault, Problem};
use crate::resource::{Document, Key, Kind};

/// The envelope that creates or replaces a resource.
#[must_use]
pub fn envelope(key: &Key, document: &Document) -> proto::Envelope {
    proto::Envelope {
        kind: key.kind.singular().to_owned(),
        name: key.name.to_string(),
        removed: false,
        created: document.created,
        spec: Bytes::copy_from_slice(document.spec.as_bytes()),
    }
}

/// The envelope of one change.
#[must_use]
pub fn envelope_of_change(change: &Changed) -> proto::Envelope {
    match &change.after {
        Some(document) => envelope(&change.key, document),
        None => proto::Envelope {
            kind: change.key.kind.singular().to_owned(),
            name: change.key.name.to_string(),
            removed: true,
            ..proto::Envelope::default()
        },
    }
}

/// What an envelope asks for. A kind that this version does not know is a problem, never skipped: it may
/// be what keeps somebody out.
pub fn edit(envelope: &proto::Envelope) -> Result<Edit, Problem> {
    let wrong = |code: &'static str, message: String| Problem {
        kind: None,
        name: Some(envelope.name.clone()),
        pointer: String::new(),
        code: code.into(),
        message,
        hint: Some("upgrade this node before the control plane".to_owned()),
        location: None,
        page: None,
    };
    let kind = Kind::parse(&envelope.kind)
        .ok_or_else(|| wrong("unknown-kind", format!("this node knows no kind `{}`", envelope.kind)))?;
    let name = envelope
        .name
        .parse()
        .map_err(|message| Fault::new("/name", "invalid-name", message).in_resource(kind, &envelope.name))?;
    let key = Key::new(kind, name);
    if envelope.removed {
        return Ok(Edit::Remove { key });
    }
    let spec = str::from_utf8(&envelope.spec)
        .map_err(|_| Fault::new("", "invalid-json", "the resource is not UTF-8").at(&key))?;
    Ok(Edit::Restore { key, document: Document { created: envelope.created, spec: Arc::from(spec) } })
}

/// A change of a target as it is sent.
#[must_use]
pub fn target_change_to_wire(change: &membership::Change) -> proto::TargetChange {
    let spec = |member: &Member| Bytes::from(serde_json::to_vec(member).expect("texts and numbers are JSON"));
    proto::TargetChange {
        service: change.service.to_string(),
        target: change.target.to_string(),
        version: change.version,
        removed: change.member.is_none(),
        spec: change.member.as_ref().map(spec).unwrap_or_default(),
    }
}

/// A change of a target that was sent; or why this version makes nothing of it.
pub fn target_change_from_wire(change: &proto::TargetChange) -> Result<membership::Change, String> {
    let spec = |spec: &[u8]| serde_json::from_slice::<Member>(spec).map_err(|error| error.to_string());
    Ok(membership::Change {
        service: change.service.parse()?,
        target: change.target.parse()?,
        version: change.version,
        member: if change.removed { None } else { Some(spec(&change.spec)?) },
    })
}

/// A problem as a node reports it.
#[must_use]
pub fn problem_to_wire(problem: &Problem) -> proto::Problem {
    proto::Problem {
        kind: problem.kind.map(|kind| kind.singular().to_owned()).unwrap_or_default(),
        name: problem.name.clone().unwrap_or_default(),
        pointer: problem.pointer.clone(),
        code: problem.code.to_string(),
        message: problem.message.clone(),
        hint: problem.hint.clone().unwrap_or_default(),
    }
}

/// A problem that a node reported.
#[must_use]
pub fn problem_from_wire(problem: proto::Problem) -> Problem {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Problem {
        kind: Kind::parse(&problem.kind),
        name: some(problem.name),
        pointer: problem.pointer,
        code: problem.code.into(),
        message: problem.message,
        hint: some(problem.hint),
        location: None,
        page: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_does_not_understand_is_a_problem() {
        let good = proto::Envelope { kind: "service".into(), name: "a".into(), ..proto::Envelope::default() };
        let cases = [
            (proto::Envelope { kind: "plugin".into(), ..good.clone() }, "unknown-kind"),
            (proto::Envelope { name: "No Name".into(), ..good.clone() }, "invalid-name"),
            (proto::Envelope { spec: Bytes::from_static(b"\xff"), ..good.clone() }, "invalid-json"),
        ];
        for (envelope, code) in cases {
            assert_eq!(edit(&envelope).expect_err(code).code, code);
        }
        assert!(edit(&proto::Envelope { removed: true, ..good }).is_ok());
    }

    #[test]
    fn changes_of_targets_arrive_as_they_were_sent() {
        for member in [None, Some(Member { weight: Some(0), draining: true, ..Member::default() })] {
            let (service, target) = ("shop".parse().expect("a name"), "https://[::1]:81".parse().expect("a URL"));
            let change = membership::Change { service, target, version: 7, member };
            assert_eq!(target_change_from_wire(&target_change_to_wire(&change)), Ok(change));
        }
        let unknown = proto::TargetChange { spec: r#"{"teapot":1}"#.into(), ..proto::TargetChange::default() };
        assert!(target_change_from_wire(&unknown).is_err());
    }

    #[test]
    fn problems_arrive_as_they_were_sent() {
        let fault = Fault::new("/paths/0", "invalid-path", "it is wrong").hint("mend it");
        let problem = fault.in_resource(Kind::Route, "a");
        assert_eq!(problem_from_wire(problem_to_wire(&problem)), problem);
    }
}
