//! Conditional requests (RFC 9110 section 13): entity tags, so that nobody overwrites what they have not seen.

use axum::extract::FromRequestParts;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use model::digest::Digest;
use model::resource::{Document, Key};

use crate::publish::Refused;

use super::error::{Error, INVALID_PARAMETERS, PRECONDITION_FAILED, fault};
use super::table::HeaderField;

pub const READ_HEADERS: &[HeaderField] = &[HeaderField {
    name: "If-None-Match",
    description: "The `ETag` of the copy that you have: if it is still the same, the answer is 304 without a body.",
}];

const MESSAGE: HeaderField =
    HeaderField { name: "Sluice-Message", description: "Why: kept with the revision. The same as `message`." };

/// For writes that are not about a single resource.
pub const MESSAGE_HEADER: &[HeaderField] = &[MESSAGE];

pub const WRITE_HEADERS: &[HeaderField] = &[
    HeaderField {
        name: "If-Match",
        description: "The `ETag` of what you saw, or `*` for anything: the write happens only if the resource is still that (else 412).",
    },
    HeaderField {
        name: "If-None-Match",
        description: "`*`: the write happens only if there is no such resource yet (else 412).",
    },
    MESSAGE,
];

/// The strong entity tag of a resource: equal content, equal tag, on every replica.
#[must_use]
pub fn entity_tag(key: &Key, document: &Document) -> String {
    let digest = Digest::of_resource(key.kind.singular(), &key.name, document.created, &document.spec);
    format!("\"{}\"", &digest.to_string()[..32])
}

/// [`entity_tag`] as a field value.
#[must_use]
pub fn entity_tag_value(key: &Key, document: &Document) -> HeaderValue {
    HeaderValue::from_str(&entity_tag(key, document)).expect("hexadecimal digits in quotes")
}

/// What must hold for a request to be carried out.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    /// Opaque tags with their quotes; `true` for weak ones.
    Some(Vec<(bool, String)>),
}

impl<S: Sync> FromRequestParts<S> for Conditions {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self { if_match: tags(&parts.headers, &IF_MATCH)?, if_none_match: tags(&parts.headers, &IF_NONE_MATCH)? })
    }
}

impl Conditions {
    /// Whether a write may happen to what is there now.
    pub fn check_write(&self, key: &Key, current: Option<&Document>) -> Result<(), Refused> {
        let tag = current.map(|document| entity_tag(key, document));
        let matches = match (&self.if_match, &tag) {
            (None, _) | (Some(Tags::Any), Some(_)) => true,
            (Some(_), None) => false,
            // Strong comparison (RFC 9110 section 8.8.3.2): a weak tag is equal to nothing.
            (Some(Tags::Some(tags)), Some(tag)) => tags.iter().any(|(weak, known)| !weak && known == tag),
        };
        let excluded = self.if_none_match.as_ref().is_some_and(|tags| tags.matches(tag.as_deref()));
        if matches && !excluded {
            return Ok(());
        }
        Err(Refused::PreconditionFailed { key: key.clone(), current: current.cloned() })
    }

    /// Whether a reader has this already.
    #[must_use]
    pub fn is_unchanged(&self, tag: &str) -> bool {
        self.if_none_match.as_ref().is_some_and(|tags| tags.matches(Some(tag)))
    }
}

impl Tags {
    /// Weak comparison, for If-None-Match.
    fn matches(&self, tag: Option<&str>) -> bool {
        match (self, tag) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Some(tags), Some(tag)) => tags.iter().any(|(_, known)| known == tag),
        }
    }
}

/// What to say when a condition did not hold.
#[must_use]
pub fn failed(key: &Key, current: Option<&Document>) -> Error {
    let detail = match current {
        Some(document) => {
            format!(
                "{key} is there with the ETag {}, and the condition asks for something else",
                entity_tag(key, document)
            )
        }
        None => format!("{key} does not exist, and the condition asks for one that does"),
    };
    Error::new(&PRECONDITION_FAILED, detail)
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Error> {
    let mut found = Vec::new();
    let mut any = false;
    for value in headers.get_all(name) {
        let text = String::from_utf8_lossy(value.as_bytes());
        if text.trim() == "*" {
            any = true;
        } else if !read_tags(&text, &mut found) {
            let message =
                format!("`{name}: {text}` is no list of entity tags: write them with their quotes, as in `ETag`");
            let problem = fault("", "invalid-parameter", message.clone());
            return Err(Error::new(&INVALID_PARAMETERS, message).errors(vec![problem]));
        }
    }
    Ok(if any { Some(Tags::Any) } else { (!found.is_empty()).then_some(Tags::Some(found)) })
}

/// Reads `"a", W/"b"`; an opaque tag may hold commas, so that splitting at them would be wrong.
fn read_tags(mut text: &str, found: &mut Vec<(bool, String)>) -> bool {
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return true;
        }
        let strong = text.strip_prefix("W/");
        let rest = strong.unwrap_or(text);
        let Some((tag, after)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
            return false;
        };
        found.push((strong.is_some(), format!("\"{tag}\"")));
        text = after;
        if !text.trim_start().is_empty() && !text.trim_start().starts_with(',') {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::resource::Kind;

    use super::*;

    fn conditions(fields: &[(&'static str, &str)]) -> Result<Conditions, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().expect("a field value"));
        }
        Ok(Conditions { if_match: tags(&headers, &IF_MATCH)?, if_none_match: tags(&headers, &IF_NONE_MATCH)? })
    }

    #[test]
    fn writes_happen_only_to_what_was_seen() {
        let key = Key::new(Kind::Route, "a".parse().expect("a name"));
        let document = Document { created: 1, spec: Arc::from("{}") };
        let tag = entity_tag(&key, &document);
        let allowed = |fields: &[(&'static str, &str)], there: bool| {
            conditions(fields).expect("tags").check_write(&key, there.then_some(&document)).is_ok()
        };
        assert!(allowed(&[], true) && allowed(&[], false));
        assert!(allowed(&[("if-match", &tag)], true));
        assert!(!allowed(&[("if-match", "\"a,b\"")], true));
        assert!(allowed(&[("if-match", "\"other\""), ("if-match", &tag)], true));
        assert!(!allowed(&[("if-match", &format!("W/{tag}"))], true));
        assert!(allowed(&[("if-match", "*")], true) && !allowed(&[("if-match", "*")], false));
        assert!(allowed(&[("if-none-match", "*")], false) && !allowed(&[("if-none-match", "*")], true));
        assert!(!allowed(&[("if-none-match", &format!("\"x\" , W/{tag}"))], true));
    }

    #[test]
    fn what_is_no_tag_is_a_fault_and_never_ignored() {
        for text in ["abc", "\"a", "\"a\" \"b\"", "W/a", "*, \"a\""] {
            assert!(conditions(&[("if-match", text)]).is_err(), "{text}");
        }
    }
}
