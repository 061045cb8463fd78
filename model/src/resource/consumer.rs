//! Consumer: who calls, and how they prove it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::digest::sha256;
use crate::problem::Fault;
use crate::value::written_as_string;

/// Shortest key that is accepted, in bytes: shorter ones can be guessed.
const MIN_KEY_BYTES: usize = 16;

/// Who calls, and how they prove it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// What this consumer may show to be recognised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Policies for this consumer's requests; they replace policies of the same type attached elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Name>,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false` refuses all of its credentials. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// One way to be recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Credential {
    /// A key that policy `key-auth` looks for.
    KeyAuth {
        /// Tells this credential from the consumer's others.
        name: Name,
        /// The key itself, 16 bytes or more. Only its hash is kept: what is stored, exported and sent to
        /// nodes has `key_sha256` in its place.
        #[serde(default, skip_serializing, deserialize_with = "key")]
        key: Option<String>,
        /// SHA-256 of the key, 64 hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_sha256: Option<KeyHash>,
    },
}

/// SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(sha256(key))
    }
}

impl FromStr for KeyHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::digest::Digest::parse(text)
            .map(|digest| Self(digest.to_bytes()))
            .ok_or_else(|| "a key hash is 64 hexadecimal digits, as `sha256sum` prints them".to_owned())
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

written_as_string!(KeyHash, "KeyHash", "^[0-9a-f]{64}$", "SHA-256 of a key, in hexadecimal.");

impl Consumer {
    /// The hashes of all keys, with the pointer to each.
    pub fn key_hashes(&self) -> impl Iterator<Item = (String, KeyHash)> {
        self.credentials.iter().enumerate().filter_map(|(index, credential)| {
            let Credential::KeyAuth { key_sha256, .. } = credential;
            key_sha256.map(|hash| (format!("/credentials/{index}"), hash))
        })
    }
}

/// What is no string may be a key all the same, so that it is not shown.
fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(key) => Ok(Some(key)),
        Value::Null => Ok(None),
        _ => Err(D::Error::custom("`key` is a string: write it in quotes")),
    }
}

impl Written for Consumer {
    const KIND: Kind = Kind::Consumer;

    fn check(&self, faults: &mut Vec<Fault>) {
        for (index, credential) in self.credentials.iter().enumerate() {
            let Credential::KeyAuth { name, key, key_sha256 } = credential;
            let at = |field: &str| format!("/credentials/{index}{field}");
            match (key, key_sha256) {
                (Some(_), Some(_)) => faults.push(Fault::new(
                    at("/key_sha256"),
                    "conflicting-fields",
                    "`key` and `key_sha256` are two ways to say the same: write one of them",
                )),
                (None, None) => faults.push(
                    Fault::new(at("/key"), "missing-field", "the credential has no key")
                        .hint("write `key` or `key_sha256`"),
                ),
                (Some(key), None) if key.len() < MIN_KEY_BYTES => faults.push(
                    Fault::new(at("/key"), "invalid-value", format!("a key of {} bytes can be guessed", key.len()))
                        .hint(format!("use {MIN_KEY_BYTES} bytes or more, from a random source")),
                ),
                _ => {}
            }
            let twin = self.credentials[..index].iter().any(|other| {
                let Credential::KeyAuth { name: earlier, .. } = other;
                earlier == name
            });
            if twin {
                let message = format!("two credentials of this consumer are named `{name}`");
                faults.push(Fault::new(at("/name"), "duplicate-name", message));
            }
        }
    }

    fn references(&self, visit: &mut dyn FnMut(Reference<'_>)) {
        super::policy::references(&self.policies, visit);
    }

    fn into_resource(mut self) -> Resource {
        for credential in &mut self.credentials {
            let Credential::KeyAuth { key, key_sha256, .. } = credential;
            if let Some(key) = key.take() {
                *key_sha256 = Some(KeyHash::of(key.as_bytes()));
            }
        }
        Resource::Consumer(self)
    }
}
