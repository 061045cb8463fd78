//! What is wrong with a configuration, said so that its author can mend it: the resource, the field,
//! the value and what to do. Whoever checks something collects all problems, never just the first.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::{Key, Kind};

/// A list of problems that stands in the way of something; never empty when it is an error.
pub type Problems = Vec<Problem>;

/// One fault in what a person wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Kind of the resource that is at fault, `route` for example; absent when none can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Name of the resource that is at fault, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON pointer (RFC 6901) from the resource to the field; empty for the resource itself.
    pub pointer: String,
    /// Stable code of this sort of fault, `unknown-field` for example.
    pub code: Cow<'static, str>,
    /// What is wrong, in one sentence with the value in it.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where it was written, when it came from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Of a warning, the page that explains its code, at the address of the admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// The line itself and a marker below it.
    pub excerpt: String,
}

/// A fault whose resource is known to the caller: what checks of a field or a policy report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub pointer: String,
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl Fault {
    #[must_use]
    pub fn new(pointer: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same fault seen from the resource that contains the value at `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }

    #[must_use]
    pub fn in_resource(self, kind: Kind, name: &str) -> Problem {
        Problem { kind: Some(kind), name: Some(name.to_owned()), ..Problem::from(self) }
    }

    #[must_use]
    pub fn at(self, key: &Key) -> Problem {
        self.in_resource(key.kind, &key.name)
    }
}

/// A fault in what is no resource.
impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self {
            kind: None,
            name: None,
            pointer: fault.pointer,
            code: Cow::Borrowed(fault.code),
            message: fault.message,
            hint: fault.hint,
            location: None,
            page: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind}")?;
            if let Some(name) = &self.name {
                write!(f, " `{name}`")?;
            }
            if !self.pointer.is_empty() {
                write!(f, " at {}", self.pointer)?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// The entry of `known` that someone who wrote `written` most likely meant.
#[must_use]
pub fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.chars().count().max(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// "did you mean …?" for [`closest`].
#[must_use]
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(written, known).map(|meant| format!("did you mean `{meant}`?"))
}

/// One more step of a JSON pointer (RFC 6901 section 3).
pub fn push_pointer(pointer: &mut String, step: &str) {
    pointer.push('/');
    pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
}
