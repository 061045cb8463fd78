//! Route: which requests go where, under which policies.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderName, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;
use crate::router::path::{PathFault, canonical};
use crate::value::{HostPattern, Span, written_as_string};

/// Longest path pattern, in bytes; requests are bounded to the same length.
const MAX_PATH_BYTES: usize = 8 * 1024;

/// Which requests go where. A request belongs to a route if one of the hosts, one of the paths, one of the
/// methods, all header conditions and all query conditions match; what is absent matches everything.
/// Of several routes the most specific wins (Gateway API HTTPRoute precedence): exact host, longer wildcard,
/// exact path, longer prefix, a method, more headers, more query conditions; then `priority`, then age, then name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Host names and wildcards (`*.example.com` is one or more labels in front). Default: every host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Default: every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    /// Default: every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodName>,
    /// Conditions on header fields; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderCondition>,
    /// Conditions on query parameters; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryCondition>,
    /// Only requests that came in there. Default: every listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Name>,
    /// Decides between routes that are equally specific: the higher wins. Default: 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Short for a single backend.
    #[serde(default, skip_serializing)]
    pub service: Option<Name>,
    /// Where matching requests go, shared out by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// A fixed answer, instead of backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<FixedResponse>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: RouteTimeouts,
    /// Policies for these requests. The running order is that of the types, not of this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Name>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false`: requests are matched as if the route did not exist. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// A service that gets a share of a route's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub service: Name,
    /// Share of the requests, relative to the other backends; 0 sends none. Default: 1. At most 1000000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

/// Which paths: everything below a prefix, in whole segments, or exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/orders` matches `/orders`, `/orders/` and `/orders/7`, and not `/orders-old`. Kept without a slash
    /// at its end, but for `/` itself.
    Prefix(String),
    /// The whole path, to the letter.
    Exact(String),
}

/// A request method (RFC 9110 section 9), in upper case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MethodName(pub Method);

/// A header field that must have this value: among several fields of the name one is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderCondition {
    pub name: HeaderField,
    /// The whole value, to the letter.
    pub exact: String,
}

/// The name of a header field (RFC 9110 section 5.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderField(pub HeaderName);

/// A query parameter that must have this value, after percent-decoding; among several of the name the
/// first counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryCondition {
    pub name: String,
    /// The whole value, to the letter.
    pub exact: String,
}

/// An answer of the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedResponse {
    /// 200 to 599. Default: 200.
    #[serde(default = "ok_status", skip_serializing_if = "is_ok_status")]
    pub status: u16,
    /// Default: empty. At most 64 KiB.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: String,
    /// Default: `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// Where a route waits differently from its service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// From sending the request until the head of the response. Default: that of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Span>,
    /// Without any byte in either direction. Default: that of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
}

impl PathPattern {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Prefix(path) | Self::Exact(path) => path,
        }
    }

    fn prefix(path: &str) -> Self {
        let trimmed = path.trim_end_matches('/').len().max(1);
        Self::Prefix(path[..trimmed.min(path.len())].to_owned())
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Prefix(path) => map.serialize_entry("prefix", path)?,
            Self::Exact(path) => map.serialize_entry("exact", path)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = PathPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path prefix such as `/orders`, `{prefix: /orders}` or `{exact: /orders}`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<PathPattern, E> {
                Ok(PathPattern::prefix(path))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PathPattern, A::Error> {
                let mut found = None;
                while let Some(field) = map.next_key::<Cow<'de, str>>()? {
                    let pattern = match &*field {
                        "prefix" => PathPattern::prefix(&map.next_value::<String>()?),
                        "exact" => PathPattern::Exact(map.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &["prefix", "exact"])),
                    };
                    if found.replace(pattern).is_some() {
                        return Err(de::Error::custom("write one of `prefix` and `exact`"));
                    }
                }
                found.ok_or_else(|| de::Error::custom("write one of `prefix` and `exact`"))
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for PathPattern {
    fn schema_name() -> Cow<'static, str> {
        "PathPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let path = json_schema!({ "type": "string", "pattern": "^/" });
        json_schema!({
            "description": "Which paths: a plain string is a prefix, matched in whole segments.",
            "oneOf": [
                path,
                { "type": "object", "properties": { "prefix": path }, "required": ["prefix"], "additionalProperties": false },
                { "type": "object", "properties": { "exact": path }, "required": ["exact"], "additionalProperties": false },
            ]
        })
    }
}

impl std::str::FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no request method: write it in upper case, such as `GET`");
        let method = Method::from_bytes(text.as_bytes()).map_err(|_| wrong())?;
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(wrong());
        }
        Ok(Self(method))
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

written_as_string!(MethodName, "Method", "^[A-Z0-9!#$%&'*+.^_|~-]+$", "A request method, in upper case: `GET`.");

impl std::str::FromStr for HeaderField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        HeaderName::from_bytes(text.as_bytes()).map(Self).map_err(|_| format!("`{text}` is no name of a header field"))
    }
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

written_as_string!(
    HeaderField,
    "HeaderName",
    "^[A-Za-z0-9!#$%&'*+.^_|~-]+$",
    "The name of a header field; upper and lower case are the same."
);

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

fn ok_status() -> u16 {
    200
}

fn is_ok_status(status: &u16) -> bool {
    *status == 200
}

impl Written for Route {
    const KIND: Kind = Kind::Route;

    fn check(&self, faults: &mut Vec<Fault>) {
        self.check_destination(faults);
        for (index, pattern) in self.paths.iter().enumerate() {
            if let Some(fault) = check_path(pattern) {
                faults.push(fault.below(&format!("/paths/{index}")));
            }
        }
        check_duplicates("/hosts", &self.hosts, faults);
        check_duplicates("/paths", &self.paths, faults);
        for (index, condition) in self.headers.iter().enumerate() {
            if http::HeaderValue::from_str(&condition.exact).is_err() {
                let message = format!("`{}` cannot be the value of a header field", condition.exact);
                faults.push(Fault::new(format!("/headers/{index}/exact"), "invalid-value", message));
            }
        }
        let zero = [("request", self.timeouts.request), ("idle", self.timeouts.idle)];
        for (field, _) in zero.iter().filter(|(_, span)| span.is_some_and(|span| span.as_millis() == 0)) {
            let fault =
                Fault::new(format!("/timeouts/{field}"), "invalid-value", "a timeout of zero lets nothing through");
            faults.push(fault.hint("leave it away for the default"));
        }
    }

    fn references(&self, visit: &mut dyn FnMut(Reference<'_>)) {
        for (index, backend) in self.backends.iter().enumerate() {
            let pointer = format!("/backends/{index}/service");
            visit(Reference { kind: Kind::Service, name: &backend.service, pointer });
        }
        for (index, name) in self.listeners.iter().enumerate() {
            let pointer = format!("/listeners/{index}");
            visit(Reference { kind: Kind::Listener, name, pointer });
        }
        super::policy::references(&self.policies, visit);
    }

    fn into_resource(mut self) -> Resource {
        if let Some(service) = self.service.take() {
            self.backends = vec![Backend { service, weight: 1 }];
        }
        Resource::Route(Box::new(self))
    }
}

impl Route {
    fn check_destination(&self, faults: &mut Vec<Fault>) {
        let said = [
            ("service", self.service.is_some()),
            ("backends", !self.backends.is_empty()),
            ("respond", self.respond.is_some()),
        ];
        let mut said = said.iter().filter(|(_, is_said)| *is_said);
        match (said.next(), said.next()) {
            (None, _) => faults.push(
                Fault::new("/backends", "missing-value", "the route leads nowhere")
                    .hint("write `service`, `backends` or `respond`"),
            ),
            (Some((first, _)), Some((second, _))) => faults.push(Fault::new(
                format!("/{second}"),
                "conflicting-fields",
                format!("`{first}` and `{second}` exclude each other: write one of them"),
            )),
            _ => {}
        }
        for (index, backend) in self.backends.iter().enumerate() {
            if backend.weight > 1_000_000 {
                let message = format!("a weight of {} is out of range", backend.weight);
                let fault = Fault::new(format!("/backends/{index}/weight"), "invalid-value", message);
                faults.push(fault.hint("weights are 0 to 1000000"));
            }
        }
        if let Some(respond) = &self.respond {
            if !(200..=599).contains(&respond.status) {
                let message = format!("{} is no final status", respond.status);
                faults.push(Fault::new("/respond/status", "invalid-value", message).hint("use 200 to 599"));
            }
            if respond.body.len() > 64 * 1024 {
                let message = format!("a body of {} bytes is too large", respond.body.len());
                faults.push(Fault::new("/respond/body", "invalid-value", message).hint("use 64 KiB at most"));
            }
            if respond.content_type.as_ref().is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
                let message = "this cannot be the value of a header field";
                faults.push(Fault::new("/respond/content_type", "invalid-value", message));
            }
        }
    }
}

/// Patterns are compared with canonical paths, so one that is not canonical could never match.
fn check_path(pattern: &PathPattern) -> Option<Fault> {
    let path = pattern.as_str();
    let never = |why: &str, hint: &str| Some(Fault::new("", "invalid-path", format!("`{path}` {why}")).hint(hint));
    if !path.starts_with('/') {
        return never("does not begin with a slash", "write `/orders`");
    }
    if path.len() > MAX_PATH_BYTES {
        return never("is longer than any request may be", "use 8 KiB at most");
    }
    match canonical(path) {
        Ok(canonical) if canonical == path => None,
        Ok(canonical) => never("is never the path of a request", &format!("write it as `{canonical}`")),
        Err(PathFault::InvalidCharacter) => {
            let hint = match path.contains(['?', '#']) {
                true => "leave query and fragment away",
                false => "write a space as `%20`",
            };
            never("holds a character that no path has", hint)
        }
        Err(fault) => never(&format!("is refused in requests: {fault}"), "write the path as the service sees it"),
    }
}

fn check_duplicates<T: PartialEq>(pointer: &str, list: &[T], faults: &mut Vec<Fault>) {
    // Lists are short, but nothing keeps a person from writing a long one: beyond this the set would
    // be quicker, and a duplicate does no harm.
    const LOOKED_AT: usize = 256;
    for (index, entry) in list.iter().enumerate().take(LOOKED_AT) {
        if list[..index].contains(entry) {
            faults.push(Fault::new(format!("{pointer}/{index}"), "duplicate-value", "this is listed twice"));
        }
    }
}
