//! Who listens on a port that we wanted: `/proc` tells it on Linux, for processes that we may look at.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHolder {
    pub pid: u32,
    /// As the process calls itself, at most 15 characters of it.
    pub program: String,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.program, self.pid)
    }
}

/// Finds the process whose listening socket keeps `wanted` from being bound.
#[must_use]
pub fn port_holder(wanted: SocketAddr) -> Option<PortHolder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            let found: Vec<_> = table.lines().skip(1).filter_map(|line| listening(line, wanted)).collect();
            found
        })
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd")).ok()?.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|link| inodes.iter().any(|inode| Path::new(inode) == link))
        });
        let program = || fs::read_to_string(process.path().join("comm")).ok();
        holds.then(program)?.map(|program| PortHolder { pid, program: program.trim_end().to_owned() })
    })
}

/// The inode of the socket in this line of `/proc/net/tcp`, if it listens where `wanted` would.
fn listening(line: &str, wanted: SocketAddr) -> Option<String> {
    const LISTEN: &str = "0A";
    let mut columns = line.split_whitespace().skip(1);
    let local = columns.next()?;
    let state = columns.nth(1)?;
    let inode = columns.nth(5)?;
    let (address, port) = local.split_once(':')?;
    let address = parse_address(address)?;
    let is_in_the_way = address == wanted.ip() || address.is_unspecified() || wanted.ip().is_unspecified();
    let is_port = u16::from_str_radix(port, 16).ok()? == wanted.port();
    (state == LISTEN && is_port && is_in_the_way).then(|| inode.to_owned())
}

/// Addresses stand there as 32-bit words in the byte order of the machine, in hexadecimal.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn finds_this_process_behind_its_own_ports() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let taken = listener.local_addr().unwrap();
            let holder = port_holder(taken).expect("our own socket can be told");
            assert_eq!(holder.pid, std::process::id(), "{taken}");
            assert!(!holder.program.is_empty());
        }
    }

    #[test]
    fn a_wildcard_is_in_the_way_of_every_address() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(port_holder(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_some());
    }

    #[test]
    fn nobody_listens_on_a_port_that_is_only_reserved() {
        let reserved = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        reserved.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(port_holder(address), None);
    }
}
