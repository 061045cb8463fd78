//! A short text that never changes.
//!
//! Names, hosts and paths are mostly shorter than what it takes to point at them and to count who does, so
//! up to 22 bytes lie in place, and only longer texts are shared.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

const SHORT: usize = 22;

#[derive(Clone)]
pub(crate) enum Text {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Short { .. } => std::str::from_utf8(self.as_bytes()).expect("it was a text before"),
            Self::Long(text) => text,
        }
    }

    /// Without a look at whether it is a text: to be preferred for comparing.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// As a `str` does, so that maps can be asked with one.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_texts_are_what_they_were() {
        let mut texts: Vec<String> = (0..40).map(|len| "ä".repeat(len / 2) + &"x".repeat(len % 2)).collect();
        texts.push("a".repeat(300));
        for text in &texts {
            let kept = Text::from(text.as_str());
            assert_eq!((kept.as_str(), matches!(kept, Text::Short { .. })), (text.as_str(), text.len() <= SHORT));
            assert_eq!(kept, Text::from(text.as_str()));
        }
        let mut kept: Vec<Text> = texts.iter().map(|text| Text::from(text.as_str())).collect();
        kept.sort();
        texts.sort();
        assert!(kept.iter().map(Text::as_str).eq(texts.iter().map(String::as_str)));
        assert_eq!(size_of::<Text>(), 24);
    }
}
