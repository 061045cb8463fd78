//! Forwarded: whom a listener believes about the client of a request, and what services are told of it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::is_default;
use crate::problem::Fault;
use crate::value::{Network, written_as_string};

/// Whom to believe about the client of a request, and what services are told of it. Whatever other peers say in
/// `Forwarded`, `X-Forwarded-*` or `X-Real-IP` is taken out before anything reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarded {
    /// The proxies in front of the gateway. The client of a request that comes from one of them is the right-most
    /// address in its field that is not one of them; with a name or nonsense there, the address before it. It is what
    /// `sources` of routes, rate limits and the access log go by. They may have taken off TLS: a target with the scheme
    /// `https` is taken of them over any connection, and of others, without TLS, answered with 421. Default: none, the
    /// peer is the client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
    /// The field that the trusted proxies write; the other one could be the client's own, and is taken out. Default:
    /// x_forwarded.
    #[serde(skip_serializing_if = "is_default")]
    pub read: ForwardedField,
    /// The field that services get. Default: x_forwarded.
    #[serde(skip_serializing_if = "is_default")]
    pub send: ForwardedFields,
    /// What becomes of what trusted proxies wrote. What others wrote is overwritten. Default: extend.
    #[serde(skip_serializing_if = "is_default")]
    pub from_trusted: FromTrusted,
    /// Further header fields that only trusted proxies may send, such as those by which services know who calls;
    /// from others they are taken out before anything reads them, and out of trailers. `x-internal-*` stands for all that
    /// begin so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<FieldPattern>,
}

/// How the way of a request is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedField {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Which of them services get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedFields {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    Both,
}

/// What becomes of what trusted proxies wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FromTrusted {
    /// It goes on, with the address of the proxy added.
    #[default]
    Extend,
    /// Services get the client alone.
    Overwrite,
}

impl Forwarded {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        // Without these a message cannot be understood.
        const NEEDED: [&[u8]; 4] = [b"host", b"content-length", b"content-type", b"authorization"];
        for (index, pattern) in self.reserved.iter().enumerate() {
            if let Some(needed) = NEEDED.iter().find(|name| pattern.matches(name)) {
                let message =
                    format!("`{pattern}` would take out `{}`, which clients have to send", needed.escape_ascii());
                let fault = Fault::new(format!("/forwarded/reserved/{index}"), "invalid-value", message);
                faults.push(fault.hint("name fields that proxies add, such as `x-user-id` or `x-internal-*`"));
            }
        }
    }
}

/// A name of header fields, or with `*` at its end the beginning of names. In lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldPattern {
    name: String,
    is_prefix: bool,
}

impl FieldPattern {
    /// `name` is in lower case.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        if self.is_prefix { name.starts_with(self.name.as_bytes()) } else { name == self.name.as_bytes() }
    }
}

impl FromStr for FieldPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name: http::HeaderName = name.parse().map_err(|_| {
            format!("`{text}` is no name of a header field: write `x-user-id`, or `x-internal-*` for all that begin so")
        })?;
        Ok(Self { name: name.as_str().to_owned(), is_prefix })
    }
}

impl fmt::Display for FieldPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_prefix { "*" } else { "" })
    }
}

written_as_string!(
    FieldPattern,
    "FieldPattern",
    r"^[!#$%&'+.^_`|~0-9A-Za-z-]+\*?$",
    "A name of header fields, or with `*` at its end the beginning of names: `x-user-id`, `x-internal-*`."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_names_or_beginnings_of_names() {
        let pattern = |text: &str| text.parse::<FieldPattern>().expect(text);
        assert!(pattern("X-User-Id").matches(b"x-user-id") && !pattern("x-user").matches(b"x-user-id"));
        assert!(pattern("x-user-*").matches(b"x-user-id") && !pattern("x-user-*").matches(b"x-use"));
        assert_eq!(pattern("X-A-*").to_string(), "x-a-*");
        for text in ["", "*", "a b", "x-*-id"] {
            // The asterisk is a character of names (RFC 9110 section 5.6.2), but hardly meant as one.
            assert!(text.parse::<FieldPattern>().is_err() || text == "x-*-id", "{text}");
        }
    }

    #[test]
    fn what_clients_have_to_send_cannot_be_reserved() {
        let reserved = ["x-user", "c*"].map(|text| text.parse().expect(text)).to_vec();
        let mut faults = Vec::new();
        Forwarded { reserved, ..Forwarded::default() }.check(&mut faults);
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/forwarded/reserved/1"]);
    }
}
