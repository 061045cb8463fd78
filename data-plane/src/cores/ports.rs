//! Opening addresses: one socket per core, and a clear word when somebody else has the port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use model::problem::Fault;
use socket2::{Domain, Protocol, Socket, Type};

use crate::port_holder::port_holder;

/// Connections that wait to be accepted; the kernel has a bound of its own below it.
const BACKLOG: i32 = 4096;

/// The address that a listener is opened at: one of all addresses at `only`, if that is given.
pub(super) fn of_node(bind: SocketAddr, only: Option<IpAddr>) -> SocketAddr {
    match only {
        Some(ip) if bind.ip().is_unspecified() => SocketAddr::new(ip, bind.port()),
        _ => bind,
    }
}

/// Opens an address once for each core. `ours` are the addresses that this node has open already.
pub(super) fn open<'a>(
    address: SocketAddr,
    cores: usize,
    ours: impl Iterator<Item = &'a SocketAddr>,
) -> Result<Vec<TcpListener>, Fault> {
    let refused = |error: io::Error| fault(address, &error);
    // Sockets that share a port would also share it with another process of the same user, and each would
    // get a part of the other's connections. A first one that does not share finds that out.
    if !ours.into_iter().any(|open| overlaps(*open, address)) {
        socket(address, false).map_err(refused)?;
    }
    (0..cores).map(|_| socket(address, true)).collect::<io::Result<_>>().map_err(refused)
}

fn socket(address: SocketAddr, shares_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?; // Accepted sockets inherit it.
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether a socket on one address keeps another from being bound.
fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn fault(address: SocketAddr, error: &io::Error) -> Fault {
    let (code, message, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let by = port_holder(address).map_or_else(|| "another process".into(), |holder| holder.to_string());
            ("address-in-use", format!("{address} is taken by {by}"), "stop it, or give the listener another port")
        }
        io::ErrorKind::AddrNotAvailable => (
            "address-not-available",
            format!("this node has no address {}", address.ip()),
            "use an address of the node, or `0.0.0.0` or `[::]` for all of them",
        ),
        io::ErrorKind::PermissionDenied => (
            "address-not-permitted",
            format!("this node may not listen on port {}", address.port()),
            "use a port above 1023, or give the process the capability CAP_NET_BIND_SERVICE",
        ),
        _ => ("address-not-usable", format!("this node cannot listen on {address}: {error}"), "choose another address"),
    };
    Fault::new("/bind", code, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_found_out_and_its_holder_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("an address");
        let fault = open(address, 2, [].iter()).expect_err("the port is taken");
        assert_eq!((fault.code, fault.pointer.as_str()), ("address-in-use", "/bind"));
        assert!(fault.message.contains(&format!("process {}", std::process::id())), "{}", fault.message);
    }

    #[test]
    fn a_listener_of_all_addresses_is_opened_at_the_one_of_the_node() {
        let at = |bind: &str, only: Option<&str>| {
            of_node(bind.parse().expect("an address"), only.map(|only| only.parse().expect("an address"))).to_string()
        };
        assert_eq!(at("0.0.0.0:80", None), "0.0.0.0:80");
        assert_eq!(at("0.0.0.0:80", Some("127.0.0.2")), "127.0.0.2:80");
        assert_eq!(at("[::]:80", Some("127.0.0.2")), "127.0.0.2:80");
        assert_eq!(at("127.0.0.3:80", Some("127.0.0.2")), "127.0.0.3:80", "it says where");
    }

    #[test]
    fn a_port_that_another_process_shares_is_taken_too() {
        let taken = socket("127.0.0.1:0".parse().expect("an address"), true).expect("a free port");
        let address = taken.local_addr().expect("an address");
        assert_eq!(open(address, 1, [].iter()).expect_err("taken").code, "address-in-use");
        assert_eq!(open(address, 2, [address].iter()).expect("ours").len(), 2);
    }
}
