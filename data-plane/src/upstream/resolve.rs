//! Addresses of names, remembered for a moment.
//!
//! A lookup runs on another thread, in the resolver of the operating system; all who want the same name meanwhile
//! wait for the same lookup. When it fails, the addresses that were good before are tried again: a name server
//! that is down takes no service with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};

use crate::clock::Clock;

/// How long an answer is good. Records have times of their own, but the operating system does not tell them.
const GOOD_FOR_NS: u64 = 5_000_000_000;

/// Names that are remembered; more are looked up each time a connection is made.
const MAX_NAMES: usize = 1024;

/// Addresses of names, as one core knows them.
pub(super) struct Resolver {
    clock: Clock,
    known: RefCell<HashMap<String, Known>>,
    under_way: RefCell<HashMap<String, WeakShared<Lookup>>>,
}

type Addresses = Rc<[IpAddr]>;
type Lookup = LocalBoxFuture<'static, Result<Addresses, String>>;

struct Known {
    addresses: Addresses,
    until_ns: u64,
}

impl Resolver {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), known: RefCell::default(), under_way: RefCell::default() }
    }

    /// The addresses of a host: at least one.
    pub(super) async fn addresses(&self, host: &str) -> Result<Addresses, String> {
        if let Ok(address) = host.parse() {
            return Ok(Rc::new([address]));
        }
        let now_ns = self.clock.now().monotonic_ns;
        let before = self.known.borrow().get(host).map(|known| (Rc::clone(&known.addresses), known.until_ns));
        if let Some((addresses, _)) = before.as_ref().filter(|(_, until_ns)| now_ns < *until_ns) {
            return Ok(Rc::clone(addresses));
        }
        match self.look_up(host).await {
            Ok(addresses) => {
                self.remember(host, &addresses, now_ns + GOOD_FOR_NS);
                Ok(addresses)
            }
            Err(error) => before.map(|(addresses, _)| addresses).ok_or(error),
        }
    }

    fn look_up(&self, host: &str) -> Shared<Lookup> {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(lookup) = under_way.get(host).and_then(WeakShared::upgrade) {
            return lookup;
        }
        under_way.retain(|_, lookup| lookup.upgrade().is_some());
        let lookup: Shared<Lookup> = look_up(host.to_owned()).boxed_local().shared();
        under_way.extend(lookup.downgrade().map(|lookup_under_way| (host.to_owned(), lookup_under_way)));
        lookup
    }

    fn remember(&self, host: &str, addresses: &Addresses, until_ns: u64) {
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

async fn look_up(host: String) -> Result<Addresses, String> {
    // The port is of no interest here, but the function wants one.
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(addresses.into())
}
