//! Resources: what a person writes, and what REST, YAML, database and stream carry.
//!
//! A kind is one file in `resource/` and one line in [`KINDS`]: parsing, schema, references, checks,
//! admin endpoints and documentation follow from that line.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::{Fault, closest};
use crate::text::Text;
use crate::written;

pub mod ca_bundle;
pub mod certificate;
pub mod consumer;
pub mod listener;
pub mod policy;
pub mod route;
pub mod service;

pub use ca_bundle::CaBundle;
pub use certificate::Certificate;
pub use consumer::Consumer;
pub use listener::Listener;
pub use policy::Policy;
pub use route::Route;
pub use service::Service;

/// The kinds of resources. The order is the order of exports: what is referred to comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Listener,
    Certificate,
    CaBundle,
    Service,
    Route,
    Policy,
    Consumer,
}

/// All that the rest of the program needs to know about a kind.
pub struct KindInfo {
    pub kind: Kind,
    /// `route`
    pub singular: &'static str,
    /// `routes`: the name of its list in a file and of its collection in the admin API.
    pub plural: &'static str,
    /// One line for documentation.
    pub summary: &'static str,
    /// JSON pointers to values that are never shown (see [`crate::resource::certificate`]).
    pub secrets: &'static [&'static str],
    /// Fields whose value may be in another file: in a file, `cert_file` may stand for `cert`.
    pub file_fields: &'static [&'static str],
    /// Fields that are short for others, as JSON pointers: the short one, and what it stands for.
    short_forms: &'static [(&'static str, &'static str)],
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    parse: fn(Value) -> Result<Resource, Vec<Fault>>,
    mentions: fn(Value) -> Vec<Mention>,
    /// The short way for what has no faults, as nothing has that was checked before.
    parse_text: fn(&str) -> Option<Resource>,
}

impl KindInfo {
    const fn of<T: Written>(plural: &'static str, summary: &'static str) -> Self {
        Self {
            kind: T::KIND,
            singular: T::KIND.singular(),
            plural,
            summary,
            secrets: T::SECRETS,
            file_fields: T::FILE_FIELDS,
            short_forms: T::SHORT_FORMS,
            schema: |generator| generator.subschema_for::<T>(),
            parse: parse::<T>,
            mentions: |value| {
                let short_form = T::KIND.info().short_form(&value);
                let mut reading = written::read_partly::<T>(value);
                let mut mentions = Vec::new();
                if let Some(typed) = reading.typed.take() {
                    typed.into_resource().references(&mut |Reference { kind, name, pointer }| {
                        let pointer = reading.as_written(&pointer_in(short_form, pointer));
                        mentions.push(Mention { kind, name: name.to_owned(), pointer });
                    });
                }
                mentions
            },
            parse_text: |text| {
                let typed: T = serde_json::from_str(text).ok()?;
                let mut faults = Vec::new();
                typed.check(&mut faults);
                faults.is_empty().then(|| typed.into_resource())
            },
        }
    }
}

impl KindInfo {
    /// The short form in which `spec` is written, if it is.
    pub(crate) fn short_form(&self, spec: &Value) -> Option<ShortForm> {
        self.short_forms.iter().find(|(short, _)| spec.pointer(short).is_some())
    }
}

/// A field that is short for another one, and that one.
pub(crate) type ShortForm = &'static (&'static str, &'static str);

/// The pointer to a field of the parsed form, as a pointer into what was written.
pub(crate) fn pointer_in(short_form: Option<ShortForm>, pointer: String) -> String {
    match short_form {
        Some((short, long)) if pointer == *long => (*short).to_owned(),
        _ => pointer,
    }
}

/// The resource, or every fault that the types and the checks find.
fn parse<T: Written>(value: Value) -> Result<Resource, Vec<Fault>> {
    let mut reading = written::read_partly::<T>(value);
    let Some(typed) = reading.typed.take() else { return Err(reading.faults) };
    let mut more = Vec::new();
    typed.check(&mut more);
    for fault in &mut more {
        fault.pointer = reading.as_written(&fault.pointer);
    }
    more.retain(|fault| reading.is_genuine(fault));
    reading.faults.extend(more);
    if reading.faults.is_empty() { Ok(typed.into_resource()) } else { Err(reading.faults) }
}

/// Every kind, in the order of [`Kind`].
pub static KINDS: &[KindInfo] = &[
    KindInfo::of::<Listener>("listeners", "where requests come in"),
    KindInfo::of::<Certificate>("certificates", "key material for listeners, by host name"),
    KindInfo::of::<CaBundle>("ca_bundles", "certificate authorities to trust"),
    KindInfo::of::<Service>("services", "what stands behind the gateway"),
    KindInfo::of::<Route>("routes", "which requests go to which service, under which policies"),
    KindInfo::of::<Policy>("policies", "configured behaviour of a known type"),
    KindInfo::of::<Consumer>("consumers", "who calls, and how they prove it"),
];

/// The written form of one kind.
pub trait Written: Serialize + DeserializeOwned + JsonSchema {
    const KIND: Kind;
    const SECRETS: &'static [&'static str] = &[];
    const FILE_FIELDS: &'static [&'static str] = &[];
    /// Fields that [`Written::into_resource`] turns into others that hold references: pointers to both.
    const SHORT_FORMS: &'static [(&'static str, &'static str)] = &[];

    /// Reports what the types cannot express.
    fn check(&self, faults: &mut Vec<Fault>);

    /// Names every other resource that this one needs, with the pointer to where it does.
    fn references(&self, visit: &mut dyn FnMut(Reference<'_>));

    fn into_resource(self) -> Resource;
}

/// One resource pointing at another.
#[derive(Debug)]
pub struct Reference<'a> {
    pub kind: Kind,
    pub name: &'a str,
    pub pointer: String,
}

/// A [`Reference`] on its own.
pub(crate) struct Mention {
    pub kind: Kind,
    pub name: String,
    pub pointer: String,
}

/// A parsed and checked resource of any kind, without its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Listener(Box<Listener>),
    Certificate(Certificate),
    CaBundle(CaBundle),
    Service(Box<Service>),
    Route(Box<Route>),
    Policy(Policy),
    Consumer(Consumer),
}

/// Runs the same expression on the written form inside, whatever its kind.
macro_rules! each_kind {
    ($resource:expr, $inner:ident => $body:expr) => {
        match $resource {
            Resource::Listener($inner) => $body,
            Resource::Certificate($inner) => $body,
            Resource::CaBundle($inner) => $body,
            Resource::Service($inner) => $body,
            Resource::Route($inner) => $body,
            Resource::Policy($inner) => $body,
            Resource::Consumer($inner) => $body,
        }
    };
}

impl Resource {
    /// Parses and checks; the name is not part of `spec`.
    pub fn parse(kind: Kind, spec: Value) -> Result<Self, Vec<Fault>> {
        (kind.info().parse)(spec)
    }

    /// What a written form with faults refers to, as far as it can be told.
    pub(crate) fn mentions(kind: Kind, spec: Value) -> Vec<Mention> {
        (kind.info().mentions)(spec)
    }

    pub fn references(&self, visit: &mut dyn FnMut(Reference<'_>)) {
        each_kind!(self, inner => inner.references(visit));
    }

    /// What is stored, hashed and sent: shorthands expanded, defaults left out, fields in fixed order.
    #[must_use]
    pub fn canonical(&self) -> String {
        each_kind!(self, inner => written::canonical(inner))
    }
}

impl Kind {
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        &KINDS[self as usize]
    }

    #[must_use]
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Certificate => "certificate",
            Self::CaBundle => "ca_bundle",
            Self::Service => "service",
            Self::Route => "route",
            Self::Policy => "policy",
            Self::Consumer => "consumer",
        }
    }

    #[must_use]
    pub fn plural(self) -> &'static str {
        self.info().plural
    }

    /// Reads the singular or the plural.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        KINDS.iter().find(|info| info.singular == text || info.plural == text).map(|info| info.kind)
    }

    /// The kind that someone who wrote `text` most likely meant, as a plural.
    #[must_use]
    pub fn closest(text: &str) -> Option<&'static str> {
        closest(text, KINDS.iter().map(|info| info.plural))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.singular())
    }
}

/// The name of a resource: 1 to 63 lower-case letters, digits and hyphens, a letter or digit at both ends
/// (a DNS label, RFC 1123 section 2.1). It is the handle in URLs, references, logs and metrics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Text);

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// To be preferred for comparing (see [`Text::as_bytes`]).
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Name {
    /// Comes before every name; it is none itself.
    pub(crate) fn lowest() -> Self {
        Self(Text::from(""))
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good =
            (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
        if good {
            return Ok(Self(Text::from(text)));
        }
        Err(format!(
            "`{text}` is no name: use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"
        ))
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_str()
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

crate::value::written_as_string!(
    Name,
    "Name",
    "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    "A name: 1 to 63 lower-case letters, digits and hyphens."
);

/// Which resource: its kind and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub name: Name,
}

impl Key {
    #[must_use]
    pub fn new(kind: Kind, name: Name) -> Self {
        Self { kind, name }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

/// A resource as it is kept: the revision that created its name, and its canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The revision in which a resource of this name appeared. Older routes win ties.
    pub created: u64,
    /// Canonical JSON of the written form, without the name.
    pub spec: Arc<str>,
}

impl Document {
    /// Reads back what was checked when it was written.
    pub fn parse(&self, kind: Kind) -> Result<Resource, Vec<Fault>> {
        if let Some(resource) = (kind.info().parse_text)(&self.spec) {
            return Ok(resource);
        }
        let value = serde_json::from_str(&self.spec)
            .map_err(|error| vec![Fault::new("", "invalid-json", error.to_string())])?;
        Resource::parse(kind, value)
    }

    /// The document as people see it: `name` in front of the fields of the spec.
    #[must_use]
    pub fn to_value(&self, name: &str) -> Value {
        let mut shown = serde_json::Map::new();
        shown.insert("name".into(), Value::from(name));
        if let Ok(Value::Object(fields)) = serde_json::from_str(&self.spec) {
            shown.extend(fields);
        }
        Value::Object(shown)
    }
}

/// Free words on a resource, for people and for filters.
pub type Labels = std::collections::BTreeMap<String, String>;

/// A hint for a reference to something that does not exist.
#[must_use]
pub fn unknown_reference(reference: &Reference<'_>, meant: Option<&str>) -> Fault {
    let fault = Fault::new(
        reference.pointer.clone(),
        "unknown-reference",
        format!("no {} is named `{}`", reference.kind, reference.name),
    );
    match meant {
        Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
        None => fault.hint(format!("create the {} in the same change, or before it", reference.kind)),
    }
}

/// `true` for serde's `skip_serializing_if` on flags that are on unless switched off.
pub(crate) fn is_true(flag: &bool) -> bool {
    *flag
}

/// `default` for such flags.
pub(crate) fn yes() -> bool {
    true
}

/// For serde's `skip_serializing_if`: the value that a missing field has needs no writing.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
