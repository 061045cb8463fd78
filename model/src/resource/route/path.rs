//! The paths of a route, as they are written.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pattern;
use crate::problem::Fault;
use crate::router::path::{PathFault, canonical};
use crate::router::template;

/// Longest path pattern, in bytes; requests are bounded to the same length.
pub(crate) const MAX_PATH_BYTES: usize = 8 * 1024;
const FORMS: [&str; 4] = ["prefix", "exact", "template", "regex"];

/// What each is for.
const MEANINGS: [&str; 4] = [
    "Whole segments at the front: `/orders` is for `/orders/7` and not for `/orders-old`.",
    "The whole path, to the letter.",
    "The whole path, with any one segment in the place of each name: `/orders/{id}`.",
    "A regular expression that the whole path matches.",
];

/// Which paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/orders` matches `/orders`, `/orders/` and `/orders/7`, and not `/orders-old`. Kept without a slash
    /// at its end, but for `/` itself.
    Prefix(String),
    /// The whole path, to the letter.
    Exact(String),
    /// `/orders/{id}`: the whole path, with any one segment in the place of each name.
    Template(String),
    /// A regular expression that the whole path matches.
    Regex(String),
}

impl PathPattern {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Prefix(text) | Self::Exact(text) | Self::Template(text) | Self::Regex(text) => text,
        }
    }

    /// Which of the four it is, in the word that it is written with.
    #[must_use]
    pub fn form(&self) -> &'static str {
        match self {
            Self::Prefix(_) => "prefix",
            Self::Exact(_) => "exact",
            Self::Template(_) => "template",
            Self::Regex(_) => "regex",
        }
    }

    fn prefix(path: &str) -> Self {
        let trimmed = path.trim_end_matches('/').len().max(1);
        Self::Prefix(path[..trimmed.min(path.len())].to_owned())
    }

    /// What is wrong with it. Patterns are compared with canonical paths, so one that is not canonical could
    /// never match; but where the path counts as it came, one that has no canonical form may be meant.
    pub(super) fn check(&self, normalizes: bool) -> Option<Fault> {
        let text = self.as_str();
        if text.len() > MAX_PATH_BYTES {
            return never(text, "is longer than any request may be", "use 8 KiB at most");
        }
        match self {
            Self::Prefix(path) | Self::Exact(path) => check_path(path, path, normalizes),
            Self::Template(text) => {
                let sample = match template::sample(text) {
                    Ok(sample) => sample,
                    Err((message, hint)) => return never(text, &message, hint),
                };
                check_path(text, &sample, normalizes)
            }
            Self::Regex(text) => check_regex(text),
        }
    }
}

fn never(text: &str, why: &str, hint: &str) -> Option<Fault> {
    Some(Fault::new("", "invalid-path", format!("`{text}` {why}")).hint(hint))
}

/// `path` is one that `text` matches.
fn check_path(text: &str, path: &str, normalizes: bool) -> Option<Fault> {
    if !path.starts_with('/') {
        return never(text, "does not begin with a slash", "write `/orders`");
    }
    match canonical(path) {
        Ok(canonical) if canonical == path => None,
        Ok(canonical) if text == path => {
            never(text, "is never the path of a request", &format!("write it as `{canonical}`"))
        }
        Ok(_) => {
            never(text, "matches no path of a request", "write it without empty segments, dot segments and escapes")
        }
        Err(PathFault::InvalidCharacter) => {
            let hint = match path.contains(['?', '#']) {
                true => "leave query and fragment away",
                false => "write a space as `%20`",
            };
            never(text, "holds a character that no path has", hint)
        }
        Err(_) if !normalizes => None,
        Err(fault) => never(
            text,
            &format!("is refused in requests: {fault}"),
            "write the path as the service sees it, or `normalize_path: false`",
        ),
    }
}

fn check_regex(text: &str) -> Option<Fault> {
    if let Some(fault) = pattern::check(text) {
        return Some(fault);
    }
    let lead = pattern::lead(text);
    let can_match = lead.text.starts_with('/') || (lead.text.is_empty() && !lead.is_whole);
    if can_match { None } else { never(text, "matches no path: each begins with a slash", "write `/orders/[0-9]+`") }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.form(), self.as_str())?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = PathPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a path prefix such as `/orders`, or one of `{exact: /orders}`, `{template: \"/orders/{id}\"}` and \
                     `{regex: \"/orders/[0-9]+\"}`",
                )
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<PathPattern, E> {
                Ok(PathPattern::prefix(path))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PathPattern, A::Error> {
                let one_of = || de::Error::custom("write one of `prefix`, `exact`, `template` and `regex`");
                let mut found = None;
                while let Some(field) = map.next_key::<Cow<'de, str>>()? {
                    let pattern = match &*field {
                        "prefix" => PathPattern::prefix(&map.next_value::<String>()?),
                        "exact" => PathPattern::Exact(map.next_value()?),
                        "template" => PathPattern::Template(map.next_value()?),
                        "regex" => PathPattern::Regex(map.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &FORMS)),
                    };
                    if found.replace(pattern).is_some() {
                        return Err(one_of());
                    }
                }
                found.ok_or_else(one_of)
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for PathPattern {
    fn schema_name() -> Cow<'static, str> {
        "PathPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let path = json_schema!({ "type": "string", "pattern": "^/" });
        let mut forms = vec![path.clone().to_value()];
        for (form, description) in FORMS.into_iter().zip(MEANINGS) {
            let mut text = if form == "regex" { json_schema!({ "type": "string" }) } else { path.clone() };
            text.insert("description".into(), description.into());
            let object = json_schema!({
                "type": "object", "properties": { form: text }, "required": [form], "additionalProperties": false
            });
            forms.push(object.to_value());
        }
        json_schema!({
            "description": "Which paths: a plain string is a prefix, matched in whole segments; `exact` is the whole \
                path; `template` the whole path with any one segment for each `{name}`; `regex` a regular expression \
                that the whole path matches.",
            "oneOf": forms
        })
    }
}
