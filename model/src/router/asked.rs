//! A request, with what several routes may ask of it worked out once.

use std::borrow::Cow;
use std::cell::OnceCell;

use http::HeaderName;
use percent_encoding::percent_decode_str;

use super::Request;

pub(super) struct Asked<'a> {
    pub(super) request: &'a Request<'a>,
    parameters: OnceCell<Parameters<'a>>,
}

/// Name and value, decoded; by name, those of one name in the order of the request.
type Parameters<'a> = Box<[(Cow<'a, [u8]>, Cow<'a, [u8]>)]>;

impl<'a> Asked<'a> {
    pub(super) fn new(request: &'a Request<'a>) -> Self {
        Self { request, parameters: OnceCell::new() }
    }

    /// The values of all fields of this name.
    pub(super) fn header<'s>(&'s self, name: &'s HeaderName) -> impl Iterator<Item = &'s [u8]> {
        self.request.headers.get_all(name)
    }

    /// The values of all parameters of this name.
    pub(super) fn parameter(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let name = name.as_bytes();
        let parameters = self.parameters.get_or_init(|| parameters(self.request.query.unwrap_or_default()));
        let first = parameters.partition_point(|(other, _)| &**other < name);
        parameters[first..].iter().take_while(move |(other, _)| &**other == name).map(|(_, value)| &**value)
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
