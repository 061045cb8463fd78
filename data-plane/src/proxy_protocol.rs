//! The header of the PROXY protocol, versions 1 and 2: read from proxies in front, written for services. Bytes only;
//! whom to believe is not decided here.
//!
//! What it says of the specification (haproxy.org, `proxy-protocol.txt`) is by its sections: 2.1 is the first version,
//! 2.2 the second.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr;

/// The longest header that is taken. The first version needs 107 bytes, the second up to 232 and what it adds.
pub const MAX_BYTES: usize = 4096;

/// The longest line of the first version, with its end.
const MAX_LINE: usize = 107;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_V2: usize = 16;

/// The type of a value that holds the CRC32c of the header.
const TYPE_CRC32C: u8 = 0x03;

/// From where to where a connection goes that somebody passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A header of this length. Without addresses it speaks of the connection that it came on.
    Header { length: usize, addresses: Option<Addresses> },
    /// It may become one; all of it would belong to it.
    Part,
    /// Something else.
    Other,
}

/// A header that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header of the PROXY protocol is malformed")]
pub struct Malformed;

/// Reads what a connection begins with.
pub fn read(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let begins = |signature: &[u8]| {
        let length = bytes.len().min(signature.len());
        bytes[..length] == signature[..length]
    };
    if begins(SIGNATURE_V1) {
        if bytes.len() < SIGNATURE_V1.len() { Ok(Beginning::Part) } else { read_v1(bytes) }
    } else if begins(SIGNATURE_V2) {
        if bytes.len() < FIXED_V2 { Ok(Beginning::Part) } else { read_v2(bytes) }
    } else {
        Ok(Beginning::Other)
    }
}

fn read_v1(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let Some(end) = memchr(b'\n', &bytes[..bytes.len().min(MAX_LINE)]) else {
        return if bytes.len() < MAX_LINE { Ok(Beginning::Part) } else { Err(Malformed) };
    };
    let line = bytes[SIGNATURE_V1.len()..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ');
    let length = end + 1;
    let is_ipv4 = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => return Ok(Beginning::Header { length, addresses: None }),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(Malformed),
    };
    let mut next = || words.next().ok_or(Malformed);
    let (source, destination) = (address(next()?, is_ipv4)?, address(next()?, is_ipv4)?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(Malformed);
    }
    let addresses = Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    };
    Ok(Beginning::Header { length, addresses: Some(addresses) })
}

fn address(text: &str, is_ipv4: bool) -> Result<IpAddr, Malformed> {
    match is_ipv4 {
        true => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Malformed),
        false => text.parse::<Ipv6Addr>().map(|address| address.to_canonical()).map_err(|_| Malformed),
    }
}

/// Without leading zeros or a sign.
fn port(text: &str) -> Result<u16, Malformed> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(Malformed)
}

fn read_v2(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let (command, family) = (bytes[12], bytes[13]);
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > MAX_BYTES || !matches!(command, 0x20 | 0x21) {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Beginning::Part) };
    let body = &header[FIXED_V2..];
    let (source, destination, rest) = match (command, family) {
        // A check of health by the proxy itself, or something that has no address here: a socket of Unix, or unknown.
        (0x20, _) | (_, 0x00 | 0x31) => return Ok(Beginning::Header { length, addresses: None }),
        (_, 0x11) => {
            let (ends, rest) = body.split_first_chunk::<12>().ok_or(Malformed)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *ends;
            (
                at(Ipv4Addr::new(a, b, c, d), [ports[0], ports[1]]),
                at(Ipv4Addr::new(e, f, g, h), [ports[2], ports[3]]),
                rest,
            )
        }
        (_, 0x21) => {
            let (ends, rest) = body.split_first_chunk::<36>().ok_or(Malformed)?;
            let ip = |from: usize| -> Ipv6Addr {
                let octets: [u8; 16] = ends[from..from + 16].try_into().expect("16 of 36 bytes");
                octets.into()
            };
            (at(ip(0), [ends[32], ends[33]]), at(ip(16), [ends[34], ends[35]]), rest)
        }
        // Datagrams do not come this way.
        _ => return Err(Malformed),
    };
    check_values(header, rest)?;
    Ok(Beginning::Header { length, addresses: Some(Addresses { source, destination }) })
}

fn at(ip: impl Into<IpAddr>, port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(ip.into().to_canonical(), u16::from_be_bytes(port))
}

/// What a header of version 2 adds is passed over, but for its checksum (section 2.2.3).
fn check_values(header: &[u8], mut rest: &[u8]) -> Result<(), Malformed> {
    while let [kind, high, low, values @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = values.split_at_checked(length).ok_or(Malformed)?;
        if *kind == TYPE_CRC32C {
            let told = value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)?;
            let at = header.len() - behind.len() - length;
            let zeroed = header[..at].iter().chain(&[0; 4]).chain(&header[at + 4..]);
            if crc32c(zeroed) != told {
                return Err(Malformed);
            }
        }
        rest = behind;
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed) }
}

/// CRC32c (RFC 9260 appendix A), bit by bit: headers are short, and few have one.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Writes a header of version 1 (section 2.1).
pub fn write_v1(out: &mut Vec<u8>, addresses: Addresses) {
    let (source, destination) = same_family(addresses);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    write!(out, "PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip())
        .expect("a Vec takes all that is written");
}

/// Writes a header of version 2 (section 2.2).
pub fn write_v2(out: &mut Vec<u8>, addresses: Addresses) {
    out.extend_from_slice(SIGNATURE_V2);
    match same_family(addresses) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&to_ipv6(source.ip()).octets());
            out.extend_from_slice(&to_ipv6(destination.ip()).octets());
        }
    }
    out.extend_from_slice(&addresses.source.port().to_be_bytes());
    out.extend_from_slice(&addresses.destination.port().to_be_bytes());
}

/// A header is of one family: where they differ, IPv4 is written as IPv6 (RFC 4291 section 2.5.5.2).
fn same_family(addresses: Addresses) -> (SocketAddr, SocketAddr) {
    let Addresses { source, destination } = addresses;
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let ipv6 = |address: SocketAddr| SocketAddr::new(to_ipv6(address.ip()).into(), address.port());
    (ipv6(source), ipv6(destination))
}

fn to_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses { source: source.parse().expect(source), destination: destination.parse().expect(destination) }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("a short body").to_be_bytes();
        [SIGNATURE_V2.as_slice(), &[command, family], &length, body].concat()
    }

    const ENDS: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb];

    #[test]
    fn the_first_version_is_read_as_it_is_written_in_its_specification() {
        let header = |line: &str| read(line.as_bytes());
        let told = Some(addresses("192.0.2.1:12345", "198.51.100.2:443"));
        let line = "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n";
        assert_eq!(header(line), Ok(Beginning::Header { length: line.len(), addresses: told }));
        assert_eq!(
            header("PROXY TCP6 2001:db8::1 ::1 1 2\r\nGET"),
            Ok(Beginning::Header { length: 32, addresses: Some(addresses("[2001:db8::1]:1", "[::1]:2")) })
        );
        assert_eq!(header("PROXY UNKNOWN\r\n"), Ok(Beginning::Header { length: 15, addresses: None }));
        assert_eq!(header("PROXY UNKNOWN what ever\r\n"), Ok(Beginning::Header { length: 25, addresses: None }));
        for malformed in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 012345 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 443 \r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.2 1 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY \r\n",
            &format!("PROXY UNKNOWN {}", "x".repeat(100)),
        ] {
            assert_eq!(header(malformed), Err(Malformed), "{malformed}");
        }
        for other in ["GET / HTTP/1.1\r\n", "PROXYING", "PRI * HTTP/2.0\r\n\r\n", "\x16\x03\x01", "\r\nGET"] {
            assert_eq!(header(other), Ok(Beginning::Other), "{other}");
        }
    }

    #[test]
    fn the_second_version_is_read_with_all_that_it_may_add() {
        let told = Some(addresses("192.0.2.1:12345", "198.51.100.2:443"));
        let header = |addresses, length| Ok(Beginning::Header { length, addresses });
        assert_eq!(read(&v2(0x21, 0x11, &ENDS)), header(told, 28));
        assert_eq!(read(&[v2(0x21, 0x11, &ENDS), b"GET".to_vec()].concat()), header(told, 28));
        let added = [&ENDS[..], &[0x02, 0, 3, b'a', b'b', b'c'], &[0x04, 0, 0]].concat();
        assert_eq!(read(&v2(0x21, 0x11, &added)), header(told, 37));
        assert_eq!(read(&v2(0x20, 0x11, &[])), header(None, 16), "a check of health");
        assert_eq!(read(&v2(0x21, 0x00, &[1, 2, 3])), header(None, 19));
        for malformed in [
            v2(0x11, 0x11, &ENDS),
            v2(0x22, 0x11, &ENDS),
            v2(0x21, 0x12, &ENDS),
            v2(0x21, 0x41, &ENDS),
            v2(0x21, 0x11, &ENDS[..11]),
            v2(0x21, 0x21, &ENDS),
            v2(0x21, 0x11, &[&ENDS[..], &[2, 0]].concat()),
            v2(0x21, 0x11, &[&ENDS[..], &[2, 0, 9, 1]].concat()),
            v2(0x21, 0x11, &[&ENDS[..], &[0; 5000]].concat()),
        ] {
            assert_eq!(read(&malformed), Err(Malformed), "{malformed:02x?}");
        }
    }

    #[test]
    fn a_checksum_has_to_be_right() {
        let mut header = v2(0x21, 0x11, &[&ENDS[..], &[TYPE_CRC32C, 0, 4, 0, 0, 0, 0]].concat());
        let sum = crc32c(header.iter());
        header[31..].copy_from_slice(&sum.to_be_bytes());
        assert!(matches!(read(&header), Ok(Beginning::Header { length: 35, .. })));
        header[16] ^= 1;
        assert_eq!(read(&header), Err(Malformed));
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283, "the check value of CRC32c");
    }

    fn any_addresses() -> impl Strategy<Value = Addresses> {
        any::<((IpAddr, u16), (IpAddr, u16))>()
            .prop_map(|(source, destination)| Addresses { source: source.into(), destination: destination.into() })
    }

    proptest! {
        /// What is written is read, whole only when it is, and whatever comes behind it.
        #[test]
        fn what_is_written_is_read(addresses in any_addresses(), is_v2: bool, behind in any::<Vec<u8>>()) {
            let mut bytes = Vec::new();
            if is_v2 { write_v2(&mut bytes, addresses); } else { write_v1(&mut bytes, addresses); }
            let length = bytes.len();
            for part in 0..length {
                prop_assert_eq!(read(&bytes[..part]), Ok(Beginning::Part));
            }
            bytes.extend_from_slice(&behind);
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            let told = Addresses {
                source: canonical(addresses.source),
                destination: canonical(addresses.destination),
            };
            prop_assert_eq!(read(&bytes), Ok(Beginning::Header { length, addresses: Some(told) }));
        }

        /// Nothing that comes is a reason to stop working, and more bytes never change what was decided.
        #[test]
        fn whatever_comes_is_decided_once(is_v2: bool, rest in any::<Vec<u8>>()) {
            let signature: &[u8] = if is_v2 { SIGNATURE_V2 } else { SIGNATURE_V1 };
            let bytes = [signature, &rest].concat();
            let whole = read(&bytes);
            for part in 0..bytes.len() {
                match read(&bytes[..part]) {
                    Ok(Beginning::Part) => {}
                    decided => prop_assert_eq!(decided, whole),
                }
            }
        }
    }
}
