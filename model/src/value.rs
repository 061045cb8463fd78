//! Values that parse themselves: durations, host patterns. A written form made of these cannot hold
//! most mistakes, and each says in its error what it would have accepted.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserializer;
use serde::de::{self, Visitor};

/// Serde and schema for a type that is written as a string and knows `FromStr` and `Display`.
macro_rules! written_as_string {
    ($type:ty, $name:literal, $pattern:literal, $description:literal) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::value::deserialize(deserializer, $description)
            }
        }

        impl ::schemars::JsonSchema for $type {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                ::schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}
pub(crate) use written_as_string;

/// Reads what parses itself from a string; anything but a string is an error that says what `description` says.
pub(crate) fn deserialize<'de, D, T>(deserializer: D, description: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let description = self.0.trim_end_matches('.');
            match description.strip_prefix("A ") {
                Some(rest) => write!(f, "a {rest}"),
                None => f.write_str(description),
            }
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(description, PhantomData))
}

/// A length of time, written `250ms`, `5s`, `2m`, `1h`, or several of these (`1m 30s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("`{text}` is no duration: write a number and a unit, such as `250ms`, `5s`, `2m` or `1h`");
        let duration = humantime::parse_duration(text).map_err(|_| wrong())?;
        if duration.subsec_nanos() % 1_000_000 != 0 || duration > Duration::from_secs(366 * 86_400) {
            return Err(format!("`{text}` is out of range: a duration has whole milliseconds and is at most a year"));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

written_as_string!(
    Span,
    "Duration",
    r"^([0-9]+ ?(ms|s|m|h|d) ?)+$",
    "A length of time: a number and a unit (ms, s, m, h, d), such as `250ms`, `5s` or `1m 30s`."
);

/// A part of a whole: `10%`, `0.5%`. Kept in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentage(u32);

impl Percentage {
    pub const ALL: Self = Self(1_000_000);

    /// # Panics
    /// If it is more than 100.
    #[must_use]
    pub const fn whole(percent: u32) -> Self {
        assert!(percent <= 100, "a part is not more than the whole");
        Self(percent * 10_000)
    }

    /// The part of a number, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / u128::from(Self::ALL.0);
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Whether the part holds the case of a number that was drawn from all of 32 bits.
    #[must_use]
    pub fn holds(self, drawn: u32) -> bool {
        u64::from(drawn) * u64::from(Self::ALL.0) < u64::from(self.0) << u32::BITS
    }
}

impl FromStr for Percentage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no percentage: write `0%` to `100%`, with four decimals at most");
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || whole.len() > 3 || decimals.len() > 4 {
            return Err(wrong());
        }
        let millionths: u32 = format!("{whole}{decimals:0<4}").parse().map_err(|_| wrong())?;
        if millionths > Self::ALL.0 { Err(wrong()) } else { Ok(Self(millionths)) }
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 10_000, format!("{:04}", self.0 % 10_000));
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            decimals => write!(f, "{whole}.{decimals}%"),
        }
    }
}

written_as_string!(
    Percentage,
    "Percentage",
    r"^[0-9]{1,3}(\.[0-9]{1,4})?%$",
    "A percentage from `0%` to `100%`, such as `10%` or `0.5%`."
);

/// Which hosts a route or a certificate is for: a name (`api.example.com`) or a wildcard for one or
/// more labels in front of one (`*.example.com`). Kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(String);

impl HostPattern {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `example.com` of `*.example.com`; nothing for an exact name.
    #[must_use]
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        if lower.contains(':') {
            // The shortest spelling, as in the canonical host of a request.
            return lower.parse::<std::net::Ipv6Addr>().map(|address| Self(address.to_string())).map_err(|_| {
                format!("`{text}` is no host name: leave the scheme and the port away, such as `api.example.com`")
            });
        }
        if name.contains('*') {
            return Err(format!(
                "`{text}` is no host name: `*` may stand only for the whole first part, such as `*.example.com`"
            ));
        }
        let label_is_wrong = |label: &str| {
            label.is_empty()
                || label.len() > 63
                || label.starts_with('-')
                || label.ends_with('-')
                || !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || name.split('.').any(label_is_wrong) {
            return Err(format!(
                "`{text}` is no host name: letters, digits and hyphens between dots, such as `api.example.com`"
            ));
        }
        Ok(Self(lower))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

written_as_string!(
    HostPattern,
    "HostPattern",
    r"^(\*\.)?[A-Za-z0-9_:]([A-Za-z0-9_.:-]*[A-Za-z0-9_:])?$",
    "A host name, or a wildcard in front of one: `api.example.com`, `*.example.com`."
);

/// A network of addresses, `10.0.0.0/8` for example, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let single = |address: IpAddr| IpNet::from(address);
        let network = text.parse::<IpNet>().or_else(|_| text.parse().map(single)).map_err(|_| {
            format!("`{text}` is no network: write an address and the length of its prefix, such as `10.0.0.0/8`")
        })?;
        if network.addr() != network.network() {
            return Err(format!("`{text}` has bits behind its prefix: write `{}`", network.trunc()));
        }
        if let IpAddr::V6(address) = network.addr()
            && address.to_ipv4_mapped().is_some()
        {
            return Err(format!("`{text}` is an IPv4 network in IPv6 clothes: write it as IPv4"));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

written_as_string!(
    Network,
    "Network",
    r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$",
    "A network of IPv4 or IPv6 addresses, or one address: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_hold_their_part() {
        for (text, shown) in
            [("10%", "10%"), ("0.50%", "0.5%"), ("100%", "100%"), ("00.0001%", "0.0001%"), ("0%", "0%")]
        {
            assert_eq!(text.parse::<Percentage>().expect(text).to_string(), shown);
        }
        for text in ["", "%", "10", "100.0001%", "-1%", "1.%", ".5%", "1.23456%", "1e1%", "1 %"] {
            assert!(text.parse::<Percentage>().is_err(), "{text}");
        }
        let percentage = |text: &str| text.parse::<Percentage>().expect("a percentage");
        assert!(percentage("100%").holds(u32::MAX) && !percentage("0%").holds(0));
        let quarter = percentage("25%");
        assert!(quarter.holds((1 << 30) - 1) && !quarter.holds(1 << 30));
    }

    #[test]
    fn networks_have_one_spelling() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), shown);
        }
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0/8", "::ffff:10.0.0.0/104", "localhost"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_what_they_write() {
        for text in ["250ms", "5s", "2m", "1h", "1m 30s"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
        for text in ["", "5", "5 parsecs", "-1s", "1us", "9999999999h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_lower_case_names() {
        assert_eq!("API.Example.com".parse::<HostPattern>().expect("a host").as_str(), "api.example.com");
        assert_eq!("2001:DB8:0:0::1".parse::<HostPattern>().expect("a host").as_str(), "2001:db8::1");
        assert_eq!("*.b.example".parse::<HostPattern>().expect("a host").wildcard_suffix(), Some("b.example"));
        for text in ["", "a..b", "a.*.b", "*", "a:80", "*.::1", "http://a", "-a", "a/b", "a b"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
