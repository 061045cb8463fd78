//! What a route asks of a request beyond host and path.

use std::borrow::Cow;
use std::cell::OnceCell;

use http::Method;
use percent_encoding::percent_decode_str;

use super::Request;
use crate::resource::route::{HeaderCondition, QueryCondition, Route};
use crate::slots::Slot;

/// Conditions of one route, shared by all its groups. Most routes have none.
pub(super) struct Conditions {
    /// One of them; empty for all.
    methods: Box<[Method]>,
    headers: Box<[HeaderCondition]>,
    query: Box<[QueryCondition]>,
    /// One of them, unless it is for every listener.
    listeners: Option<Box<[Slot]>>,
    priority: i32,
}

/// A method, the number of header conditions, the number of query conditions, the priority: the greater is
/// asked first.
pub(super) type Specificity = (bool, usize, usize, i32);

impl Conditions {
    /// Nothing for a route that takes every request of its hosts and paths.
    pub(super) fn of(written: &Route, listeners: &[Slot]) -> Option<Self> {
        let conditions = Self {
            methods: written.methods.iter().map(|method| method.0.clone()).collect(),
            headers: written.headers.as_slice().into(),
            query: written.query.as_slice().into(),
            listeners: (!written.listeners.is_empty()).then(|| listeners.into()),
            priority: written.priority,
        };
        let asks = conditions.specificity() != Specificity::default() || conditions.listeners.is_some();
        asks.then_some(conditions)
    }

    pub(super) fn specificity(&self) -> Specificity {
        (!self.methods.is_empty(), self.headers.len(), self.query.len(), self.priority)
    }

    pub(super) fn hold(&self, asked: &Asked<'_>) -> bool {
        let request = asked.request;
        let is_header = |condition: &HeaderCondition| {
            let values = request.headers.get_all(&condition.name.0);
            values.iter().any(|value| value.as_bytes() == condition.exact.as_bytes())
        };
        let is_parameter = |condition: &QueryCondition| {
            asked.parameter(condition.name.as_bytes()).is_some_and(|value| value == condition.exact.as_bytes())
        };
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self.listeners.as_ref().is_none_or(|only| request.listener.is_some_and(|slot| only.contains(&slot)))
            && self.headers.iter().all(is_header)
            && self.query.iter().all(is_parameter)
    }
}

/// A request, with what several routes may ask of it worked out once.
pub(super) struct Asked<'a> {
    request: &'a Request<'a>,
    parameters: OnceCell<Parameters<'a>>,
}

/// Name and value, decoded; by name, those of one name in the order of the request.
type Parameters<'a> = Box<[(Cow<'a, [u8]>, Cow<'a, [u8]>)]>;

impl<'a> Asked<'a> {
    pub(super) fn new(request: &'a Request<'a>) -> Self {
        Self { request, parameters: OnceCell::new() }
    }

    /// The value of the first parameter of this name.
    fn parameter(&self, name: &[u8]) -> Option<&[u8]> {
        let parameters = self.parameters.get_or_init(|| parameters(self.request.query.unwrap_or_default()));
        let first = parameters.partition_point(|(other, _)| &**other < name);
        parameters.get(first).filter(|(other, _)| &**other == name).map(|(_, value)| &**value)
    }
}

/// Sorted, because a client may send thousands and many routes may ask.
fn parameters(query: &str) -> Parameters<'_> {
    let decode = |text| Cow::from(percent_decode_str(text));
    let written = query.split('&').filter(|parameter| !parameter.is_empty());
    let mut parameters: Vec<_> = written
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
    parameters.into()
}
