//! YAML in and out: the only file that knows the YAML library. JSON is read as the YAML that it is.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Error, Spanned};

/// A value and where it was written.
pub(super) struct Node {
    pub at: Place,
    pub form: Form,
}

pub(super) enum Form {
    Map(Vec<(Key, Node)>),
    List(Vec<Node>),
    Leaf(Value),
}

/// A key of a map and where it was written.
pub(super) struct Key {
    pub at: Place,
    pub text: String,
}

/// Line and column count from 1, the column and the length in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
    pub length: usize,
}

/// Why a text cannot be read at all.
pub(super) struct Unreadable {
    pub at: Option<Place>,
    pub message: String,
    pub hint: Option<&'static str>,
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub(super) fn get(&self, field: &str) -> Option<(&Key, &Self)> {
        match &self.form {
            Form::Map(fields) => fields.iter().find(|(key, _)| key.text == field).map(|(key, value)| (key, value)),
            Form::List(_) | Form::Leaf(_) => None,
        }
    }
}

/// Reads one document. A text can make no more values than it has characters, so that one which repeats itself
/// by references (a "billion laughs") is refused.
pub(super) fn read(text: &str) -> Result<Node, Unreadable> {
    let most = text.len() + 10_000;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: most, max_events: most * 2 },
        with_snippet: false,
        // `no` and `yes` are words, `0755` is a name and `1_000` a text: what looks like a number in some
        // version of YAML only is none here.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
    };
    let Tree(root) = serde_saphyr::from_str_with_options(text, options).map_err(|error| unreadable(&error))?;
    Ok(root)
}

/// The value of a document that holds no resources, or why and where it cannot be read.
pub fn value(text: &str) -> Result<Value, String> {
    fn plain(node: Node) -> Value {
        match node.form {
            Form::Map(fields) => fields.into_iter().map(|(key, node)| (key.text, plain(node))).collect(),
            Form::List(list) => list.into_iter().map(plain).collect(),
            Form::Leaf(value) => value,
        }
    }
    read(text).map(plain).map_err(|Unreadable { at, message, .. }| match at {
        Some(Place { line, column, .. }) => format!("line {line}, column {column}: {message}"),
        None => message,
    })
}

/// Writes a value so that reading it gives the same value.
pub(super) fn write(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { compact_list_indent: false };
    serde_saphyr::to_string_with_options(value, options).expect("plain data can be written")
}

fn unreadable(error: &Error) -> Unreadable {
    let at = error.location().map(|location| place(&location));
    let (message, hint) = match error.without_snippet() {
        Error::DuplicateMappingKey { key: Some(key), .. } => (format!("`{key}` is written twice here"), None),
        Error::MultipleDocuments { .. } => {
            let hint = "write each in a file of its own, or all lists in one";
            ("a second document begins here".to_owned(), Some(hint))
        }
        Error::Budget { .. } => ("this holds more than its size allows".to_owned(), Some("use fewer references")),
        Error::UnknownAnchor { .. } => ("this refers to an anchor that is not there".to_owned(), None),
        other => {
            let text = other.to_string();
            let end = text.find(" at line ").unwrap_or(text.len());
            (text[..end].to_owned(), None)
        }
    };
    Unreadable { at, message, hint }
}

fn place(location: &serde_saphyr::Location) -> Place {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Place { line: number(location.line()), column: number(location.column()), length: number(location.span().len()) }
}

/// A node as serde makes it.
struct Tree(Node);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Form>::deserialize(deserializer)?;
        Ok(Self(Node { at: place(&referenced), form: value }))
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FormVisitor)
    }
}

struct FormVisitor;

impl<'de> Visitor<'de> for FormVisitor {
    type Value = Form;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Form, E> {
        Ok(Form::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Form, E> {
        Ok(Form::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Form, E> {
        Ok(Form::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Form, E> {
        Ok(Form::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Form, E> {
        Ok(Form::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Form, E> {
        Ok(Form::Leaf(Value::Null))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Form, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, Tree(value))) = map.next_entry::<Spanned<String>, Tree>()? {
            fields.push((Key { at: place(&key.referenced), text: key.value }, value));
        }
        Ok(Form::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Form, A::Error> {
        let mut entries = Vec::new();
        while let Some(Tree(entry)) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Form::List(entries))
    }
}
