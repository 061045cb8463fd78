//! New paths for requests, and what keeps them from leading elsewhere than the configuration says.
//!
//! What policies allowed was the path that the route was found by. The path that is made of it is checked like the path
//! of a request, it holds no dot segment at any moment, and it begins with all that the configuration fixes in front of
//! the first captured value: no value can climb out of there, cut an escape in two or bring a separator in disguise.

use std::ops::Range;

use crate::pattern::Pattern;
use crate::problem::Fault;
use crate::resource::listener::MAX_TARGET_BYTES;
use crate::resource::route::{self, PathPattern};
use crate::router::path::{PathFault, canonical};

/// Longest path that comes of a rewrite; no listener takes a longer one.
const MAX_BYTES: usize = MAX_TARGET_BYTES as usize;

/// A new path for requests.
#[derive(Debug)]
pub enum PathRewrite {
    /// In place of the longest of these prefixes, which have no slash at their end.
    Prefix {
        prefixes: Box<[Box<str>]>,
        with: Box<str>,
    },
    Full(Box<str>),
    Template(Substitution),
    Regex(Box<(Pattern, Substitution)>),
}

/// A path with names in braces.
#[derive(Debug)]
pub struct Substitution {
    parts: Box<[Part]>,
    /// What every result begins with: whole segments in front of the first name.
    lead: Box<str>,
}

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    Name(Box<str>),
}

/// Why there is no new path for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Path(#[from] PathFault),
    #[error("The path would hold a dot segment.")]
    DotSegment,
    #[error("A value in the path ends within an escape.")]
    CutEscape,
    #[error("The path would leave its place.")]
    LeavesPlace,
    #[error("The path would be too long.")]
    TooLong,
}

/// What stands in a path at names.
pub type Captures<'a> = [(&'a str, Range<usize>)];

impl PathRewrite {
    /// The compiled form for a route with these paths; nothing if the path stays.
    pub fn compile(written: &route::PathRewrite, paths: &[PathPattern]) -> Result<Option<Self>, Fault> {
        let parse = |text: &str| Substitution::parse(text).expect("the text was checked");
        Ok(if let Some(with) = &written.replace_prefix {
            let prefixes = paths.iter().filter_map(|path| match path {
                PathPattern::Prefix(prefix) => Some(prefix.trim_end_matches('/').into()),
                _ => None,
            });
            let mut prefixes: Vec<Box<str>> = prefixes.collect();
            if prefixes.is_empty() {
                prefixes.push("".into());
            }
            prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            Some(Self::Prefix { prefixes: prefixes.into(), with: with.trim_end_matches('/').into() })
        } else if let Some(path) = &written.replace_full {
            Some(Self::Full(path.as_str().into()))
        } else if let Some(template) = &written.template {
            Some(Self::Template(parse(template)))
        } else if let Some(regex) = &written.regex {
            let pattern = Pattern::compile(&regex.pattern).map_err(|fault| fault.below("/regex/pattern"))?;
            Some(Self::Regex(Box::new((pattern, parse(&regex.substitution)))))
        } else {
            None
        })
    }

    /// The path in place of `path`, which is canonical; `captures` is what the route's own path captured in it.
    pub fn apply(&self, path: &str, captures: &Captures<'_>) -> Result<String, Refused> {
        match self {
            Self::Full(full) => Ok(full.to_string()),
            Self::Prefix { prefixes, with } => {
                let rest = prefixes.iter().find_map(|prefix| below(path, prefix)).unwrap_or(path);
                let made = format!("{with}{rest}");
                checked(if made.is_empty() { "/" } else { &made }, with)
            }
            Self::Template(template) => template.apply(path, captures),
            Self::Regex(regex) => {
                let (pattern, substitution) = &**regex;
                if pattern.is_match(path.as_bytes()) {
                    substitution.apply(path, &pattern.groups(path))
                } else {
                    Ok(path.to_owned())
                }
            }
        }
    }
}

/// What is left of a path behind a prefix of whole segments.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path that was put together, if it says nothing else than it seems to.
fn checked(path: &str, lead: &str) -> Result<String, Refused> {
    if path.len() > MAX_BYTES {
        return Err(Refused::TooLong);
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Refused::DotSegment);
    }
    let canonical = canonical(path)?.into_owned();
    if canonical.starts_with(lead) { Ok(canonical) } else { Err(Refused::LeavesPlace) }
}

impl Substitution {
    /// Reads a text with names in braces, or says why it has none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((fixed, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}').ok_or("has a brace that is not closed")?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err("has something in braces that is no name");
            }
            if !fixed.is_empty() {
                parts.push(Part::Text(fixed.into()));
            }
            parts.push(Part::Name(name.into()));
            rest = behind;
        }
        if rest.contains('}') || parts.iter().any(|part| matches!(part, Part::Text(text) if text.contains('}'))) {
            return Err("has a brace that was not opened");
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        let lead = match parts.first() {
            Some(Part::Text(text)) if parts.len() > 1 => &text[..text.rfind('/').map_or(0, |slash| slash + 1)],
            Some(Part::Text(text)) => text,
            _ => "",
        };
        Ok(Self { lead: lead.into(), parts: parts.into() })
    }

    /// The names in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(&**name),
            Part::Text(_) => None,
        })
    }

    /// The text with a value for each name.
    pub fn with<'a>(&'a self, value: impl Fn(&str) -> &'a str) -> String {
        let part = |part: &'a Part| match part {
            Part::Text(text) => text,
            Part::Name(name) => value(name),
        };
        self.parts.iter().map(part).collect()
    }

    fn apply(&self, path: &str, captures: &Captures<'_>) -> Result<String, Refused> {
        let value = |name: &str| {
            let found = captures.iter().find(|(known, _)| *known == name);
            found.map_or("", |(_, range)| &path[range.clone()])
        };
        let values = || self.names().map(value);
        if values().any(ends_within_an_escape) {
            return Err(Refused::CutEscape);
        }
        let fixed: usize = self.parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum();
        if fixed + values().map(str::len).sum::<usize>() > MAX_BYTES {
            return Err(Refused::TooLong);
        }
        checked(&self.with(value), &self.lead)
    }
}

/// Of a part of a canonical path, in which every percent sign has two digits behind it.
fn ends_within_an_escape(value: &str) -> bool {
    let end = value.as_bytes();
    end[end.len().saturating_sub(2)..].contains(&b'%')
}
