//! Addresses of names, remembered for a moment.
//!
//! A lookup runs on the threads of the resolver of the operating system, not on the core. When it fails, the
//! addresses that were good before are tried again: a name server that is down takes no service with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use crate::clock::Clock;

/// How long an answer is good. Records have times of their own, but the operating system does not tell them.
const GOOD_FOR_NS: u64 = 5_000_000_000;

/// Names that are remembered; more are looked up each time a connection is made.
const MAX_NAMES: usize = 1024;

/// Addresses of names, as one core knows them.
pub(super) struct Resolver {
    clock: Clock,
    known: RefCell<HashMap<String, Known>>,
}

struct Known {
    addresses: Rc<[IpAddr]>,
    until_ns: u64,
}

impl Resolver {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), known: RefCell::default() }
    }

    /// The addresses of a host: at least one.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Rc<[IpAddr]>> {
        if let Ok(address) = host.parse() {
            return Ok(Rc::new([address]));
        }
        let now_ns = self.clock.now().monotonic_ns;
        let before = self.known.borrow().get(host).map(|known| (Rc::clone(&known.addresses), known.until_ns));
        if let Some((addresses, _)) = before.as_ref().filter(|(_, until_ns)| now_ns < *until_ns) {
            return Ok(Rc::clone(addresses));
        }
        match look_up(host).await {
            Ok(addresses) => {
                self.remember(host, &addresses, now_ns + GOOD_FOR_NS);
                Ok(addresses)
            }
            Err(error) => before.map(|(addresses, _)| addresses).ok_or(error),
        }
    }

    fn remember(&self, host: &str, addresses: &Rc<[IpAddr]>, until_ns: u64) {
        let mut known = self.known.borrow_mut();
        if known.len() < MAX_NAMES || known.contains_key(host) {
            known.insert(host.to_owned(), Known { addresses: Rc::clone(addresses), until_ns });
        }
    }

    /// Forgets names that nobody has asked for in a long time.
    pub(super) fn sweep(&self, now_ns: u64) {
        self.known.borrow_mut().retain(|_, known| now_ns < known.until_ns + 60 * GOOD_FOR_NS);
    }
}

async fn look_up(host: &str) -> io::Result<Rc<[IpAddr]>> {
    // The port is of no interest here, but the function wants one.
    let mut addresses: Vec<IpAddr> = tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses.into())
}
