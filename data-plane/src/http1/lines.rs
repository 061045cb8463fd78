//! Cutting a head into its lines as it comes (RFC 9112 sections 2.2 and 5).
//!
//! Every byte is looked at once, and a line only when its end has come. What is wrong with a head is what is wrong with
//! its first line that is wrong, however the head was cut on its way.

use bytes::{Bytes, BytesMut};
use model::fields::{Fields, Kind, Line, Span};

use super::head::{Bounds, Fault};

/// Room for the fields of most messages.
const FIELDS: usize = 16;

/// Eight bytes at once: the lowest and the highest bit of each.
const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES * 0x80;

/// A head, cut into its lines.
pub struct Lines {
    pub head: Bytes,
    /// How long the first line is, without its end.
    pub first: usize,
    pub fields: Vec<Line>,
}

/// How far a head has been read.
#[derive(Debug, Default)]
pub struct Reader {
    /// Where the next line begins.
    line: usize,
    /// Up to where the end of that line was looked for in vain.
    looked: usize,
    first: usize,
    fields: Vec<Line>,
}

/// What a line is.
enum Cut {
    /// Its end has not come.
    Open,
    /// The empty line behind the fields.
    Empty,
    /// Its length without its end.
    First(usize),
    Field(Line, usize),
}

impl Reader {
    /// Whether a first line has come.
    pub fn has_begun(&self) -> bool {
        self.line > 0
    }

    /// Takes a head off the input, if all of it is there. It goes on where it stopped when more comes.
    pub fn read(&mut self, input: &mut BytesMut, bounds: &Bounds) -> Result<Option<Lines>, Fault> {
        if input.len() == self.looked {
            return Ok(None);
        }
        if self.looked > self.line && memchr::memchr(b'\n', &input[self.looked..]).is_none() {
            return self.wait(input.len(), bounds);
        }
        loop {
            let is_first = self.line == 0;
            let cut = if is_first { first_line(input) } else { field_line(&mut input[self.line..], self.line) };
            let length = match cut {
                Ok(Cut::Open) => return self.wait(input.len(), bounds),
                Ok(Cut::Empty) => 0,
                Ok(Cut::First(length) | Cut::Field(_, length)) => length,
                // A line is judged when its end has come.
                Err(_) => match memchr::memchr(b'\n', &input[self.line..]) {
                    Some(end) => end,
                    None => return self.wait(input.len(), bounds),
                },
            };
            let end = self.line + length + 2;
            if is_first && end - 1 > bounds.target_bytes {
                return Err(Fault::TargetTooLong);
            }
            if end > bounds.head_bytes {
                return Err(Fault::HeadTooLarge);
            }
            match cut? {
                Cut::First(length) => self.first = length,
                Cut::Field(..) if self.fields.len() == bounds.fields => return Err(Fault::TooManyFields),
                Cut::Field(field, _) => {
                    if self.fields.capacity() == 0 {
                        self.fields = Vec::with_capacity(FIELDS);
                    }
                    self.fields.push(field);
                }
                Cut::Open | Cut::Empty => {
                    let Self { first, fields, .. } = std::mem::take(self);
                    return Ok(Some(Lines { head: input.split_to(end).freeze(), first, fields }));
                }
            }
            self.line = end;
        }
    }

    fn wait(&mut self, length: usize, bounds: &Bounds) -> Result<Option<Lines>, Fault> {
        self.looked = length;
        if self.line == 0 && length > bounds.target_bytes {
            return Err(Fault::TargetTooLong);
        }
        if length >= bounds.head_bytes { Err(Fault::HeadTooLarge) } else { Ok(None) }
    }
}

/// The fields of a section that ends with its empty line, of which there may be this many.
pub fn fields(mut section: BytesMut, bound: usize) -> Result<Fields, Fault> {
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        match field_line(&mut section[at..], at)? {
            Cut::Field(..) if lines.len() == bound => return Err(Fault::TooManyFields),
            Cut::Field(line, length) => {
                lines.push(line);
                at += length + 2;
            }
            Cut::Empty => return Ok(Fields::of_head(section.freeze(), lines)),
            Cut::Open | Cut::First(_) => return Err(Fault::Malformed("The trailers have no end.")),
        }
    }
}

fn first_line(text: &[u8]) -> Result<Cut, Fault> {
    let length = printable(text);
    Ok(if is_ended(text, length)? { Cut::First(length) } else { Cut::Open })
}

/// A field, whose name is put into lower case where it lies. `at` is the place of the text in the head.
#[inline]
fn field_line(text: &mut [u8], at: usize) -> Result<Cut, Fault> {
    if text.first() == Some(&b'\r') {
        return Ok(if is_ended(text, 0)? { Cut::Empty } else { Cut::Open });
    }
    let name = lower_name(text);
    match text.get(name) {
        None => return Ok(Cut::Open),
        Some(b':') if name > Line::MAX_NAME_BYTES => return Err(Fault::HeadTooLarge),
        Some(b':') if name > 0 => {}
        // Space before the colon and folded lines among them (RFC 9112 sections 5.1 and 5.2).
        Some(_) => return Err(Fault::Malformed("The name of a header field is not valid.")),
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = name + 1 + text[name + 1..].iter().take_while(|byte| is_space(byte)).count();
    let length = start + printable(&text[start..]);
    if !is_ended(text, length)? {
        return Ok(Cut::Open);
    }
    let end = length - text[start..length].iter().rev().take_while(|byte| is_space(byte)).count();
    let kind = Kind::of(&text[..name]);
    let line = Line::new(Span::new(at, at + name), Span::new(at + start, at + end), kind);
    Ok(Cut::Field(line, length))
}

/// Puts the name that the text begins with into lower case; gives its length.
#[inline]
fn lower_name(text: &mut [u8]) -> usize {
    let mut name = 0;
    // Most names are of letters and hyphens.
    while let Some(chunk) = text[name..].first_chunk_mut() {
        let word = u64::from_le_bytes(*chunk);
        let (letters, usual) = letters_and_usual(word);
        let count = (!usual & HIGH).trailing_zeros() / 8;
        let counted = if count == 8 { u64::MAX } else { (1 << (8 * count)) - 1 };
        *chunk = (word | ((letters & counted) >> 2)).to_le_bytes();
        name += count as usize;
        if count < 8 {
            break;
        }
    }
    for byte in &mut text[name..] {
        let lower = NAME[usize::from(*byte)];
        if lower == 0 {
            break;
        }
        *byte = lower;
        name += 1;
    }
    name
}

/// Marks, of eight bytes, the letters, and the letters and hyphens.
fn letters_and_usual(word: u64) -> (u64, u64) {
    // No byte of a sum of these reaches the next.
    let lower = (word | (ONES * 0x20)) & !HIGH;
    let from_a = lower + ONES * (0x80 - b'a' as u64);
    let above_z = lower + ONES * (0x7f - b'z' as u64);
    let letters = from_a & !above_z & !word & HIGH;
    let from_hyphen = word ^ (ONES * b'-' as u64);
    let others = ((from_hyphen & !HIGH) + ONES * 0x7f) | from_hyphen;
    (letters, letters | (!others & HIGH))
}

/// Whether the line ends here, or a line that could end here has not come to its end.
fn is_ended(text: &[u8], at: usize) -> Result<bool, Fault> {
    match text[at..] {
        [] | [b'\r'] => Ok(false),
        [b'\r', b'\n', ..] => Ok(true),
        [b'\r' | b'\n', ..] => Err(Fault::Malformed("A line does not end with CR LF.")),
        _ => Err(Fault::Malformed("There is a control character in the head.")),
    }
}

/// How many bytes there are before a control character other than a tab.
fn printable(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk() {
        let found = controls(u64::from_le_bytes(*word));
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if text[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    at + text[at..].iter().position(is_control).unwrap_or(text.len() - at)
}

/// Marks eight bytes that are control characters, exactly so for the lowest that is marked.
fn controls(word: u64) -> u64 {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let from_delete = word ^ (ONES * 0x7f);
    let is_delete = from_delete.wrapping_sub(ONES) & !from_delete;
    (below_space | is_delete) & HIGH
}

/// The lower case of each byte that may stand in a name (RFC 9110 section 5.6.2), and 0 for the others.
const NAME: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let is_token = (byte as u8).is_ascii_alphanumeric() || is_among(byte as u8, b"!#$%&'*+-.^_`|~");
        if is_token {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

const fn is_among(byte: u8, list: &[u8]) -> bool {
    let mut place = 0;
    while place < list.len() {
        if list[place] == byte {
            return true;
        }
        place += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_bounded_even_where_a_head_is_not() {
        let bounds = Bounds { head_bytes: usize::MAX, target_bytes: usize::MAX, fields: 1 };
        let read = |length| {
            let head = format!("GET / HTTP/1.1\r\n{}: b\r\n\r\n", "a".repeat(length));
            Reader::default().read(&mut BytesMut::from(head.as_bytes()), &bounds).map(|lines| lines.is_some())
        };
        assert_eq!(read(Line::MAX_NAME_BYTES), Ok(true));
        assert_eq!(read(Line::MAX_NAME_BYTES + 1), Err(Fault::HeadTooLarge));
    }

    proptest! {
        #[test]
        fn names_are_those_that_are_found_byte_by_byte(text in "[a-zA-Z0-9_: -]{0,40}|[ -~]{0,20}|\\PC{0,20}") {
            let mut found = text.clone().into_bytes();
            let length = lower_name(&mut found);
            let by_byte = text.bytes().take_while(|byte| NAME[usize::from(*byte)] != 0).count();
            prop_assert_eq!(length, by_byte);
            let lower = text[..length].to_ascii_lowercase();
            prop_assert_eq!(found, [lower.as_bytes(), &text.as_bytes()[length..]].concat());
        }
    }
}
