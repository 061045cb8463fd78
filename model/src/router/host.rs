//! The one canonical host of a request: what its `Host` field or authority names, without port (RFC 9110
//! section 7.2, RFC 3986 section 3.2.2).

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// Longest name in the DNS (RFC 1035 section 2.3.4), written out. It also bounds the work of matching wildcards.
const MAX_HOST_BYTES: usize = 253;

/// Why a host is refused. Each is a 400 for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostFault {
    /// `user@host`: nobody sends it but to make one server see another host than the next.
    UserInfo,
    /// Something behind the colon that is no port, or behind a bracket.
    InvalidPort,
    /// Brackets around something that is no IPv6 address.
    InvalidAddress,
    /// A character that no host name has, or an empty label.
    InvalidName,
    TooLong,
}

impl HostFault {
    /// Stable, for programs, logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UserInfo => "host-user-info",
            Self::InvalidPort => "host-invalid-port",
            Self::InvalidAddress => "host-invalid-address",
            Self::InvalidName => "host-invalid-name",
            Self::TooLong => "host-too-long",
        }
    }

    /// One sentence for the person behind the client.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::UserInfo => "The host holds user information.",
            Self::InvalidPort => "The host ends in something that is no port.",
            Self::InvalidAddress => "The host holds brackets around something that is no IPv6 address.",
            Self::InvalidName => "The host is no host name.",
            Self::TooLong => "The host is longer than any host name.",
        }
    }
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for HostFault {}

/// The canonical form of a `Host` field or an authority: in lower case, without port and without a dot at the
/// end. An IPv6 address loses its brackets and is written the shortest way. Nothing stays nothing: a
/// client may name no host (RFC 9112 section 3.2).
pub fn canonical(authority: &str) -> Result<Cow<'_, str>, HostFault> {
    match usual(authority) {
        Some(name) => Ok(Cow::Borrowed(name)),
        None => by_rules(authority),
    }
}

/// The name, if it is written as nearly every client does: in lower case, with a port or without. One walk tells.
fn usual(authority: &str) -> Option<&str> {
    let mut before = b'.';
    let mut length = 0;
    for byte in authority.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            _ => break,
        }
        before = byte;
        length += 1;
    }
    let (name, port) = authority.split_at(length);
    let is_usual = before != b'.' && length <= MAX_HOST_BYTES && (port.is_empty() || check_port(port).is_ok());
    is_usual.then_some(name)
}

fn by_rules(authority: &str) -> Result<Cow<'_, str>, HostFault> {
    if authority.contains('@') {
        return Err(HostFault::UserInfo);
    }
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']').ok_or(HostFault::InvalidAddress)?;
        check_port(port)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostFault::InvalidAddress)?;
        return Ok(Cow::Owned(address.to_string()));
    }
    let name = match authority.find(':') {
        Some(colon) => {
            check_port(&authority[colon..])?;
            &authority[..colon]
        }
        None => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_HOST_BYTES {
        return Err(HostFault::TooLong);
    }
    if name.is_empty() {
        return if authority.is_empty() { Ok(Cow::Borrowed("")) } else { Err(HostFault::InvalidName) };
    }
    let mut has_upper = false;
    let mut before = b'.';
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => has_upper = true,
            b'.' if before != b'.' => {}
            _ => return Err(HostFault::InvalidName),
        }
        before = byte;
    }
    if before == b'.' {
        return Err(HostFault::InvalidName);
    }
    Ok(if has_upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// A colon and a number, a colon alone (RFC 3986 section 3.2.3), or nothing.
fn check_port(text: &str) -> Result<(), HostFault> {
    if text.is_empty() {
        return Ok(());
    }
    let digits = text.strip_prefix(':').ok_or(HostFault::InvalidPort)?;
    let is_port = digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() < 5 || digits.parse::<u16>().is_ok());
    if is_port { Ok(()) } else { Err(HostFault::InvalidPort) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_host_become_one() {
        for (written, expected) in [
            ("", ""),
            ("api.example.com", "api.example.com"),
            ("API.Example.com:8080", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("a_b:", "a_b"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "::1"),
            ("[2001:DB8:0:0::1]:443", "2001:db8::1"),
        ] {
            assert_eq!(canonical(written).as_deref(), Ok(expected), "{written}");
        }
        assert!(matches!(canonical("api.example.com:80"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for (written, fault) in [
            ("user@api", HostFault::UserInfo),
            ("[::1", HostFault::InvalidAddress),
            ("[api]", HostFault::InvalidAddress),
            ("[::1%25eth0]", HostFault::InvalidAddress),
            ("[::1]x", HostFault::InvalidPort),
            ("::1", HostFault::InvalidPort),
            ("a:80:80", HostFault::InvalidPort),
            ("a:http", HostFault::InvalidPort),
            ("a:65536", HostFault::InvalidPort),
            ("a:+80", HostFault::InvalidPort),
            (".", HostFault::InvalidName),
            (":80", HostFault::InvalidName),
            ("a..b", HostFault::InvalidName),
            (".a", HostFault::InvalidName),
            ("a/b", HostFault::InvalidName),
            ("a b", HostFault::InvalidName),
            ("a,b", HostFault::InvalidName),
            ("a%2e", HostFault::InvalidName),
            ("b\u{fc}cher.example", HostFault::InvalidName),
            (&"a".repeat(254), HostFault::TooLong),
        ] {
            assert_eq!(canonical(written), Err(fault), "{written}");
        }
    }

    proptest! {
        #[test]
        fn what_is_usual_is_what_the_rules_say(text in "[a-c.]{0,6}[A.:@0-9-]{0,7}|[a-z]{250,256}(:[0-9]{0,6})?") {
            if let Some(name) = usual(&text) {
                prop_assert_eq!(by_rules(&text), Ok(Cow::Borrowed(name)));
            }
        }

        #[test]
        fn a_canonical_name_is_its_own(text in "[A-Za.:@\\[\\]0-9%-]{0,16}") {
            if let Ok(once) = canonical(&text)
                && !once.contains(':')
            {
                prop_assert_eq!(canonical(&once), Ok(Cow::Borrowed(&*once)));
            }
        }
    }
}
