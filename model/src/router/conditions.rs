//! What a route asks of a request beyond host and path.

use std::cmp::Ordering;
use std::net::IpAddr;

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::Age;
use super::asked::Asked;
use super::explain::Because;
use crate::pattern::Pattern;
use crate::problem::Fault;
use crate::resource::route::{Condition, Route, ValueMatch};
use crate::slots::Slot;

/// Conditions of one route, shared by all its groups. Most routes have none.
pub(super) struct Conditions {
    /// One of them; empty for all.
    methods: Box<[Method]>,
    headers: Box<[(HeaderName, Test)]>,
    query: Box<[(Box<str>, Test)]>,
    /// One of them; empty for all. Apart from one another, in ascending order.
    sources: Box<[IpNet]>,
    /// One of them, unless it is for every listener.
    listeners: Option<Box<[Slot]>>,
    priority: i32,
    age: Age,
}

/// What is asked of the values under one name.
pub(super) enum Test {
    Exact(Box<[u8]>),
    Regex(Box<Pattern>),
    Present,
    Absent,
}

impl PartialEq for Test {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            (Self::Present, Self::Present) | (Self::Absent, Self::Absent) => true,
            _ => false,
        }
    }
}

/// Which condition a request does not meet.
#[derive(Clone, Copy)]
pub(super) enum Failure<'r> {
    Path,
    Method,
    Source,
    Listener,
    Header(&'r HeaderName, &'r Test),
    Query(&'r str, &'r Test),
}

/// A method, the number of header conditions, the number of query conditions, sources, listeners; the priority: the
/// greater is asked first.
pub(super) type Specificity = (bool, usize, usize, bool, bool, i32);

impl Conditions {
    /// Nothing for a route that takes every request of its hosts and paths.
    pub(super) fn of(written: &Route, listeners: &[Slot], age: &dyn Fn() -> Age) -> Result<Option<Self>, Vec<Fault>> {
        let mut faults = Vec::new();
        let headers = compiled("/headers", &written.headers, |name| name.0.clone(), &mut faults);
        let query = compiled("/query", &written.query, |name| name.as_str().into(), &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let asks_nothing = written.methods.is_empty()
            && headers.is_empty()
            && query.is_empty()
            && written.sources.is_empty()
            && written.listeners.is_empty()
            && written.priority == 0;
        if asks_nothing {
            return Ok(None);
        }
        let mut sources = IpNet::aggregate(&written.sources.iter().map(|network| network.0).collect());
        sources.sort_unstable();
        Ok(Some(Self {
            methods: written.methods.iter().map(|method| method.0.clone()).collect(),
            headers,
            query,
            sources: sources.into(),
            listeners: (!written.listeners.is_empty()).then(|| listeners.into()),
            priority: written.priority,
            age: age(),
        }))
    }

    fn specificity(&self) -> Specificity {
        let (has_methods, has_sources) = (!self.methods.is_empty(), !self.sources.is_empty());
        let (headers, query) = (self.headers.len(), self.query.len());
        (has_methods, headers, query, has_sources, self.listeners.is_some(), self.priority)
    }

    /// `Less` if what is under the first conditions is asked before what is under the second. Where neither has any,
    /// nothing here decides.
    pub(super) fn precedence(one: Option<&Self>, other: Option<&Self>) -> Ordering {
        let specificity = |conditions: Option<&Self>| conditions.map_or_else(Specificity::default, Self::specificity);
        specificity(other).cmp(&specificity(one)).then_with(|| match (one, other) {
            (Some(one), Some(other)) => one.age.cmp(&other.age),
            // Only conditions set apart from none.
            _ => Ordering::Equal,
        })
    }

    /// The values that some field or parameter must have.
    pub(super) fn exact_values(&self) -> impl Iterator<Item = (Asks<'_>, &[u8])> {
        fn exact(test: &Test) -> Option<&[u8]> {
            match test {
                Test::Exact(value) => Some(value),
                Test::Regex(_) | Test::Present | Test::Absent => None,
            }
        }
        let headers = self.headers.iter().filter_map(|(name, test)| Some((Asks::Header(name), exact(test)?)));
        let query = self.query.iter().filter_map(|(name, test)| Some((Asks::Query(name), exact(test)?)));
        headers.chain(query)
    }

    /// Which condition fails first, if one does.
    pub(super) fn check(&self, asked: &Asked<'_>) -> Result<(), Failure<'_>> {
        let request = asked.request;
        if !self.methods.is_empty() && !self.methods.contains(request.method) {
            return Err(Failure::Method);
        }
        if let Some(only) = &self.listeners
            && !request.listener.is_some_and(|slot| only.contains(&slot))
        {
            return Err(Failure::Listener);
        }
        if !self.sources.is_empty() && !request.source.is_some_and(|source| is_in(&self.sources, source)) {
            return Err(Failure::Source);
        }
        let failed = self.headers.iter().find(|(name, test)| !test.holds(asked.header(name)));
        if let Some((name, test)) = failed {
            return Err(Failure::Header(name, test));
        }
        match self.query.iter().find(|(name, test)| !test.holds(asked.parameter(name))) {
            Some((name, test)) => Err(Failure::Query(name, test)),
            None => Ok(()),
        }
    }
}

/// What people are told: see [`super::explain`].
impl Conditions {
    pub(super) fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Where the two first differ, of which the second comes later.
    pub(super) fn decided_by(one: Option<&Self>, other: Option<&Self>) -> Because {
        let specificity = |conditions: Option<&Self>| conditions.map_or_else(Specificity::default, Self::specificity);
        let (first, second) = (specificity(one), specificity(other));
        let steps = [
            (first.0 != second.0, Because::Method),
            (first.1 != second.1, Because::Header),
            (first.2 != second.2, Because::Query),
            (first.3 != second.3, Because::Source),
            (first.4 != second.4, Because::Listener),
            (first.5 != second.5, Because::Priority),
        ];
        steps.iter().find(|(differs, _)| *differs).map_or(Because::Age, |(_, because)| *because)
    }
}

/// What routes are to one another: see [`super::rivals`].
impl Conditions {
    /// Whether nothing but a name would decide between the two, whatever else they ask for.
    pub(super) fn are_as_specific(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                one.specificity() == other.specificity() && one.age.created == other.age.created
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether there are requests that meet both, while nothing sets the two apart.
    pub(super) fn is_tied_with(&self, other: &Self) -> bool {
        /// Nothing means everything, and if one of them is empty then so is the other.
        fn share<T: PartialEq>(one: &[T], other: &[T]) -> bool {
            one.is_empty() || one.iter().any(|entry| other.contains(entry))
        }
        let sources_meet = self.sources.is_empty()
            || self.sources.iter().any(|net| other.sources.iter().any(|o| net.contains(o) || o.contains(net)));
        Self::are_as_specific(Some(self), Some(other))
            && share(&self.methods, &other.methods)
            && share(self.listeners.as_deref().unwrap_or(&[]), other.listeners.as_deref().unwrap_or(&[]))
            && sources_meet
            && self.headers.iter().all(|test| other.headers.contains(test))
            && self.query.iter().all(|test| other.query.contains(test))
    }

    /// Whether the fields, parameters and addresses of every request that meets the other conditions meet these.
    pub(super) fn covers_fields_of(&self, other: Option<&Self>) -> bool {
        fn all_follow<N: PartialEq>(tests: &[(N, Test)], given: &[(N, Test)]) -> bool {
            tests
                .iter()
                .all(|(name, test)| given.iter().any(|(other, given)| name == other && test.follows_from(given)))
        }
        let (headers, query, sources) =
            other.map_or((&[][..], &[][..], &[][..]), |other| (&*other.headers, &*other.query, &*other.sources));
        let covers_sources = self.sources.is_empty()
            || (!sources.is_empty() && sources.iter().all(|net| holds_network(&self.sources, net)));
        covers_sources && all_follow(&self.headers, headers) && all_follow(&self.query, query)
    }

    /// Shows every method and listener that these are for, until `visit` says no.
    pub(super) fn each_sort(&self, visit: &mut dyn FnMut(Option<&Method>, Option<Slot>) -> bool) -> bool {
        fn or_any<T>(list: Vec<Option<T>>) -> Vec<Option<T>> {
            if list.is_empty() { vec![None] } else { list }
        }
        let listeners = or_any(self.listeners.iter().flatten().copied().map(Some).collect());
        let methods = or_any(self.methods.iter().map(Some).collect());
        methods.iter().all(|method| listeners.iter().all(|listener| visit(*method, *listener)))
    }

    pub(super) fn takes(&self, method: Option<&Method>, listener: Option<Slot>) -> bool {
        let takes_method = self.methods.is_empty() || method.is_some_and(|method| self.methods.contains(method));
        let takes_listener =
            self.listeners.as_ref().is_none_or(|only| listener.is_some_and(|listener| only.contains(&listener)));
        takes_method && takes_listener
    }
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks<'a> {
    Header(&'a HeaderName),
    Query(&'a str),
}

impl Asks<'_> {
    /// For putting them into the one order that they have everywhere.
    pub(super) fn order(&self) -> (bool, &str) {
        match self {
            Self::Header(name) => (false, name.as_str()),
            Self::Query(name) => (true, name),
        }
    }
}

/// The values that some field or parameter must have, of a route as it is written: what [`Conditions::exact_values`]
/// tells of its compiled form.
pub(super) fn written_exact_values(written: &Route) -> impl Iterator<Item = (Asks<'_>, &[u8])> {
    fn exact<N>(condition: &Condition<N>) -> Option<&[u8]> {
        match condition.asks() {
            ValueMatch::Exact(value) => Some(value.as_bytes()),
            ValueMatch::Regex(_) | ValueMatch::Present | ValueMatch::Absent => None,
        }
    }
    let headers = written.headers.iter().filter_map(|one| Some((Asks::Header(&one.name.0), exact(one)?)));
    headers.chain(written.query.iter().filter_map(|one| Some((Asks::Query(&one.name), exact(one)?))))
}

impl Test {
    fn compile(asks: ValueMatch<'_>) -> Result<Self, Fault> {
        Ok(match asks {
            ValueMatch::Exact(value) => Self::Exact(value.as_bytes().into()),
            ValueMatch::Regex(pattern) => {
                Self::Regex(Box::new(Pattern::compile(pattern).map_err(|fault| fault.below("/regex"))?))
            }
            ValueMatch::Present => Self::Present,
            ValueMatch::Absent => Self::Absent,
        })
    }

    /// Whether it holds wherever the other one does.
    fn follows_from(&self, given: &Self) -> bool {
        match (self, given) {
            (Self::Present, Self::Exact(_) | Self::Regex(_)) => true,
            (Self::Regex(pattern), Self::Exact(value)) => pattern.is_match(value),
            _ => self == given,
        }
    }

    fn holds<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        match self {
            Self::Exact(exact) => values.any(|value| value == &**exact),
            Self::Regex(pattern) => values.any(|value| pattern.is_match(value)),
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
        }
    }
}

fn compiled<N, T>(
    pointer: &str,
    written: &[Condition<N>],
    name: impl Fn(&N) -> T,
    faults: &mut Vec<Fault>,
) -> Box<[(T, Test)]> {
    let mut tests = Vec::with_capacity(written.len());
    for (index, condition) in written.iter().enumerate() {
        match Test::compile(condition.asks()) {
            Ok(test) => tests.push((name(&condition.name), test)),
            Err(fault) => faults.push(fault.below(&format!("{pointer}/{index}"))),
        }
    }
    tests.into()
}

/// Whether one of the networks, which lie apart in ascending order, holds the address.
fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let behind = networks.partition_point(|network| network.network() <= address);
    networks[..behind].last().is_some_and(|network| network.contains(&address))
}

/// Whether one of the networks, which lie apart in ascending order, holds all of the other.
fn holds_network(networks: &[IpNet], other: &IpNet) -> bool {
    let behind = networks.partition_point(|network| network.network() <= other.network());
    networks[..behind].last().is_some_and(|network| network.contains(other))
}
