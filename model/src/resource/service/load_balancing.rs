//! How a target is chosen for a request: the rule, and what it goes by.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::sticky_cookie::StickyCookie;
use crate::problem::Fault;
use crate::resource::is_default;
use crate::resource::route::HeaderField;
use crate::value::{Percentage, Span};

/// How a target is chosen for a request. Written as the name of the rule, or as an object where there is more to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing(Settings);

/// How a target is chosen for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LoadBalancingSettings")]
pub struct Settings {
    /// Default: least_request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: BalancingPolicy,
    /// What `ring_hash` and `maglev` go by: requests with the same value get the same target, on every node. One without a
    /// value gets any. Default: client_address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<HashKey>,
    /// A target that was added, or came back, gets its share little by little over this time, from a tenth of it on. At
    /// most 1h. Default: none, it gets its whole share at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Span>,
    /// When less than this part of the targets, by weight, is healthy, all of them get requests: the few that are left
    /// would be overrun. Counted for each priority and zone. `0%` switches it off, but the targets of a service are
    /// never given up all at once. Default: 50%.
    #[serde(default = "half", skip_serializing_if = "is_half")]
    pub panic_threshold: Percentage,
    /// Clients come back to the target that they had. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<Box<StickyCookie>>,
}

/// The rule by which a target is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BalancingPolicy {
    /// Of two targets drawn at random, by weight, the one with fewer requests in flight for its weight, as each core
    /// sees it.
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// Of two targets drawn at random, by weight, the one that will answer sooner: by how long its answers took of late,
    /// where slow ones count at once and are forgotten over ten seconds, and by its requests in flight.
    PeakEwma,
    /// The target that is next on a ring to the hash of `key`. When a target comes or goes, only its share moves.
    RingHash,
    /// By a table of 16381 places (131071 above 2048 targets) that each target takes its share of, looked up by the hash
    /// of `key`. More even than a ring; when a target comes or goes, little more than its share moves.
    Maglev,
}

/// What of a request decides which target it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The address of the client, without the port.
    ClientAddress,
    /// The consumer that a policy recognised.
    Consumer,
    /// The first header field of this name.
    Header(HeaderField),
    /// The cookie of this name.
    Cookie(#[schemars(description = "Its name, to the letter.")] String),
    /// The first query parameter of this name, percent-decoded.
    Query(#[schemars(description = "Its name, percent-decoded.")] String),
    /// What stands at this name of the template, or in this named group of the regular expression, of the route's path.
    PathCapture(#[schemars(description = "The name.")] String),
}

impl std::ops::Deref for LoadBalancing {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

impl Default for Settings {
    fn default() -> Self {
        let (policy, panic_threshold) = (BalancingPolicy::default(), half());
        Self { policy, key: None, slow_start: None, panic_threshold, sticky_cookie: None }
    }
}

impl LoadBalancing {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let Settings { policy, key, slow_start, panic_threshold: _, sticky_cookie } = &self.0;
        if let Some(cookie) = sticky_cookie {
            cookie.check(faults);
        }
        let hashes = matches!(policy, BalancingPolicy::RingHash | BalancingPolicy::Maglev);
        if key.is_some() && !hashes {
            let message = "a key is what `ring_hash` and `maglev` go by";
            let fault = Fault::new("/load_balancing/key", "conflicting-fields", message);
            faults.push(fault.hint("write `policy: maglev`, or leave `key` away"));
        }
        if let Some(HashKey::Cookie(name) | HashKey::Query(name) | HashKey::PathCapture(name)) = key
            && name.is_empty()
        {
            let fault = Fault::new("/load_balancing/key", "invalid-value", "the key has no name");
            faults.push(fault.hint("such as `key: { cookie: session }`"));
        }
        if slow_start.is_some_and(|span| span.as_millis() == 0 || span > Span::from_secs(3600)) {
            let fault = Fault::new("/load_balancing/slow_start", "invalid-value", "this time is out of range");
            faults.push(fault.hint("write up to `1h`, such as `30s`, or leave it away"));
        }
    }

    /// What the target goes by, if it goes by anything.
    #[must_use]
    pub fn hash_key(&self) -> Option<&HashKey> {
        match self.policy {
            BalancingPolicy::RingHash | BalancingPolicy::Maglev => {
                Some(self.key.as_ref().unwrap_or(&HashKey::ClientAddress))
            }
            BalancingPolicy::LeastRequest | BalancingPolicy::RoundRobin | BalancingPolicy::PeakEwma => None,
        }
    }
}

impl Serialize for LoadBalancing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_name_enough = self.0 == Settings { policy: self.policy, ..Settings::default() };
        if is_name_enough { self.policy.serialize(serializer) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for LoadBalancing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = LoadBalancing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a policy, or an object with `policy`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                let policy = BalancingPolicy::deserialize(StrDeserializer::new(name))?;
                Ok(LoadBalancing(Settings { policy, ..Settings::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Settings::deserialize(MapAccessDeserializer::new(map)).map(LoadBalancing)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for LoadBalancing {
    fn schema_name() -> Cow<'static, str> {
        "LoadBalancing".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (policy, settings) = (generator.subschema_for::<BalancingPolicy>(), generator.subschema_for::<Settings>());
        json_schema!({
            "description": "How a target is chosen for a request: the name of the policy, or an object with more.",
            "anyOf": [policy, settings],
        })
    }
}

fn half() -> Percentage {
    Percentage::whole(50)
}

fn is_half(part: &Percentage) -> bool {
    *part == half()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::written;

    fn faults(value: Value) -> Vec<String> {
        let found = written::read::<LoadBalancing>(value).expect_err("faults").into_iter();
        found.map(|fault| format!("{} {} {}", fault.pointer, fault.code, fault.hint.unwrap_or_default())).collect()
    }

    #[test]
    fn a_name_is_enough_and_stays_the_shortest_form() {
        for (written, kept) in [
            (json!("round_robin"), json!("round_robin")),
            (json!({"policy": "maglev"}), json!("maglev")),
            (json!({"slow_start": "30s"}), json!({"slow_start": "30s"})),
            (
                json!({"policy": "maglev", "key": {"header": "X-User"}, "panic_threshold": "50%"}),
                json!({"policy": "maglev", "key": {"header": "x-user"}}),
            ),
            (json!({"policy": "ring_hash", "key": "consumer"}), json!({"policy": "ring_hash", "key": "consumer"})),
            (json!({"sticky_cookie": {"path": "/"}}), json!({"sticky_cookie": {}})),
        ] {
            let read: LoadBalancing = written::read(written.clone()).unwrap_or_else(|_| panic!("{written}"));
            assert_eq!(serde_json::to_value(&read).expect("plain data"), kept);
        }
    }

    #[test]
    fn a_misspelt_word_is_found_in_either_form() {
        assert_eq!(faults(json!("round_robbin")), [" unknown-value did you mean `round_robin`?"]);
        assert_eq!(faults(json!({"policy": "maglef"})), ["/policy unknown-value did you mean `maglev`?"]);
        assert_eq!(faults(json!({"kee": "consumer"})), ["/kee unknown-field did you mean `key`?"]);
        assert_eq!(faults(json!({"key": {"heder": "x"}})), ["/key unknown-value did you mean `header`?"]);
        assert_eq!(faults(json!(7)).len(), 1);
    }
}
