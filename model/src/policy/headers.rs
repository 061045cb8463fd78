//! `headers`: sets, adds and removes header fields of requests and responses.
//!
//! ```yaml
//! policies:
//!   - name: shape
//!     type: headers
//!     config:
//!       request: { set: { X-Env: production }, remove: [X-Debug] }
//!       response: { add: { Vary: Origin }, remove: [Server] }
//! ```

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Policy, PolicySpec};
use crate::exchange::{Exchange, ResponseHead};
use crate::fields::Fields;
use crate::problem::{Fault, push_pointer};
use crate::resource::is_default;

/// Sets, adds and removes header fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Headers {
    /// What the service gets.
    #[serde(skip_serializing_if = "is_default")]
    pub request: FieldEdits,
    /// What the client gets, from the service or from the gateway after this policy ran.
    #[serde(skip_serializing_if = "is_default")]
    pub response: FieldEdits,
}

/// Done in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FieldEdits {
    /// Fields to take off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Fields that get this one value, in place of whatever was there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Fields to put beside those that are there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
}

/// The compiled form.
pub struct Compiled {
    request: Edits,
    response: Edits,
}

/// Edits that are ready to be made.
#[derive(Debug, Default)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl PolicySpec for Headers {
    const NAME: &'static str = "headers";
    const SUMMARY: &'static str = "sets, adds and removes header fields of requests and responses";
    type Compiled = Compiled;

    fn compile(&self, _: Option<&Compiled>) -> Result<Compiled, Vec<Fault>> {
        let mut faults = Vec::new();
        let compiled = Compiled {
            request: self.request.compile("/request", &mut faults),
            response: self.response.compile("/response", &mut faults),
        };
        if faults.is_empty() { Ok(compiled) } else { Err(faults) }
    }
}

impl FieldEdits {
    /// What is wrong in it goes into `faults`, below `pointer`.
    pub(crate) fn compile(&self, pointer: &str, faults: &mut Vec<Fault>) -> Edits {
        let remove = self.remove.iter().enumerate().filter_map(|(index, name)| {
            field_name(name).map_err(|fault| faults.push(fault.below(&format!("{pointer}/remove/{index}")))).ok()
        });
        Edits {
            remove: remove.collect(),
            set: fields(&self.set, &format!("{pointer}/set"), faults),
            add: fields(&self.add, &format!("{pointer}/add"), faults),
        }
    }
}

fn fields(written: &BTreeMap<String, String>, list: &str, faults: &mut Vec<Fault>) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(written.len());
    for (name, value) in written {
        let mut pointer = list.to_owned();
        push_pointer(&mut pointer, name);
        let value = HeaderValue::from_str(value).map_err(|_| {
            let message = format!("the value of `{name}` holds a character that no header field may have");
            Fault::new("", "invalid-value", message).hint("leave line breaks and control characters away")
        });
        match (field_name(name), value) {
            (Ok(name), Ok(_)) if fields.iter().any(|(earlier, _)| *earlier == name) => {
                let message = format!("`{name}` is listed twice: upper and lower case are the same");
                faults.push(Fault::new(pointer, "duplicate-value", message));
            }
            (Ok(name), Ok(value)) => fields.push((name, value)),
            (name, value) => {
                let found = name.err().into_iter().chain(value.err());
                faults.extend(found.map(|fault| fault.below(&pointer)));
            }
        }
    }
    fields
}

/// The name of a field that may be edited: not one that belongs to a single connection or frames the message
/// (RFC 9110 section 7.6.1, RFC 9112 section 6), since both sides of the gateway must agree where it ends.
fn field_name(text: &str) -> Result<HeaderName, Fault> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Fault::new("", "invalid-value", format!("`{text}` is no name of a header field")))?;
    let hint = match name.as_str() {
        "host" => "the host that a service gets is that of the request: write `rewrite: { host: … }` on the route",
        "connection" | "keep-alive" | "te" | "trailer" | "upgrade" => {
            "it belongs to one connection, which the gateway looks after"
        }
        "content-length" | "transfer-encoding" => {
            "it says where the message ends, which the gateway works out for each side"
        }
        proxy if proxy.starts_with("proxy-") => "it is between a client and its own proxy, and never forwarded",
        _ => return Ok(name),
    };
    Err(Fault::new("", "reserved-field", format!("`{text}` cannot be edited")).hint(hint))
}

impl Policy for Compiled {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        self.request.apply(&mut exchange.request.headers);
        Outcome::Continue
    }

    fn on_response(&self, _: &mut Exchange, head: &mut ResponseHead) {
        self.response.apply(&mut head.headers);
    }
}

impl Edits {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Each edit, in the order in which they are made: what is done, and to which field.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> {
        let field = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let remove = self.remove.iter().map(|name| ("remove", name.to_string()));
        let set = self.set.iter().map(move |one| ("set", field(one)));
        remove.chain(set).chain(self.add.iter().map(move |one| ("add", field(one))))
    }

    pub fn apply(&self, headers: &mut Fields) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value);
        }
        for (name, value) in &self.add {
            headers.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{PolicyKind, check};
    use crate::snapshot::Snapshot;

    fn compile(config: &Value) -> Result<std::sync::Arc<dyn Policy>, Vec<Fault>> {
        PolicyKind::find("headers").expect("it is in the table").compile(config, None)
    }

    fn shown(headers: &Fields) -> Vec<String> {
        let mut shown: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let config = json!({
            "request": {
                "remove": ["X-Debug", "x-both"],
                "set": {"X-Env": "production", "x-both": "new"},
                "add": {"X-Env": "eu", "Accept": "text/plain"},
            },
            "response": {"set": {"X-Served-By": "gateway"}},
        });
        let policy = compile(&config).expect("a policy");
        let fields = [("x-debug", "1"), ("x-debug", "2"), ("x-both", "old"), ("x-env", "test"), ("accept", "*/*")];
        let mut exchange = Exchange::sample(Snapshot::default(), "/", &fields);
        let (response, rejection) = check(&*policy, &mut exchange);
        assert!(rejection.is_none());
        assert_eq!(
            shown(&exchange.request.headers),
            ["accept: */*", "accept: text/plain", "x-both: new", "x-env: eu", "x-env: production"]
        );
        assert_eq!(shown(&response), ["x-served-by: gateway"]);
    }

    #[test]
    fn every_impossible_field_is_reported() {
        let config = json!({
            "request": {
                "remove": ["ok", "Connection", "a b"],
                "set": {"Host": "x", "X-A": "1", "x-a": "2"},
                "add": {"Content-Length": "a\nb"},
            },
            "response": {"add": {"Proxy-Anything": "x", "transfer-encoding": "chunked"}},
        });
        let faults = compile(&config).err().expect("faults");
        let found: Vec<_> = faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect();
        assert_eq!(
            found,
            [
                "/request/remove/1 reserved-field",
                "/request/remove/2 invalid-value",
                "/request/set/Host reserved-field",
                "/request/set/x-a duplicate-value",
                "/request/add/Content-Length reserved-field",
                "/request/add/Content-Length invalid-value",
                "/response/add/Proxy-Anything reserved-field",
                "/response/add/transfer-encoding reserved-field",
            ]
        );
    }
}
