//! The sticky cookie of a service: how it is read, and how it is set.
//!
//! Its value is a number that stands for a target. Which one is for nodes to know, who have the secret for it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use crate::exchange::{Exchange, Scheme};
use crate::hashing;
use crate::resource::Name;
use crate::resource::service::{SameSite, StickyCookie};

/// See the head of this file.
#[derive(Debug, PartialEq, Eq)]
pub struct Sticky {
    name: Box<str>,
    /// All that follows the value, in order.
    attributes: Box<str>,
    is_always_secure: bool,
}

impl Sticky {
    pub(super) fn compile(service: &Name, written: &StickyCookie) -> Self {
        let StickyCookie { name, path, max_age, http_only, same_site } = written;
        let name = match name {
            Some(name) => name.as_str().into(),
            None => format!("sluice-{:08x}", hashing::hash(service.as_bytes()) >> 32).into(),
        };
        let mut attributes = format!("; Path={path}");
        if let Some(age) = max_age {
            attributes.push_str(&format!("; Max-Age={}", age.get().as_secs()));
        }
        if *http_only {
            attributes.push_str("; HttpOnly");
        }
        attributes.push_str(match same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        Self { name, attributes: attributes.into(), is_always_secure: *same_site == SameSite::None }
    }

    /// The number that a client has.
    #[must_use]
    pub fn read(&self, exchange: &Exchange) -> Option<u64> {
        let value = hashing::cookie(exchange, &self.name)?;
        let mut number = [0; 8];
        let length = URL_SAFE_NO_PAD.decode_slice(value, &mut number).ok()?;
        (length == number.len()).then(|| u64::from_be_bytes(number))
    }

    /// The value of `Set-Cookie` for a client that speaks so.
    #[must_use]
    pub fn set(&self, number: u64, scheme: Scheme) -> HeaderValue {
        let is_secure = self.is_always_secure || scheme == Scheme::Https;
        let secure = if is_secure { "; Secure" } else { "" };
        let value = URL_SAFE_NO_PAD.encode(number.to_be_bytes());
        let text = format!("{}={value}{}{secure}", self.name, self.attributes);
        HeaderValue::try_from(text).expect("name and path were checked")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::written;

    fn set(cookie: Value, scheme: Scheme) -> String {
        let written: StickyCookie = written::read(cookie).unwrap_or_else(|_| panic!("a cookie"));
        let sticky = Sticky::compile(&"shop".parse().expect("a name"), &written);
        sticky.set(0x0102_0304_0506_0708, scheme).to_str().expect("text").to_owned()
    }

    #[test]
    fn attributes_are_those_that_are_asked_for() {
        let of_all = json!({"name": "at", "path": "/shop", "max_age": "2h", "http_only": false, "same_site": "none"});
        assert_eq!(set(of_all, Scheme::Http), "at=AQIDBAUGBwg; Path=/shop; Max-Age=7200; SameSite=None; Secure");
        let plain = set(json!({}), Scheme::Http);
        let (name, rest) = plain.split_once('=').expect("a pair");
        assert!(name.starts_with("sluice-") && name.len() == 15 && !name.contains("shop"), "{name}");
        assert_eq!(rest, "AQIDBAUGBwg; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(json!({}), Scheme::Https), plain + "; Secure");
    }
}
