//! One address of a service: what stands there, and its share.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::{Labels, is_default};
use crate::value::written_as_string;

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `http://10.0.0.11:9000` or `https://orders.internal`: scheme, host and port, no path.
    pub url: TargetUrl,
    /// Share of the requests, relative to the other targets; 0 sends none. Default: 1. At most 1000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// What it is, for routes that send requests only to targets with certain labels. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Targets of priority 0 get all requests as long as enough of them are healthy: what those that are left cannot take,
    /// each up to 1.4 of its share, goes to priority 1, and so on. Default: 0. At most 15.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: u8,
    /// Where it stands. A node that was told its own zone sends requests to targets of the same priority in that zone as
    /// long as enough of them are healthy, as with priorities. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// The last priority of a target.
pub const MAX_PRIORITY: u8 = 15;

impl Target {
    pub(crate) fn check_weight(weight: u32, pointer: &str) -> Option<Fault> {
        let message = || format!("a weight of {weight} is out of range");
        (weight > 1000).then(|| Fault::new(pointer, "invalid-value", message()).hint("weights are 0 to 1000"))
    }

    /// A target that is nothing but an address.
    pub(super) fn of(url: TargetUrl) -> Self {
        Self { url, weight: 1, labels: Labels::new(), priority: 0, zone: None }
    }

    /// The faults of a list of targets.
    pub(super) fn check_all(targets: &[Self], faults: &mut Vec<Fault>) {
        let mut known = HashSet::with_capacity(targets.len());
        for (index, target) in targets.iter().enumerate() {
            faults.extend(Self::check_weight(target.weight, &format!("/targets/{index}/weight")));
            if target.priority > MAX_PRIORITY {
                let message = format!("a priority of {} is out of range", target.priority);
                let fault = Fault::new(format!("/targets/{index}/priority"), "invalid-value", message);
                faults.push(fault.hint("priorities are 0 to 15, and 0 is the first"));
            }
            if !known.insert(&target.url) {
                let message = format!("the target {} is listed twice", target.url);
                let fault = Fault::new(format!("/targets/{index}/url"), "duplicate-value", message);
                faults.push(fault.hint("give it a larger weight instead"));
            }
        }
    }
}

/// Scheme, host and port of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetUrl {
    pub https: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl TargetUrl {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| format!("`{text}` is no target: {why}, such as `http://10.0.0.11:9000`");
        let uri: http::Uri = text.parse().map_err(|_| wrong("write scheme, host and port"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("the scheme must be http or https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("a host is needed"))?;
        if authority.as_str().contains('@') {
            // Without the text, as a password must not come up in a log.
            return Err("a target has no user and no password: write `http://10.0.0.11:9000`".to_owned());
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong("a target has no path"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("a host is needed"));
        }
        // What `Authority::port` cannot read it takes for none.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(if https { 443 } else { 80 }),
            rest => rest.and_then(|rest| rest.strip_prefix(':')?.parse().ok()).filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| wrong("the port must be 1 to 65535"))?;
        Ok(Self { https, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

written_as_string!(
    TargetUrl,
    "TargetUrl",
    r"^https?://[^/@]+/?$",
    "Scheme, host and port of a target: `http://10.0.0.11:9000`."
);

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_port_is_not_taken_for_none() {
        let url = |text: &str| text.parse::<TargetUrl>().map(|url| url.to_string()).ok();
        for (text, canonical) in [
            ("http://A.test", "http://a.test:80"),
            ("https://[::1]/", "https://[::1]:443"),
            ("http://[::1]:81", "http://[::1]:81"),
        ] {
            assert_eq!(url(text).as_deref(), Some(canonical));
        }
        for text in ["http://a:x", "http://a:", "http://a:0", "http://a:65536", "http://[::1]:x", "http://[::1]x"] {
            assert_eq!(url(text), None, "{text}");
        }
    }
}
