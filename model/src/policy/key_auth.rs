//! `key-auth`: who calls is known by a key.
//!
//! ```yaml
//! policies:
//!   - { name: partners, type: key-auth, config: { header: X-API-Key } }
//! consumers:
//!   - name: acme
//!     credentials: [{ type: key-auth, name: main, key: "${env:ACME_KEY}" }]
//! ```
//!
//! Keys are found by their SHA-256 in a table of hashes. No key is ever compared with another, so that the time
//! an answer takes tells nothing about how much of a guess was right.

use std::borrow::Cow;

use http::header::WWW_AUTHENTICATE;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Policy, PolicySpec};
use crate::exchange::Exchange;
use crate::problem::Fault;
use crate::rejection::Rejection;
use crate::resource::consumer::KeyHash;
use crate::resource::route::HeaderField;

/// Lets through who shows a key of a consumer; the key is not forwarded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyAuth {
    /// The header field that carries the key. Default: `X-API-Key`.
    #[serde(skip_serializing_if = "is_default_header")]
    pub header: HeaderField,
    /// A query parameter that may carry it instead. URLs end up in logs and histories, so the field is the
    /// better place. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

impl Default for KeyAuth {
    fn default() -> Self {
        Self { header: HeaderField(HeaderName::from_static("x-api-key")), query: None }
    }
}

fn is_default_header(header: &HeaderField) -> bool {
    header.0 == "x-api-key"
}

/// The compiled form.
pub struct Compiled {
    header: HeaderName,
    query: Option<String>,
    /// Says to those without a key where it belongs.
    challenge: String,
}

impl PolicySpec for KeyAuth {
    const NAME: &'static str = "key-auth";
    const SUMMARY: &'static str = "lets through who shows a key of a consumer";
    type Compiled = Compiled;

    fn compile(&self, _: Option<&Compiled>) -> Result<Compiled, Vec<Fault>> {
        let mut challenge = format!("ApiKey header=\"{}\"", self.header);
        if let Some(query) = &self.query {
            // It is repeated in a field, between quotes.
            if query.is_empty() || !query.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
                let message = format!("`{query}` cannot be the name of a query parameter here");
                return Err(vec![
                    Fault::new("/query", "invalid-value", message).hint("use letters, digits, `-`, `_` and `.`"),
                ]);
            }
            challenge.push_str(&format!(", query=\"{query}\""));
        }
        Ok(Compiled { header: self.header.0.clone(), query: self.query.clone(), challenge })
    }
}

impl Policy for Compiled {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        let key = match self.take_key(exchange) {
            Taken::One(key) => key,
            Taken::None => {
                return self.reject("credential-missing", "This needs an API key, and the request has none.");
            }
            // Which of them counts would be decided differently here and behind, so none does.
            Taken::Several => {
                return self.reject("credential-repeated", "The request has more than one API key.");
            }
        };
        match exchange.snapshot.consumer_of_key(&key) {
            Some(consumer) => {
                exchange.consumer = Some(consumer);
                Outcome::Continue
            }
            None => self.reject("credential-unknown", "The API key is not known here."),
        }
    }
}

/// What a request shows.
enum Taken {
    None,
    One(KeyHash),
    Several,
}

impl Taken {
    fn and(self, key: &[u8]) -> Self {
        match self {
            Self::None => Self::One(KeyHash::of(key)),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

impl Compiled {
    /// Takes every key off the request.
    fn take_key(&self, exchange: &mut Exchange) -> Taken {
        let request = &mut exchange.request;
        let mut taken = Taken::None;
        for value in request.headers.get_all(&self.header) {
            taken = taken.and(value);
        }
        request.headers.remove(&self.header);
        if let Some((name, query)) = self.query.as_deref().zip(request.target.query())
            && query.split('&').any(|pair| is_named(pair, name))
        {
            let (keys, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| is_named(pair, name));
            for pair in keys {
                let value = pair.split_once('=').map_or("", |(_, value)| value);
                taken = taken.and(&decoded(value));
            }
            request.target = with_query(&request.target, &rest.join("&"));
        }
        taken
    }

    /// A 401 says how to do better (RFC 9110 section 11.6.1).
    fn reject(&self, code: &'static str, detail: &'static str) -> Outcome<'static> {
        let challenge = HeaderValue::from_str(&self.challenge).expect("names of fields and parameters are plain text");
        Outcome::Reject(Rejection::new(StatusCode::UNAUTHORIZED, code, detail).with_field(WWW_AUTHENTICATE, challenge))
    }
}

fn is_named(pair: &str, name: &str) -> bool {
    let written = pair.split_once('=').map_or(pair, |(written, _)| written);
    *decoded(written) == *name.as_bytes()
}

/// A name or value of a query as forms encode it.
fn decoded(text: &str) -> Vec<u8> {
    let text = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_decode_str(&text).collect()
}

/// The same path with what is left of the query.
fn with_query(target: &PathAndQuery, query: &str) -> PathAndQuery {
    let path = target.path();
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    target.try_into().expect("a part of a query is a query")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Edit;
    use crate::policy::check;
    use crate::resource::Kind;
    use crate::snapshot::Snapshot;

    const KEY: &str = "correct horse battery staple";

    fn snapshot() -> Snapshot {
        let put = |name: &str, spec| Edit::Put { kind: Kind::Consumer, name: name.into(), spec };
        let edits = vec![
            put("acme", json!({"credentials": [{"type": "key-auth", "name": "main", "key": KEY}]})),
            put(
                "closed",
                json!({"enabled": false, "credentials": [{"type": "key-auth", "name": "main", "key": "0123456789abcdef"}]}),
            ),
        ];
        Snapshot::default().apply(1, edits).unwrap_or_else(|problems| panic!("{problems:?}")).0
    }

    fn policy(query: Option<&str>) -> Compiled {
        KeyAuth { query: query.map(str::to_owned), ..KeyAuth::default() }.compile(None).expect("a policy")
    }

    type Fields = [(&'static str, &'static str)];

    fn outcome(query: Option<&str>, target: &'static str, fields: &Fields) -> (Exchange, Option<Rejection>) {
        let mut exchange = Exchange::sample(snapshot(), target, fields);
        let (_, rejection) = check(&policy(query), &mut exchange);
        (exchange, rejection)
    }

    #[test]
    fn a_known_key_names_the_consumer_and_is_not_forwarded() {
        let (exchange, rejection) = outcome(None, "/?key=x", &[("x-api-key", KEY), ("accept", "*/*")]);
        assert!(rejection.is_none());
        assert_eq!(exchange.consumer().expect("a consumer").name.as_str(), "acme");
        assert_eq!(exchange.request.headers.len(), 1);
        assert_eq!(exchange.request.target, "/?key=x", "without `query` parameters are left alone");
    }

    #[test]
    fn a_key_in_the_query_is_taken_out_of_it() {
        for (target, left) in [
            ("/a?key=correct+horse%20battery+staple", "/a"),
            ("/a?b=%2F&k%65y=correct%20horse%20battery%20staple&c", "/a?b=%2F&c"),
        ] {
            let (exchange, rejection) = outcome(Some("key"), target, &[]);
            assert!(rejection.is_none(), "{target}");
            assert!(exchange.consumer.is_some());
            assert_eq!(exchange.request.target, left);
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_challenge_and_forwarded_nowhere() {
        let key = ("x-api-key", KEY);
        let cases: [(&'static str, &Fields, &str); 7] = [
            ("/", &[], "credential-missing"),
            ("/", &[("x-api-key", "")], "credential-unknown"),
            ("/", &[("x-api-key", "something else")], "credential-unknown"),
            ("/", &[("x-api-key", "0123456789abcdef")], "credential-unknown"),
            ("/", &[key, key], "credential-repeated"),
            ("/?key=a", &[key], "credential-repeated"),
            ("/?key=a&key=b", &[], "credential-repeated"),
        ];
        for (target, fields, code) in cases {
            let (exchange, rejection) = outcome(Some("key"), target, fields);
            let rejection = rejection.expect(code);
            assert_eq!((rejection.code, rejection.status), (code, StatusCode::UNAUTHORIZED));
            let (name, challenge) = &rejection.fields[0];
            assert_eq!(
                (name, challenge.to_str().expect("text")),
                (&WWW_AUTHENTICATE, r#"ApiKey header="x-api-key", query="key""#)
            );
            assert!(exchange.consumer.is_none() && exchange.request.headers.is_empty());
            assert_eq!(exchange.request.target, "/");
        }
    }
}
