//! The one canonical path of a request (RFC 3986 section 6.2.2).
//!
//! Routing, policies, the log and the service all see this value and no other: what is authorised is
//! what is forwarded. Two spellings that servers are known to read differently are therefore either
//! made one here or refused:
//!
//! - escapes of unreserved characters are decoded, the others get upper-case digits, and what may not stand in a path as it
//!   is gets escaped (section 6.2.2.1 and 6.2.2.2);
//! - several slashes in a row become one, and then dot segments are removed (section 5.2.4);
//! - refused is whatever one server takes for a separator, a dot segment or the end of the path and another for plain
//!   text (see [`PathFault`]).
//!
//! `%25` stands for a percent sign and stays, unless the two characters behind it would make it an escape for
//! a server that decodes twice.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a path is refused. Each is a 400 for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathFault {
    /// It does not begin with a slash.
    NotAbsolute,
    /// `%` without two hexadecimal digits behind it.
    InvalidEscape,
    /// `%2F`.
    EncodedSlash,
    /// `\` or `%5C`.
    Backslash,
    /// A control character, NUL among them, as it is or escaped.
    ControlCharacter,
    /// A space, `?` or `#`: these end a path.
    InvalidCharacter,
    /// `%25` and two hexadecimal digits: an escape for whoever decodes twice.
    DoubleEncoded,
    /// More `..` than segments in front of them.
    AboveRoot,
    /// A segment such as `..;x`, which some servers read as `..` with a parameter.
    DotSegmentParameter,
    /// A route keeps the path as it came, and the spelling that came does not lead to it.
    LeadsElsewhere,
}

impl PathFault {
    /// Stable, for programs, logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path-not-absolute",
            Self::InvalidEscape => "path-invalid-escape",
            Self::EncodedSlash => "path-encoded-slash",
            Self::Backslash => "path-backslash",
            Self::ControlCharacter => "path-control-character",
            Self::InvalidCharacter => "path-invalid-character",
            Self::DoubleEncoded => "path-double-encoded",
            Self::AboveRoot => "path-above-root",
            Self::DotSegmentParameter => "path-dot-segment-parameter",
            Self::LeadsElsewhere => "path-leads-elsewhere",
        }
    }

    /// One sentence for the person behind the client.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NotAbsolute => "The path does not begin with a slash.",
            Self::InvalidEscape => "The path holds a percent sign without two hexadecimal digits behind it.",
            Self::EncodedSlash => "The path holds an encoded slash.",
            Self::Backslash => "The path holds a backslash.",
            Self::ControlCharacter => "The path holds a control character.",
            Self::InvalidCharacter => "The path holds a character that has to be percent-encoded there.",
            Self::DoubleEncoded => "The path is percent-encoded twice.",
            Self::AboveRoot => "The path climbs above the root.",
            Self::DotSegmentParameter => "The path holds a dot segment with a parameter.",
            Self::LeadsElsewhere => "The path leads elsewhere than its canonical form.",
        }
    }
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for PathFault {}

/// The canonical form of the path of a request, without query. A path that is canonical costs one scan
/// and no allocation, unless it holds escapes.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let text = by_steps(path, &mut |_, _| {})?;
    Ok(if text == path { Cow::Borrowed(path) } else { Cow::Owned(text) })
}

/// One step to the canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// As it came.
    Received,
    /// Escapes have one spelling, and only what needs one is escaped.
    Escapes,
    /// There are no empty segments and no dot segments.
    Segments,
}

/// [`canonical`] with what the path is after each step.
pub fn trace(path: &str) -> (Vec<(Step, String)>, Result<String, PathFault>) {
    let mut steps = Vec::new();
    let result = by_steps(path, &mut |step, path| steps.push((step, path.to_owned())));
    (steps, result)
}

fn by_steps(path: &str, after: &mut dyn FnMut(Step, &str)) -> Result<String, PathFault> {
    after(Step::Received, path);
    if !path.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    let decoded = decode(path.as_bytes())?;
    after(Step::Escapes, &decoded);
    let text = without_dot_segments(&decoded)?;
    after(Step::Segments, &text);
    Ok(text)
}

/// What one byte means in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stands for itself and needs no look at its neighbours.
    Plain,
    /// Also stands for itself (RFC 3986 section 2.3), and hides behind an escape at times.
    Unreserved,
    Slash,
    /// Has to be escaped.
    Escaped,
    Refused(PathFault),
}

const fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Unreserved,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => Class::Plain,
        b'\\' => Class::Refused(PathFault::Backslash),
        0..=0x1f | 0x7f => Class::Refused(PathFault::ControlCharacter),
        b' ' | b'?' | b'#' => Class::Refused(PathFault::InvalidCharacter),
        // `%` is taken care of before; the rest is what no path may hold (section 3.3).
        _ => Class::Escaped,
    }
}

/// Whether every byte may stand as it is wherever it stands. Escapes and segments that begin with a dot
/// are left to the thorough way.
fn is_plain(path: &[u8]) -> bool {
    const AS_IT_IS: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = matches!(class(byte as u8), Class::Plain | Class::Unreserved);
            byte += 1;
        }
        table
    };
    let Some((b'/', rest)) = path.split_first() else { return false };
    let mut after_slash = true;
    for &byte in rest {
        if byte == b'/' || (byte == b'.' && after_slash) {
            if after_slash {
                return false;
            }
            after_slash = true;
        } else if AS_IT_IS[usize::from(byte)] {
            after_slash = false;
        } else {
            return false;
        }
    }
    true
}

/// Escapes in their one spelling, and no other character than those that a path may hold.
fn decode(path: &[u8]) -> Result<String, PathFault> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            match class(byte) {
                Class::Plain | Class::Unreserved | Class::Slash => decoded.push(char::from(byte)),
                Class::Escaped => push_escape(&mut decoded, byte),
                Class::Refused(fault) => return Err(fault),
            }
            continue;
        }
        let Some((digits, behind)) = rest.split_first_chunk::<2>() else { return Err(PathFault::InvalidEscape) };
        let (Some(high), Some(low)) = (hex(digits[0]), hex(digits[1])) else { return Err(PathFault::InvalidEscape) };
        rest = behind;
        let byte = high << 4 | low;
        match class(byte) {
            Class::Unreserved => decoded.push(char::from(byte)),
            Class::Slash => return Err(PathFault::EncodedSlash),
            Class::Refused(fault @ (PathFault::Backslash | PathFault::ControlCharacter)) => return Err(fault),
            Class::Plain | Class::Escaped | Class::Refused(_) => push_escape(&mut decoded, byte),
        }
    }
    // Looked for only now, because the digits behind the `%25` may have been escaped themselves.
    let twice = decoded.as_bytes().windows(5).any(|five| {
        let [percent @ .., high, low] = five else { return false };
        percent == b"%25" && hex(*high).is_some() && hex(*low).is_some()
    });
    if twice { Err(PathFault::DoubleEncoded) } else { Ok(decoded) }
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The path without empty segments, `.` and `..`; a slash at the end stays. Slashes are merged first, so
/// that `/a//../b` leaves `a` whether or not a server counts empty segments.
fn without_dot_segments(path: &str) -> Result<String, PathFault> {
    let mut text = String::with_capacity(path.len());
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                let parent = text.rfind('/').ok_or(PathFault::AboveRoot)?;
                text.truncate(parent);
            }
            _ if segment.starts_with(".;") || segment.starts_with("..;") => {
                return Err(PathFault::DotSegmentParameter);
            }
            _ => {
                text.push('/');
                text.push_str(segment);
            }
        }
    }
    if ends_open {
        text.push('/');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_canonical_path_is_borrowed() {
        for path in
            ["/", "/orders", "/orders/", "/a/b.c/d..e/~f", "/a;v=1/b,c:d@e!$&'()*+=", "/.well-known/x", "/100%25"]
        {
            assert!(matches!(canonical(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn spellings_of_one_path_become_one() {
        for (written, expected) in [
            ("/%6frders/%7E%2d", "/orders/~-"),
            ("/a%3ab%c3%a4", "/a%3Ab%C3%A4"),
            ("/\u{e4}", "/%C3%A4"),
            ("/{id}|\"", "/%7Bid%7D%7C%22"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/%2e/b/%2E%2e/c", "/a/c"),
            ("/a//../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/...", "/..."),
            ("/.", "/"),
            ("/%25%7A", "/%25z"),
        ] {
            assert_eq!(canonical(written).as_deref(), Ok(expected), "{written}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for (path, fault) in [
            ("", PathFault::NotAbsolute),
            ("*", PathFault::NotAbsolute),
            ("orders", PathFault::NotAbsolute),
            ("/a%", PathFault::InvalidEscape),
            ("/a%4", PathFault::InvalidEscape),
            ("/a%zz", PathFault::InvalidEscape),
            ("/a%+1", PathFault::InvalidEscape),
            ("/a%2fb", PathFault::EncodedSlash),
            ("/..%2Fb", PathFault::EncodedSlash),
            ("/a\\b", PathFault::Backslash),
            ("/a%5cb", PathFault::Backslash),
            ("/a%00", PathFault::ControlCharacter),
            ("/a%0d%0a", PathFault::ControlCharacter),
            ("/a\u{0}", PathFault::ControlCharacter),
            ("/a\u{7f}", PathFault::ControlCharacter),
            ("/a b", PathFault::InvalidCharacter),
            ("/a?b", PathFault::InvalidCharacter),
            ("/%252e%252e/b", PathFault::DoubleEncoded),
            ("/%25%32%65", PathFault::DoubleEncoded),
            ("/..", PathFault::AboveRoot),
            ("/a/../../b", PathFault::AboveRoot),
            ("/a/%2e%2e/%2e%2e", PathFault::AboveRoot),
            ("/a/..;/b", PathFault::DotSegmentParameter),
            ("/a/.;x=1/b", PathFault::DotSegmentParameter),
        ] {
            assert_eq!(canonical(path), Err(fault), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = canonical(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn the_steps_lead_to_the_canonical_path(path in "/?[a.%/25eEfF;~\\\\{ä]{0,24}") {
            let (steps, end) = trace(&path);
            prop_assert_eq!(&end, &canonical(&path).map(Cow::into_owned));
            prop_assert_eq!(&steps[0], &(Step::Received, path));
            if let Ok(end) = end {
                prop_assert_eq!(steps.last(), Some(&(Step::Segments, end)));
            }
        }

        #[test]
        fn a_canonical_path_is_its_own(path in "/[a.%/25eEfF;~\\\\{ä]{0,24}") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(Cow::Borrowed(&*once)));
                prop_assert!(!once.contains("//") && once.split('/').all(|segment| !matches!(segment, "." | "..")));
            }
        }

        /// Any character that may be escaped without a change of meaning is, at random, and the slashes multiply.
        #[test]
        fn equivalent_spellings_have_one_canonical_form(
            segments in prop::collection::vec("[a-z.~-]{1,4}", 0..6),
            choices in prop::collection::vec(0_u8..4, 64),
        ) {
            let plain = format!("/{}", segments.join("/"));
            let mut other = String::new();
            for (character, choice) in plain.chars().zip(choices.iter().cycle()) {
                match (character, choice) {
                    ('/', 0) => other.push_str("//"),
                    ('/', 1) => other.push_str("/./"),
                    ('/', _) | (_, 0 | 1) => other.push(character),
                    (_, 2) => other.push_str(&format!("%{:02X}", character as u32)),
                    (_, _) => other.push_str(&format!("%{:02x}", character as u32)),
                }
            }
            prop_assert_eq!(canonical(&plain), canonical(&other), "{} {}", plain, other);
        }
    }
}
