//! Addresses for what a test starts, and may stop and start again.
//!
//! Tests of other crates include this file by its path.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// An address on loopback that nobody listens on, and that stays the caller's while nobody does. The port lies below those
/// that the kernel hands out, to whoever asks for any port on all addresses.
///
/// # Panics
/// Panics when there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    // Each process begins elsewhere, for tests that listen on all addresses: they need a port that nobody has on any.
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 1_000) as u16 * 20;
    loop {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        match TcpListener::bind((own_ip(), port)) {
            Ok(listener) => return listener.local_addr().expect("a bound socket has an address"),
            // Something of the machine's own listens there on all addresses.
            Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse, "{}:{port}: {error}", own_ip()),
        }
    }
}

/// Each process has one of its own, by its number: no other test takes a port there, and no connection does, which
/// comes from 127.0.0.1.
fn own_ip() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 128, middle, low)
}
