//! Path templates: `/orders/{id}` matches any one segment where the name stands.
//!
//! Templates with names at the same places are of one [`Shape`]. A request looks for each shape that its host has with as
//! many segments as its path: that is one hash probe for each, however many templates there are.

use std::hash::Hasher;
use std::ops::Range;

use crate::index;

/// Most segments of a template.
const MAX_SEGMENTS: usize = u64::BITS as usize;
const CAPTURED: &str = "{}";

/// Which segments of so many are fixed. The order is that of precedence: fixed segments further to the left come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// A bit for each segment, from the highest on; set where a name stands.
    captured: u64,
    segments: u8,
}

impl Shape {
    /// Of a template that was checked.
    pub(super) fn of(template: &str) -> Self {
        let mut shape = Self { captured: 0, segments: 0 };
        for segment in segments(template).take(MAX_SEGMENTS) {
            if name(segment).is_some() {
                shape.captured |= first_bit() >> shape.segments;
            }
            shape.segments += 1;
        }
        shape
    }

    /// How many segments in front of the first name are fixed.
    pub(super) fn lead(self) -> usize {
        self.captured.leading_zeros() as usize
    }

    pub(super) fn segments(self) -> usize {
        self.segments.into()
    }

    fn has_name_at(self, index: usize) -> bool {
        self.captured & first_bit().checked_shr(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0) != 0
    }

    /// The hash of what is fixed in a path of as many segments; nothing if there is nothing where a name stands.
    pub(super) fn hash(self, path: &str) -> Option<u64> {
        let mut hasher = index::hasher();
        for (index, segment) in segments(path).enumerate() {
            if !self.has_name_at(index) {
                hasher.write(segment.as_bytes());
            } else if segment.is_empty() {
                return None;
            } else {
                hasher.write(CAPTURED.as_bytes());
            }
        }
        Some(hasher.finish())
    }

    /// The path, or the template, without what stands at the names.
    pub(super) fn key(self, path: &str) -> String {
        let part = |(index, segment)| if self.has_name_at(index) { CAPTURED } else { segment };
        segments(path).enumerate().flat_map(|one| ["/", part(one)]).collect()
    }

    /// Whether `key` is the key of this path.
    pub(super) fn is_key(self, key: &[u8], path: &str) -> bool {
        let mut parts = key.split(|byte| *byte == b'/').skip(1);
        let is_part = |(index, segment): (usize, &str)| {
            let expected = if self.has_name_at(index) { CAPTURED } else { segment };
            parts.next() == Some(expected.as_bytes())
        };
        segments(path).enumerate().all(is_part) && parts.next().is_none()
    }
}

const fn first_bit() -> u64 {
    1 << (u64::BITS - 1)
}

/// What stands between the slashes; after a slash at the end there is an empty one.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

fn name(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The names in a template.
pub(crate) fn names(template: &str) -> impl Iterator<Item = &str> {
    segments(template).filter_map(name)
}

/// The names of a template, ready to be looked up in paths.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) text: Box<str>,
    /// Name and place, in ascending order of places.
    names: Box<[(u8, Box<str>)]>,
}

impl Template {
    pub(super) fn new(text: &str) -> Self {
        let named = (0..).zip(segments(text)).filter_map(|(index, segment)| Some((index, name(segment)?.into())));
        Self { text: text.into(), names: named.collect() }
    }

    /// What stands at the names in a path that it matches.
    pub(super) fn captures(&self, path: &str) -> Vec<(&str, Range<usize>)> {
        let mut names = self.names.iter().peekable();
        let mut start = 1;
        let mut captures = Vec::with_capacity(self.names.len());
        for (index, segment) in segments(path).enumerate() {
            if let Some((_, name)) = names.next_if(|(at, _)| usize::from(*at) == index) {
                captures.push((&**name, start..start + segment.len()));
            }
            start += segment.len() + 1;
        }
        captures
    }
}

/// A path that the template matches, or what is wrong with it and what to do.
pub(crate) fn sample(template: &str) -> Result<String, (String, &'static str)> {
    const NAMES: &str = "a name has letters, digits and `_`, and stands for a whole segment: `/orders/{id}/lines`";
    let mut seen: Vec<&str> = Vec::new();
    let mut sample = String::new();
    for (index, segment) in template.split('/').enumerate() {
        if index > 0 {
            sample.push('/');
        }
        let Some(name) = name(segment) else {
            if segment.contains(['{', '}']) {
                return Err((format!("has braces in `{segment}` that are not around the whole of it"), NAMES));
            }
            sample.push_str(segment);
            continue;
        };
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name.is_empty() || name.len() > 32 || !is_name(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err((format!("has `{name}` as a name"), NAMES));
        }
        if seen.contains(&name) {
            return Err((format!("has the name `{name}` twice"), "give each its own"));
        }
        seen.push(name);
        sample.push('x');
    }
    if seen.is_empty() {
        return Err(("has no name in braces".to_owned(), "write it as `exact` or `prefix`"));
    }
    if segments(template).count() > MAX_SEGMENTS {
        return Err((format!("has more than {MAX_SEGMENTS} segments"), "use a prefix or a regular expression"));
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_segments_further_to_the_left_come_first() {
        let mut shapes = ["/{a}/b", "/{a}/{b}", "/a/{b}", "/a/{b}/c", "/a/b/{c}"].map(Shape::of);
        shapes.sort();
        assert_eq!(shapes, ["/a/b/{c}", "/a/{b}", "/a/{b}/c", "/{a}/b", "/{a}/{b}"].map(Shape::of));
        assert_eq!(shapes.map(Shape::lead), [2, 1, 1, 0, 0]);
    }

    #[test]
    fn a_path_is_told_by_what_is_fixed() {
        let shape = Shape::of("/orders/{id}/lines/{line}");
        let path = "/orders/7/lines/12";
        let template = Template::new("/orders/{id}/lines/{line}");
        assert_eq!(shape.key(path), "/orders/{}/lines/{}");
        assert!(shape.is_key(b"/orders/{}/lines/{}", path));
        assert!(!shape.is_key(b"/orders/{}/lines/{}", "/orders/7/pages/12"));
        assert!(!shape.is_key(b"/orders/{}/lines/{}", "/orders/7/lines/12/"));
        assert_eq!(shape.hash(path), shape.hash("/orders/{id}/lines/{line}"));
        assert_eq!(shape.hash("/orders//lines/12"), None);
        let captures = template.captures(path);
        assert_eq!(
            captures.iter().map(|(name, at)| (*name, &path[at.clone()])).collect::<Vec<_>>(),
            [("id", "7"), ("line", "12")]
        );
    }

    #[test]
    fn names_stand_for_whole_segments() {
        assert_eq!(sample("/a/{b}/").as_deref(), Ok("/a/x/"));
        let deep = "/{a}".to_owned() + &"/b".repeat(MAX_SEGMENTS);
        for text in ["/a", "/a/{b}.json", "/{}", "/{a-b}", "/{1}", "/{a}/{a}", "/{a*}", "/}a{", deep.as_str()] {
            assert!(sample(text).is_err(), "{text}");
        }
    }
}
