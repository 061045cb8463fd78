//! What a route asks of methods, header fields and query parameters, as it is written.

use std::fmt;

use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;
use crate::problem::Fault;
use crate::value::written_as_string;

/// A request method (RFC 9110 section 9), in upper case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MethodName(pub Method);

/// The name of a header field (RFC 9110 section 5.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderField(pub HeaderName);

/// A condition on everything that a request holds under one name: exactly one of `exact`, `regex` and `present`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "{N}Condition")]
pub struct Condition<N> {
    /// Of the header field, in any case, or of the query parameter, to the letter.
    pub name: N,
    /// One of the values is this, to the letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The whole of one of the values matches this regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// `true`: there is a value, whatever it is. `false`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// On a header field. A field that is sent several times has several values; each is compared as a whole.
pub type HeaderCondition = Condition<HeaderField>;

/// On a query parameter. Names and values are compared after percent-decoding; a parameter without `=` has the
/// empty value.
pub type QueryCondition = Condition<String>;

/// What a [`Condition`] asks of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueMatch<'a> {
    Exact(&'a str),
    Regex(&'a str),
    Present,
    Absent,
}

impl<N> Condition<N> {
    #[must_use]
    pub fn asks(&self) -> ValueMatch<'_> {
        match (&self.exact, &self.regex, self.present) {
            (Some(value), ..) => ValueMatch::Exact(value),
            (_, Some(pattern), _) => ValueMatch::Regex(pattern),
            (.., Some(false)) => ValueMatch::Absent,
            (.., Some(true) | None) => ValueMatch::Present,
        }
    }

    fn check(&self) -> Option<Fault> {
        let asked = [self.exact.is_some(), self.regex.is_some(), self.present.is_some()];
        match asked.iter().filter(|is_asked| **is_asked).count() {
            0 => Some(
                Fault::new("", "missing-value", "the condition asks for nothing")
                    .hint("write one of `exact`, `regex` and `present`"),
            ),
            1 => self.regex.as_deref().and_then(pattern::check).map(|fault| fault.below("/regex")),
            _ => Some(Fault::new(
                "",
                "conflicting-fields",
                "`exact`, `regex` and `present` exclude each other: write one of them, and another condition for more",
            )),
        }
    }
}

pub(super) fn check_headers(conditions: &[HeaderCondition], faults: &mut Vec<Fault>) {
    for (index, condition) in conditions.iter().enumerate() {
        let below = format!("/headers/{index}");
        faults.extend(condition.check().map(|fault| fault.below(&below)));
        if let Some(exact) = condition.exact.as_ref().filter(|exact| http::HeaderValue::from_str(exact).is_err()) {
            let message = format!("`{exact}` cannot be the value of a header field");
            faults.push(Fault::new(format!("{below}/exact"), "invalid-value", message));
        }
    }
}

pub(super) fn check_query(conditions: &[QueryCondition], faults: &mut Vec<Fault>) {
    for (index, condition) in conditions.iter().enumerate() {
        faults.extend(condition.check().map(|fault| fault.below(&format!("/query/{index}"))));
    }
}

impl std::str::FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no request method: write it in upper case, such as `GET`");
        let method = Method::from_bytes(text.as_bytes()).map_err(|_| wrong())?;
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(wrong());
        }
        Ok(Self(method))
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

written_as_string!(MethodName, "Method", "^[A-Z0-9!#$%&'*+.^_|~-]+$", "A request method, in upper case: `GET`.");

impl std::str::FromStr for HeaderField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        HeaderName::from_bytes(text.as_bytes()).map(Self).map_err(|_| format!("`{text}` is no name of a header field"))
    }
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

written_as_string!(
    HeaderField,
    "HeaderName",
    "^[A-Za-z0-9!#$%&'*+.^_|~-]+$",
    "The name of a header field; upper and lower case are the same."
);
