//! Why a request finds the route that it finds: the same walk as for every request, with somebody who looks on.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::{Conditions, Failure, Test};
use super::group::{Group, Match, PathMatch};
use super::hosts::Host;
use super::{Found, Observer, Request, Router};
use crate::resource::route::PathPattern;
use crate::slots::Slot;

/// More candidates than anybody reads; the others are counted.
const MAX_CANDIDATES: usize = 200;

/// What was looked at for one request.
pub struct Trace<'r> {
    pub found: Option<Found<'r>>,
    /// The routes whose host and place match, the most specific first.
    pub candidates: Vec<Candidate>,
    /// How many more of them there are.
    pub omitted: usize,
    /// How many routes at the same places ask for exact values that the request does not have: they are never looked at.
    pub other_values: usize,
}

/// One route that was looked at.
pub struct Candidate {
    pub route: Slot,
    /// The pattern of its host that matched; empty for every host.
    pub host: String,
    /// The path of it that is at this place.
    pub path: PathPattern,
    pub verdict: Verdict,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Won,
    /// It matches, but another one comes first.
    Lost(Because),
    /// It does not match, for a reason with a sentence about it.
    Failed(Because, String),
}

/// What decided about a candidate. For one that matches: in what the winner comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    Host,
    Path,
    Method,
    Header,
    Query,
    Source,
    Listener,
    Priority,
    /// The older route comes first.
    Age,
}

impl Router {
    /// The route that the request finds, with all that was looked at on the way and what would have been after it.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Trace<'_> {
        let mut witness = Witness { seen: Vec::new(), place: None, number: 0, total: 0 };
        let found = self.walk(request, &mut witness);
        let Witness { mut seen, total, .. } = witness;
        let all = seen.len();
        // A group whose routes lie in tables is looked through table by table.
        seen.sort_by(|one, other| one.number.cmp(&other.number).then_with(|| one.precedence(other)));
        let is_found = |one: &&Seen<'_>| {
            let path = one.of.and_then(|of| of.path.as_deref());
            let is_path = match (path, found.and_then(|found| found.path)) {
                (Some(one), Some(other)) => std::ptr::eq(one, other),
                (None, None) => true,
                _ => false,
            };
            one.verdict.is_ok() && is_path && found.is_some_and(|found| found.route == one.route)
        };
        let winner = seen.iter().find(is_found).copied();
        seen.truncate(MAX_CANDIDATES);
        if let Some(winner) = winner.filter(|winner| !seen.iter().any(|one| one.is(winner))) {
            seen.push(winner);
        }
        let candidates: Vec<Candidate> = seen.iter().map(|one| one.told(winner.as_ref(), request)).collect();
        Trace { found, omitted: all - candidates.len(), candidates, other_values: total - all }
    }
}

/// Keeps what it sees.
struct Witness<'r> {
    seen: Vec<Seen<'r>>,
    place: Option<(&'r Host, &'r Group)>,
    /// Of the group.
    number: usize,
    /// How many matches are in the groups.
    total: usize,
}

#[derive(Clone, Copy)]
struct Seen<'r> {
    host: &'r Host,
    group: &'r Group,
    number: usize,
    route: Slot,
    of: Option<&'r Match>,
    verdict: Result<(), Failure<'r>>,
}

impl<'r> Observer<'r> for Witness<'r> {
    const SEES_ALL: bool = true;

    fn enter(&mut self, host: &'r Host, group: &'r Group) {
        self.place = Some((host, group));
        self.number += 1;
        self.total += group.len();
    }

    fn candidate(&mut self, route: Slot, of: Option<&'r Match>, verdict: Result<(), Failure<'r>>) {
        let (host, group) = self.place.expect("a group is entered before its candidates are seen");
        self.seen.push(Seen { host, group, number: self.number, route, of, verdict });
    }
}

impl<'r> Seen<'r> {
    fn is(&self, other: &Self) -> bool {
        let at = |of: Option<&'r Match>| of.map(std::ptr::from_ref);
        self.number == other.number && self.route == other.route && at(self.of) == at(other.of)
    }

    fn conditions(&self) -> Option<&'r Conditions> {
        self.of.and_then(|of| of.conditions.as_deref())
    }

    fn precedence(&self, other: &Self) -> Ordering {
        Conditions::precedence(self.conditions(), other.conditions())
    }

    fn told(&self, winner: Option<&Self>, request: &Request<'_>) -> Candidate {
        let verdict = match self.verdict {
            Err(failure) => {
                let (because, text) = self.failed(failure, request);
                Verdict::Failed(because, text)
            }
            Ok(()) => match winner {
                Some(winner) if !self.is(winner) => Verdict::Lost(self.behind(winner)),
                _ => Verdict::Won,
            },
        };
        Candidate { route: self.route, host: self.host.pattern().to_owned(), path: self.path(), verdict }
    }

    fn path(&self) -> PathPattern {
        let key = self.group.key.as_str();
        match self.of.and_then(|of| of.path.as_deref()) {
            Some(PathMatch::Template(template)) => PathPattern::Template(template.text.to_string()),
            Some(PathMatch::Regex(pattern)) => PathPattern::Regex(pattern.as_str().to_owned()),
            None if key.starts_with('/') => PathPattern::Exact(key.to_owned()),
            None => PathPattern::Prefix(format!("/{key}")),
        }
    }

    fn behind(&self, winner: &Self) -> Because {
        if self.host.number != winner.host.number {
            Because::Host
        } else if self.number != winner.number {
            Because::Path
        } else {
            Conditions::decided_by(winner.conditions(), self.conditions())
        }
    }

    fn failed(&self, failure: Failure<'_>, request: &Request<'_>) -> (Because, String) {
        match failure {
            Failure::Path => (Because::Path, "the path does not match the regular expression".to_owned()),
            Failure::Method => {
                let methods: Vec<&str> =
                    self.conditions().map_or(&[][..], Conditions::methods).iter().map(http::Method::as_str).collect();
                (Because::Method, format!("the method is none of {}", methods.join(", ")))
            }
            Failure::Source => match request.source {
                Some(source) => (Because::Source, format!("{source} is in none of its networks")),
                None => {
                    (Because::Source, "it is for certain networks, and no address of a client was given".to_owned())
                }
            },
            Failure::Listener => (Because::Listener, "it is for other listeners".to_owned()),
            Failure::Header(name, test) => (Because::Header, format!("header `{name}`: {}", unmet(test))),
            Failure::Query(name, test) => (Because::Query, format!("parameter `{name}`: {}", unmet(test))),
        }
    }
}

fn unmet(test: &Test) -> String {
    match test {
        Test::Exact(value) => format!("no value is `{}`", String::from_utf8_lossy(value)),
        Test::Regex(pattern) => format!("no value matches `{}`", pattern.as_str()),
        Test::Present => "there is no value".to_owned(),
        Test::Absent => "there is a value".to_owned(),
    }
}
