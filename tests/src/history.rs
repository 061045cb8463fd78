//! What writers, readers and probes of a fleet saw while it was harmed, and what must hold of it whatever happened.
//!
//! A pure function over what was written down: [`violations`] finds every promise that was broken. Times are
//! microseconds since the beginning.

use std::collections::{BTreeMap, HashMap};

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
    pub probes: Vec<Probe>,
    /// As the control plane tells them in the end, the oldest first.
    pub revisions: Vec<Revision>,
    pub end: End,
}

/// One attempt to change the configuration. It puts its own number into one resource of its choice, and, in the same
/// transaction, into all resources that a probe can see.
#[derive(Clone, Debug)]
pub struct Write {
    pub number: u64,
    /// The resource of its choice.
    pub resource: String,
    /// Which control plane was asked.
    pub replica: usize,
    pub began: u64,
    pub ended: u64,
    pub outcome: Outcome,
}

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in this revision.
    Acknowledged(u64),
    /// It is in none.
    Refused,
    /// Nothing, or that nobody knows.
    Unknown,
}

/// Somebody asked a control plane for the newest revision.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub replica: usize,
    pub began: u64,
    pub ended: u64,
    pub revision: u64,
}

/// One request to a node.
#[derive(Clone, Debug)]
pub struct Probe {
    pub node: usize,
    /// How often its process had been started.
    pub life: u64,
    pub began: u64,
    pub ended: u64,
    /// The numbers that different resources put into the one answer; or why there was none, though nobody harmed the
    /// process.
    pub seen: Result<Vec<u64>, String>,
}

#[derive(Clone, Debug)]
pub struct Revision {
    pub number: u64,
    /// The write that its message names; nothing for those of the test itself.
    pub write: Option<u64>,
}

/// How it ended, when everything was whole again.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// Number and digest of the newest revision, on each control plane.
    pub heads: Vec<(u64, String)>,
    /// What each node serves.
    pub nodes: Vec<(u64, String)>,
    /// The numbers that the resources of writers hold.
    pub resources: BTreeMap<String, u64>,
}

/// Every promise that was broken, in words.
#[must_use]
pub fn violations(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    let revision_of = places(history, &mut found);
    writes_are_in_order(history, &revision_of, &mut found);
    reads_never_go_back(history, &mut found);
    probes_see_one_revision(history, &revision_of, &mut found);
    all_ends_alike(history, &revision_of, &mut found);
    found
}

/// In which revision each write is. Every acknowledged one is in one, in that of which its writer was told; no refused one
/// is in any, and nothing is in two.
fn places(history: &History, found: &mut Vec<String>) -> HashMap<u64, u64> {
    for (at, revision) in history.revisions.iter().enumerate() {
        if revision.number != at as u64 + 1 {
            found.push(format!("revision {} stands in the place of {}", revision.number, at + 1));
        }
    }
    let mut places = HashMap::new();
    for revision in &history.revisions {
        let Some(write) = revision.write else { continue };
        if let Some(before) = places.insert(write, revision.number) {
            found.push(format!("write {write} is in revision {before} and in {}", revision.number));
        }
    }
    for Write { number, outcome, .. } in &history.writes {
        match (outcome, places.get(number)) {
            (Outcome::Acknowledged(told), Some(place)) if told == place => {}
            (Outcome::Acknowledged(told), place) => {
                found.push(format!("write {number} was acknowledged as revision {told} and is in {place:?}"));
            }
            (Outcome::Refused, Some(place)) => {
                found.push(format!("write {number} was refused and is in revision {place}"));
            }
            (Outcome::Refused | Outcome::Unknown, _) => {}
        }
    }
    places
}

/// What began after something else had been acknowledged comes after it.
fn writes_are_in_order(history: &History, revision_of: &HashMap<u64, u64>, found: &mut Vec<String>) {
    let is_acknowledged = |write: &&Write| matches!(write.outcome, Outcome::Acknowledged(_));
    let mut ended: Vec<&Write> = history.writes.iter().filter(is_acknowledged).collect();
    ended.sort_by_key(|write| write.ended);
    let mut began: Vec<&Write> = history.writes.iter().collect();
    began.sort_by_key(|write| write.began);
    let mut ended = ended.into_iter().peekable();
    let mut newest: Option<(u64, u64)> = None;
    for write in began {
        while let Some(before) = ended.next_if(|before| before.ended < write.began) {
            newest = newest.max(revision_of.get(&before.number).map(|place| (*place, before.number)));
        }
        if let (Some((place, before)), Some(own)) = (newest, revision_of.get(&write.number))
            && *own <= place
        {
            found.push(format!(
                "write {} began after write {before} was acknowledged and is in revision {own}, before {place}",
                write.number
            ));
        }
    }
}

/// What a control plane has shown or acknowledged it does not take back.
fn reads_never_go_back(history: &History, found: &mut Vec<String>) {
    let shown = history.reads.iter().map(|read| (read.replica, read.ended, read.revision));
    let acknowledged = history.writes.iter().filter_map(|write| match write.outcome {
        Outcome::Acknowledged(revision) => Some((write.replica, write.ended, revision)),
        _ => None,
    });
    let mut known: Vec<(usize, u64, u64)> = shown.chain(acknowledged).collect();
    known.sort_by_key(|(_, ended, _)| *ended);
    let mut known = known.into_iter().peekable();
    let mut reads: Vec<&Read> = history.reads.iter().collect();
    reads.sort_by_key(|read| read.began);
    let mut newest: HashMap<usize, u64> = HashMap::new();
    for read in reads {
        while let Some((replica, _, revision)) = known.next_if(|(_, ended, _)| *ended < read.began) {
            let newest = newest.entry(replica).or_default();
            *newest = revision.max(*newest);
        }
        let before = newest.get(&read.replica).copied().unwrap_or(0);
        if read.revision < before {
            let Read { replica, revision, .. } = read;
            found.push(format!("control plane {replica} showed revision {revision} after it had shown {before}"));
        }
    }
}

/// When an answer was asked for, when it came, and the revision that it shows.
type Answered = (u64, u64, u64);

/// A request is served by one revision that exists, and no node goes back while its process lives.
fn probes_see_one_revision(history: &History, revision_of: &HashMap<u64, u64>, found: &mut Vec<String>) {
    let began: HashMap<u64, u64> = history.writes.iter().map(|write| (write.number, write.began)).collect();
    let mut answered: BTreeMap<(usize, u64), Vec<Answered>> = BTreeMap::new();
    for probe in &history.probes {
        let node = probe.node;
        let seen = match &probe.seen {
            Ok(seen) => seen,
            Err(failure) => {
                found.push(format!("node {node} did not answer at {}: {failure}", probe.began));
                continue;
            }
        };
        let Some((first, rest)) = seen.split_first() else {
            found.push(format!("an answer of node {node} shows nothing"));
            continue;
        };
        if rest.iter().any(|other| other != first) {
            found.push(format!("an answer of node {node} is a mixture: {seen:?}"));
            continue;
        }
        let Some(revision) = revision_of.get(first) else {
            found.push(format!("node {node} served write {first}, which is in no revision"));
            continue;
        };
        if began.get(first).is_some_and(|began| *began > probe.ended) {
            found.push(format!("node {node} served write {first} before it began"));
        }
        answered.entry((node, probe.life)).or_default().push((probe.began, probe.ended, *revision));
    }
    for ((node, _), mut probes) in answered {
        let mut ended = probes.clone();
        ended.sort_by_key(|(_, ended, _)| *ended);
        let mut ended = ended.into_iter().peekable();
        probes.sort_by_key(|(began, ..)| *began);
        let mut newest = 0;
        for (began, _, revision) in probes {
            while let Some((.., before)) = ended.next_if(|(_, ended, _)| *ended < began) {
                newest = newest.max(before);
            }
            if revision < newest {
                found.push(format!("node {node} went back from revision {newest} to {revision} at {began}"));
            }
        }
    }
}

/// All control planes have the same head, all nodes serve it, and each resource holds what was written to it last.
fn all_ends_alike(history: &History, revision_of: &HashMap<u64, u64>, found: &mut Vec<String>) {
    let End { heads, nodes, resources } = &history.end;
    let newest = history.revisions.last().map_or(0, |revision| revision.number);
    for (replica, head) in heads.iter().enumerate() {
        if head.0 != newest || *head != heads[0] {
            found.push(format!("control plane {replica} ends at {head:?}, and the history at {newest}"));
        }
    }
    for (node, serving) in nodes.iter().enumerate() {
        if heads.first() != Some(serving) {
            found.push(format!("node {node} ends at {serving:?}, and the head is {:?}", heads.first()));
        }
    }
    let mut last: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for write in &history.writes {
        let Some(revision) = revision_of.get(&write.number) else { continue };
        let known = last.entry(&write.resource).or_default();
        *known = (*known).max((*revision, write.number));
    }
    for (resource, (_, write)) in last {
        let held = resources.get(resource);
        if held != Some(&write) {
            found.push(format!("`{resource}` ends as write {held:?}, and the last one to it was {write}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three writes, two of them to one resource; the second of them lost its answer.
    fn good() -> History {
        let write = |number, resource: &str, began, outcome| Write {
            number,
            resource: resource.to_owned(),
            replica: 0,
            began,
            ended: began + 5,
            outcome,
        };
        let probe = |began, seen| Probe { node: 0, life: 0, began, ended: began + 2, seen: Ok(vec![seen, seen]) };
        let read = |began, revision| Read { replica: 0, began, ended: began + 2, revision };
        let revision = |number, write| Revision { number, write };
        History {
            writes: vec![
                write(7, "a", 10, Outcome::Acknowledged(2)),
                write(8, "a", 20, Outcome::Unknown),
                write(9, "b", 30, Outcome::Acknowledged(4)),
                write(10, "b", 40, Outcome::Refused),
                write(11, "b", 42, Outcome::Unknown),
            ],
            reads: vec![read(11, 1), read(17, 2), read(26, 2), read(27, 3), read(40, 4)],
            probes: vec![probe(12, 7), probe(22, 7), probe(25, 8), probe(40, 9)],
            revisions: vec![revision(1, None), revision(2, Some(7)), revision(3, Some(8)), revision(4, Some(9))],
            end: End {
                heads: vec![(4, "d".to_owned()); 2],
                nodes: vec![(4, "d".to_owned()); 3],
                resources: [("a".to_owned(), 8), ("b".to_owned(), 9)].into(),
            },
        }
    }

    #[test]
    fn a_history_that_keeps_every_promise_has_no_violations() {
        assert_eq!(violations(&good()), Vec::<String>::new());
    }

    #[test]
    fn every_planted_fault_is_found() {
        type Plant = fn(&mut History);
        let faults: [(&str, Plant); 18] = [
            ("was acknowledged as revision 4 and is in None", |history| history.revisions.truncate(3)),
            ("was acknowledged as revision 3 and is in Some(4)", |history| {
                history.writes[2].outcome = Outcome::Acknowledged(3);
            }),
            ("is in revision 2 and in 3", |history| history.revisions[2].write = Some(7)),
            ("was refused and is in revision 3", |history| history.writes[1].outcome = Outcome::Refused),
            ("revision 5 stands in the place of 4", |history| history.revisions[3].number = 5),
            ("before 4", |history| {
                history.writes[2].began = 12;
                history.writes[2].ended = 13;
            }),
            ("showed revision 1 after it had shown 2", |history| history.reads[2].revision = 1),
            ("showed revision 1 after it had shown 2", |history| history.reads[1].revision = 1),
            ("is a mixture: [7, 8]", |history| history.probes[1].seen = Ok(vec![7, 8])),
            ("shows nothing", |history| history.probes[1].seen = Ok(vec![])),
            ("write 11, which is in no revision", |history| history.probes[1].seen = Ok(vec![11, 11])),
            ("write 8 before it began", |history| history.probes[0].seen = Ok(vec![8, 8])),
            ("went back from revision 3 to 2", |history| history.probes[3].seen = Ok(vec![7, 7])),
            ("did not answer at 22: reset", |history| history.probes[1].seen = Err("reset".to_owned())),
            ("control plane 1 ends at (4, \"e\")", |history| history.end.heads[1].1 = "e".to_owned()),
            ("node 2 ends at (3, \"d\")", |history| history.end.nodes[2].0 = 3),
            ("node 0 ends at (4, \"x\")", |history| history.end.nodes[0].1 = "x".to_owned()),
            ("`a` ends as write Some(7)", |history| history.end.resources.extend([("a".to_owned(), 7)])),
        ];
        for (told, plant) in faults {
            let mut history = good();
            plant(&mut history);
            let found = violations(&history);
            assert!(found.iter().any(|violation| violation.contains(told)), "{told}: {found:#?}");
        }
    }

    #[test]
    fn a_node_that_was_killed_may_come_back_with_less() {
        let mut history = good();
        history.probes[3].seen = Ok(vec![7, 7]);
        history.probes[3].life = 1;
        assert_eq!(violations(&history), Vec::<String>::new());
    }

    #[test]
    fn what_happens_at_the_same_time_may_happen_in_either_order() {
        let mut history = good();
        history.writes[1] = Write { ended: 40, outcome: Outcome::Acknowledged(4), ..history.writes[1].clone() };
        history.writes[2] =
            Write { began: 22, ended: 26, outcome: Outcome::Acknowledged(3), ..history.writes[2].clone() };
        (history.revisions[2].write, history.revisions[3].write) = (Some(9), Some(8));
        // One was under way while the other was answered.
        history.probes[3].began = 30;
        history.probes[2].ended = 50;
        assert_eq!(violations(&history), Vec::<String>::new());
    }
}
