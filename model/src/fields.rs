//! Header fields: the lines of a message in the order in which they came, over the bytes that they came in.
//!
//! A gateway passes most fields on as they are, and looks at a few. So nothing is copied or hashed when a message
//! comes in: a line is two places in the text of the head, and finding a field is a walk over the lines, of which
//! there are few and at most as many as the bounds of the listener allow.

use std::fmt;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

pub use kind::Kind;

mod kind;

/// Room for the fields that the gateway adds to most messages.
const ADDED_BYTES: usize = 192;

/// The fields of a message. Names are in lower case.
#[derive(Clone, Default)]
pub struct Fields {
    /// The head of the message as it was read.
    head: Bytes,
    /// The text of what was put in since, in the form in which it is written. Its places count on from the end of the head.
    added: Vec<u8>,
    lines: Vec<Line>,
}

/// Where one field lies, and what it is. There are many, so it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    name: u32,
    name_length: u16,
    kind: Kind,
    value: Span,
}

/// A part of a text, from its first byte to the one behind its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Line {
    /// The longest name of a field.
    pub const MAX_NAME_BYTES: usize = u16::MAX as usize;

    /// # Panics
    /// If the name is longer than it may be.
    #[must_use]
    #[inline]
    pub fn new(name: Span, value: Span, kind: Kind) -> Self {
        let name_length = u16::try_from(name.len()).expect("longer names were refused");
        Self { name: name.start, name_length, kind, value }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The value of a field in a head that was read.
    #[must_use]
    pub fn value_in<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.value.start as usize..self.value.end as usize]
    }

    fn name(&self) -> Span {
        Span { start: self.name, end: self.name + u32::from(self.name_length) }
    }

    /// The same in a text before which there is more.
    fn behind(self, more: u32) -> Self {
        let value = Span { start: self.value.start + more, end: self.value.end + more };
        Self { name: self.name + more, value, ..self }
    }
}

impl Span {
    /// # Panics
    /// If a head were larger than 4 GiB.
    #[must_use]
    #[inline]
    pub fn new(start: usize, end: usize) -> Self {
        let place = |place| u32::try_from(place).expect("heads are bounded far below 4 GiB");
        Self { start: place(start), end: place(end) }
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

impl Fields {
    /// The fields of a head that was read. Names have to be lower-case tokens, and values without control characters
    /// but tabs (RFC 9110 section 5.5).
    #[must_use]
    pub fn of_head(head: Bytes, lines: Vec<Line>) -> Self {
        Self { head, added: Vec::new(), lines }
    }

    fn text(&self, span: Span) -> &[u8] {
        let (start, end) = (span.start as usize, span.end as usize);
        match start.checked_sub(self.head.len()) {
            None => &self.head[start..end],
            Some(start) => &self.added[start..end - self.head.len()],
        }
    }

    fn is_named(&self, line: &Line, name: &[u8]) -> bool {
        usize::from(line.name_length) == name.len() && self.text(line.name()) == name
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.text(line.name()), self.text(line.value)))
    }

    /// The same with what they are.
    pub fn iter_kinds(&self) -> impl Iterator<Item = (Kind, &[u8], &[u8])> {
        self.lines.iter().map(|line| (line.kind, self.text(line.name()), self.text(line.value)))
    }

    /// What the fields are.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.lines.iter().map(|line| line.kind)
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: impl AsRef<str>) -> Option<&[u8]> {
        let name = name.as_ref().as_bytes();
        let line = self.lines.iter().find(|line| self.is_named(line, name))?;
        Some(self.text(line.value))
    }

    /// The value of the first field of this name, if it is plain text: visible ASCII, spaces and tabs.
    #[must_use]
    pub fn get_str(&self, name: impl AsRef<str>) -> Option<&str> {
        self.get(name).and_then(plain_text)
    }

    /// The value of the first field of this name, to keep.
    #[must_use]
    pub fn share(&self, name: impl AsRef<str>) -> Option<Bytes> {
        let value = self.get(name)?;
        let is_of_head = self.head.as_ptr_range().contains(&value.as_ptr());
        Some(if is_of_head { self.head.slice_ref(value) } else { Bytes::copy_from_slice(value) })
    }

    /// The values of all fields of this name.
    pub fn get_all<'a, N: AsRef<str> + 'a>(&'a self, name: N) -> impl Iterator<Item = &'a [u8]> + use<'a, N> {
        let lines = self.lines.iter().filter(move |line| self.is_named(line, name.as_ref().as_bytes()));
        lines.map(|line| self.text(line.value))
    }

    /// The elements of a field that is a list, of all its lines (RFC 9110 section 5.6.1).
    pub fn elements<'a, N: AsRef<str> + 'a>(&'a self, name: N) -> impl Iterator<Item = &'a [u8]> + use<'a, N> {
        self.get_all(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    #[must_use]
    pub fn contains_key(&self, name: impl AsRef<str>) -> bool {
        let name = name.as_ref().as_bytes();
        self.lines.iter().any(|line| self.is_named(line, name))
    }

    /// Puts a field behind those that are there.
    pub fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.push(name.as_str().as_bytes(), value.as_bytes());
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        let line = self.begin(name, value.len());
        self.added.extend_from_slice(value);
        self.end(line);
    }

    /// Puts fields behind those that are there.
    pub fn extend(&mut self, more: &Self) {
        if !more.head.is_empty() {
            more.iter().for_each(|(name, value)| self.push(name, value));
            return;
        }
        let start = self.room();
        self.added.extend_from_slice(&more.added);
        self.lines.extend(more.lines.iter().map(|line| line.behind(start)));
    }

    /// Gives a field this one value, in the place of its first line if it has any.
    pub fn insert(&mut self, name: &HeaderName, value: &HeaderValue) {
        let Some(place) = self.lines.iter().position(|line| self.is_named(line, name.as_str().as_bytes())) else {
            return self.append(name, value);
        };
        let start = self.room() as usize;
        self.added.extend_from_slice(value.as_bytes());
        self.lines[place].value = Span::new(start, start + value.as_bytes().len());
        let mut number = 0;
        self.retain(|other, _| {
            number += 1;
            number <= place + 1 || other != name.as_str().as_bytes()
        });
    }

    /// Puts a field behind the others, with the value of the first that has the other name, if there is one.
    pub fn append_copy(&mut self, name: &HeaderName, of: &HeaderName) {
        let of = of.as_str().as_bytes();
        let Some(value) = self.lines.iter().find(|line| self.is_named(line, of)).map(|line| line.value) else { return };
        let line = self.begin(name.as_str().as_bytes(), value.len());
        let (start, end) = (value.start as usize, value.end as usize);
        match start.checked_sub(self.head.len()) {
            None => self.added.extend_from_slice(&self.head[start..end]),
            Some(start) => self.added.extend_from_within(start..end - self.head.len()),
        }
        self.end(line);
    }

    /// Takes all fields of this name out.
    pub fn remove(&mut self, name: impl AsRef<str>) {
        let name = name.as_ref().as_bytes();
        self.retain(|other, _| other != name);
    }

    /// Keeps the lines for whose name and value this holds.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|line| is_kept(self.text(line.name()), self.text(line.value)));
        self.lines = lines;
    }

    /// Writes the lines as HTTP/1.1 has them (RFC 9112 section 5), those that are wanted. Lines that lie one behind the
    /// other in just this form are copied at once.
    pub fn write(&self, out: &mut Vec<u8>, mut is_wanted: impl FnMut(Kind) -> bool) {
        let mut run = Span { start: 0, end: 0 };
        for line in &self.lines {
            if !is_wanted(line.kind) {
                continue;
            }
            let whole = Span { start: line.name, end: line.value.end + 2 };
            if !self.is_as_written(line, whole) {
                out.extend_from_slice(self.text(run));
                run = Span { start: 0, end: 0 };
                for piece in [self.text(line.name()), b": ", self.text(line.value), b"\r\n"] {
                    out.extend_from_slice(piece);
                }
            } else if whole.start == run.end && whole.start as usize != self.head.len() {
                run.end = whole.end;
            } else {
                out.extend_from_slice(self.text(run));
                run = whole;
            }
        }
        out.extend_from_slice(self.text(run));
    }

    /// Whether a line with its end lies there as it would be written here.
    fn is_as_written(&self, line: &Line, whole: Span) -> bool {
        let (name, value) = (line.name().end, line.value.start);
        let is_in_one = (value as usize) < self.head.len() || name as usize >= self.head.len();
        value == name + 2
            && is_in_one
            && self.text(Span { start: name, end: value }) == b": "
            && self.text(Span { start: whole.end - 2, end: whole.end }) == b"\r\n"
    }

    /// Where the next text comes to lie.
    fn room(&mut self) -> u32 {
        if self.added.capacity() == 0 {
            self.added = Vec::with_capacity(ADDED_BYTES);
        }
        Span::new(0, self.head.len() + self.added.len()).end
    }

    /// Begins a line, of which the value comes next.
    fn begin(&mut self, name: &[u8], value: usize) -> Line {
        let start = self.room() as usize;
        self.added.extend_from_slice(name);
        self.added.extend_from_slice(b": ");
        let (colon, value_start) = (start + name.len(), start + name.len() + 2);
        let value = Span::new(value_start, value_start + value);
        Line::new(Span::new(start, colon), value, Kind::of(name))
    }

    fn end(&mut self, line: Line) {
        self.added.extend_from_slice(b"\r\n");
        self.lines.push(line);
    }

    /// The form that HTTP/2 is written from.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let Self { head, added, lines } = self;
        let added = Bytes::copy_from_slice(added);
        let text = |span: Span| {
            let (start, end) = (span.start as usize, span.end as usize);
            match start.checked_sub(head.len()) {
                None => head.slice(start..end),
                Some(start) => added.slice(start..end - head.len()),
            }
        };
        let mut map = HeaderMap::with_capacity(lines.len());
        for line in lines {
            let name = HeaderName::from_bytes(&text(line.name()));
            // Both were checked when they came in.
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(text(line.value))) {
                map.append(name, value);
            }
        }
        map
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let mut fields = Self { lines: Vec::with_capacity(map.len() + 4), ..Self::default() };
        for (name, value) in map {
            fields.append(name, value);
        }
        fields
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.iter().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        formatter.debug_map().entries(lines).finish()
    }
}

/// A value as text, if it is plain: as no value holds control characters but tabs, that is all of ASCII.
#[must_use]
pub fn plain_text(value: &[u8]) -> Option<&str> {
    if value.is_ascii() { str::from_utf8(value).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fields as they lie in a head that was read.
    fn read(lines: &[(String, String)]) -> Fields {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        let mut places = Vec::new();
        for (name, value) in lines {
            let at = head.len();
            // Some with more space than it takes.
            let (before, behind) = if value.starts_with('!') { ("  ", " ") } else { (" ", "") };
            head.extend_from_slice(format!("{name}:{before}{value}{behind}\r\n").as_bytes());
            let (colon, start) = (at + name.len(), at + name.len() + 1 + before.len());
            let value = Span::new(start, start + value.len());
            places.push(Line::new(Span::new(at, colon), value, Kind::of(name.as_bytes())));
        }
        head.extend_from_slice(b"\r\n");
        Fields::of_head(head.into(), places)
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Append(HeaderName, HeaderValue),
        Insert(HeaderName, HeaderValue),
        Remove(HeaderName),
        Copy(HeaderName, HeaderName),
        Extend(Vec<(HeaderName, HeaderValue)>),
    }

    /// Few names, so that edits meet.
    fn name() -> impl Strategy<Value = HeaderName> {
        prop::sample::select(vec!["a", "b", "host", "x-forwarded-for"]).prop_map(HeaderName::from_static)
    }

    fn value() -> impl Strategy<Value = HeaderValue> {
        "[ -~]{0,6}|![a-z]{0,6}".prop_map(|text| HeaderValue::from_str(&text).expect("a value"))
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (name(), value()).prop_map(|(name, value)| Edit::Append(name, value)),
            (name(), value()).prop_map(|(name, value)| Edit::Insert(name, value)),
            name().prop_map(Edit::Remove),
            (name(), name()).prop_map(|(name, of)| Edit::Copy(name, of)),
            prop::collection::vec((name(), value()), 0..3).prop_map(Edit::Extend),
        ]
    }

    /// The values of each name in their order, as a map of the `http` crate has them.
    fn by_name(map: &HeaderMap) -> Vec<(String, Vec<Vec<u8>>)> {
        let values = |name: &HeaderName| map.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect();
        let mut all: Vec<_> = map.keys().map(|name| (name.to_string(), values(name))).collect();
        all.sort();
        all
    }

    proptest! {
        #[test]
        fn edits_come_to_the_same_as_in_a_map(
            lines in prop::collection::vec((name(), value()), 0..6),
            edits in prop::collection::vec(edit(), 0..12),
        ) {
            let text = |(name, value): &(HeaderName, HeaderValue)| {
                (name.to_string(), value.to_str().expect("text").to_owned())
            };
            let mut fields = read(&lines.iter().map(text).collect::<Vec<_>>());
            let mut map = HeaderMap::new();
            for (name, value) in lines {
                map.append(name, value);
            }
            for edit in edits {
                match edit {
                    Edit::Append(name, value) => {
                        fields.append(&name, &value);
                        map.append(name, value);
                    }
                    Edit::Insert(name, value) => {
                        fields.insert(&name, &value);
                        map.insert(name, value);
                    }
                    Edit::Remove(name) => {
                        fields.remove(&name);
                        map.remove(name);
                    }
                    Edit::Copy(name, of) => {
                        fields.append_copy(&name, &of);
                        if let Some(value) = map.get(of).cloned() {
                            map.append(name, value);
                        }
                    }
                    Edit::Extend(more) => {
                        let more = HeaderMap::from_iter(more);
                        fields.extend(&Fields::from(&more));
                        for (name, value) in &more {
                            map.append(name, value.clone());
                        }
                    }
                }
                let mut written = Vec::new();
                fields.write(&mut written, |kind| kind != Kind::Host);
                let lines = fields.iter().filter(|(name, _)| *name != b"host");
                let lines = lines.map(|(name, value)| [name, b": ", value, b"\r\n"].concat());
                prop_assert_eq!(&written[..], lines.collect::<Vec<_>>().concat());
                for name in map.keys() {
                    prop_assert_eq!(fields.get(name), map.get(name).map(HeaderValue::as_bytes));
                }
                prop_assert_eq!(fields.len(), map.len());
            }
            prop_assert_eq!(by_name(&Fields::from(&map).to_map()), by_name(&map));
            prop_assert_eq!(by_name(&fields.to_map()), by_name(&map));
        }
    }

    #[test]
    fn lines_stay_in_the_order_in_which_they_came() {
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut fields = read(&[line("b", "1"), line("a", "2"), line("b", "3"), line("c", "")]);
        fields.insert(&HeaderName::from_static("b"), &HeaderValue::from_static("4"));
        fields.append(&HeaderName::from_static("a"), &HeaderValue::from_static("5, 6"));
        assert_eq!(format!("{fields:?}"), r#"{"b": "4", "a": "2", "c": "", "a": "5, 6"}"#);
        assert_eq!(fields.elements("a").collect::<Vec<_>>(), [&b"2"[..], b"5", b"6"]);
        assert_eq!((fields.get_str("c"), fields.get_str("d")), (Some(""), None));
    }
}
