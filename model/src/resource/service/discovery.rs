//! Where a service finds targets by itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::is_default;
use crate::value::{Span, written_as_string};

/// Where a service finds targets by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Discovery {
    Dns(DnsDiscovery),
}

/// Targets from the records of a name in DNS (RFC 1035), asked for again when their time to live is over and up to a tenth
/// of it later, so that nodes do not ask together. Each node asks for itself.
///
/// An answer counts until there is another one: while name servers do not answer, or only with errors, the targets stay
/// what they were (RFC 8767), and the node asks again after 1 second, then after twice as long, up to 30 seconds. That a
/// name does not exist, or has no such records, is believed when three answers in a row say so, about a second apart: then
/// its targets are gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsDiscovery {
    /// The name, such as `orders.internal`, or `_http._tcp.orders.internal` for SRV records. The search domains of the
    /// system are tried only for a name with fewer dots than the `ndots` of its `resolv.conf` (as it is by default: without
    /// any), and after the name itself if it has a dot. A dot at its end keeps them out.
    pub name: DnsName,
    /// Which records say what the targets are. Default: addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub records: DnsRecords,
    /// How targets are spoken to. With `https` the certificates of addresses are to be for `name`, unless `tls.server_name`
    /// says otherwise. Default: http.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scheme: Scheme,
    /// The port of the targets; SRV records have their own. Default: 80, and 443 for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A time to live that is shorter counts as this long. One that is longer than an hour counts as an hour. Default: 5s.
    /// 1s to 1h.
    #[serde(default = "default_min_ttl", skip_serializing_if = "is_default_min_ttl")]
    pub min_ttl: Span,
    /// The name servers to ask, in this order: `10.0.0.2`, or `10.0.0.2:5353` with a port other than 53. Neither `/etc/hosts`
    /// nor search domains count then. Hosts that SRV records name are looked up there too, and as other hosts are if these
    /// servers know none of the kind. Default: those of the system, from `/etc/resolv.conf`. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<NameServer>,
}

/// Which records of a name say what the targets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsRecords {
    /// A and AAAA: each address is a target.
    #[default]
    Addresses,
    /// A alone: each IPv4 address is a target.
    A,
    /// AAAA alone: each IPv6 address is a target.
    Aaaa,
    /// SRV (RFC 2782): each record is a target with a port and a weight. Its host is looked up when a connection is made.
    /// Weights over 1000 are scaled down together, and 0 counts as the smallest share. The lowest priority is that of
    /// targets with `priority: 0`, the next one that of those with 1, and so on up to 15.
    Srv,
}

/// The scheme of targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

/// A name in DNS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

/// The address of a name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameServer(pub SocketAddr);

const DEFAULT_MIN_TTL: Span = Span::from_secs(5);
const LEAST_MIN_TTL: Span = Span::from_secs(1);
const MOST_MIN_TTL: Span = Span::from_secs(3600);
const MOST_SERVERS: usize = 8;
const DNS_PORT: u16 = 53;

impl Discovery {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let Self::Dns(dns) = self;
        dns.check(faults);
    }
}

impl DnsDiscovery {
    fn check(&self, faults: &mut Vec<Fault>) {
        let mut fault = |field: &str, code: &'static str, message: String, hint: String| {
            faults.push(Fault::new(format!("/discovery/dns{field}"), code, message).hint(hint));
        };
        if self.records == DnsRecords::Srv && self.port.is_some() {
            let message = "SRV records say the port of each target".to_owned();
            fault("/port", "conflicting-fields", message, "leave `port` away".to_owned());
        }
        if self.port == Some(0) {
            fault("/port", "invalid-value", "0 is no port".to_owned(), "write 1 to 65535".to_owned());
        }
        if self.records != DnsRecords::Srv && self.name.as_str().starts_with('_') {
            let message = format!("`{}` is the name of SRV records, and no host has it", self.name);
            fault("/records", "invalid-value", message, "write `records: srv`".to_owned());
        }
        if self.min_ttl < LEAST_MIN_TTL || self.min_ttl > MOST_MIN_TTL {
            let message = format!("{} is out of range", self.min_ttl);
            fault("/min_ttl", "invalid-value", message, format!("write {LEAST_MIN_TTL} to {MOST_MIN_TTL}"));
        }
        if self.servers.len() > MOST_SERVERS {
            let message = format!("{} name servers are too many", self.servers.len());
            fault("/servers", "invalid-value", message, format!("write at most {MOST_SERVERS}"));
        }
    }

    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// The port of targets whose records say none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_https() { 443 } else { 80 })
    }
}

impl DnsName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| Err(format!("`{text}` is no name in DNS: {why}, such as `orders.internal`"));
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 253 {
            return wrong("it has 1 to 253 characters");
        }
        if name.parse::<IpAddr>().is_ok() {
            return Err(format!("`{text}` is an address, which needs no discovery: write it as a target"));
        }
        let is_label = |label: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(is_letter)
        };
        if !name.split('.').all(is_label) {
            return wrong("write labels of 1 to 63 letters, digits, `-` and `_`, with dots between");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NameServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = match text.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, DNS_PORT),
            Err(_) => text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0).ok_or_else(|| {
                format!("`{text}` is no address of a name server: write an IP address, such as `10.0.0.2` or `10.0.0.2:5353`")
            })?,
        };
        Ok(Self(address))
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == DNS_PORT { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

written_as_string!(DnsName, "DnsName", r"^[A-Za-z0-9_.-]+$", "A name in DNS: `orders.internal`.");
written_as_string!(
    NameServer,
    "NameServer",
    r"^[0-9A-Fa-f.:\[\]]+$",
    "The address of a name server: `10.0.0.2` or `10.0.0.2:5353`."
);

fn default_min_ttl() -> Span {
    DEFAULT_MIN_TTL
}

fn is_default_min_ttl(span: &Span) -> bool {
    *span == DEFAULT_MIN_TTL
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(written: Value) -> Result<Vec<String>, String> {
        let discovery: Discovery = serde_json::from_value(written).map_err(|error| error.to_string())?;
        let mut faults = Vec::new();
        discovery.check(&mut faults);
        Ok(faults.into_iter().map(|fault| fault.pointer).collect())
    }

    #[test]
    fn what_is_written_comes_back() {
        for written in [
            json!({"dns": {"name": "orders.internal"}}),
            json!({"dns": {"name": "orders.internal.", "scheme": "https", "port": 8443, "min_ttl": "30s"}}),
            json!({"dns": {"name": "_http._tcp.orders.internal", "records": "srv", "servers": ["10.0.0.2", "[::1]:5353"]}}),
        ] {
            let discovery: Discovery = serde_json::from_value(written.clone()).expect("it can be read");
            assert_eq!(serde_json::to_value(&discovery).expect("it can be written"), written);
            assert_eq!(read(written), Ok(vec![]));
        }
        let lower: DnsName = "Orders.Internal".parse().expect("a name");
        assert_eq!(lower.as_str(), "orders.internal");
    }

    #[test]
    fn faults_name_their_field() {
        let dns = |more: Value| {
            let mut dns = json!({"name": "orders.internal"});
            dns.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            read(json!({"dns": dns}))
        };
        let at = |field: &str| Ok(vec![format!("/discovery/dns{field}")]);
        assert_eq!(dns(json!({"records": "srv", "port": 80})), at("/port"));
        assert_eq!(dns(json!({"port": 0})), at("/port"));
        assert_eq!(dns(json!({"name": "_http._tcp.orders.internal"})), at("/records"));
        assert_eq!(dns(json!({"min_ttl": "0s"})), at("/min_ttl"));
        assert_eq!(dns(json!({"min_ttl": "2h"})), at("/min_ttl"));
        assert_eq!(dns(json!({"servers": vec!["10.0.0.2"; 9]})), at("/servers"));
    }

    #[test]
    fn names_and_servers_are_what_they_say() {
        for bad in [
            "",
            ".",
            "a..b",
            "10.0.0.1",
            "::1",
            "http://orders",
            "orders:80",
            "a b",
            &"a".repeat(64),
            &"a.".repeat(130),
        ] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad}");
        }
        for bad in ["dns.internal", "10.0.0.2:0", "10.0.0.2:", "", "10.0.0"] {
            assert!(bad.parse::<NameServer>().is_err(), "{bad}");
        }
        assert_eq!("10.0.0.2:53".parse::<NameServer>().expect("an address").to_string(), "10.0.0.2");
    }
}
