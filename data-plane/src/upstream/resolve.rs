//! Addresses of hosts, as one core knows them: the answers of the process ([`Names`]) while they are good.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use model::resource::service::NameServer;

use crate::clock::Clock;
use crate::dns::{Addresses, Names};

/// Hosts whose addresses are remembered; for more, the process is asked each time a connection is made.
const MAX_HOSTS: usize = 1024;

/// Addresses of hosts, as one core knows them.
pub(super) struct Resolver {
    clock: Clock,
    names: Names,
    known: RefCell<HashMap<Host, Known>>,
    under_way: RefCell<HashMap<Host, WeakShared<Lookup>>>,
}

/// A host, and who is asked for it first.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Host {
    name: String,
    name_servers: Option<Arc<[NameServer]>>,
}

type Lookup = LocalBoxFuture<'static, Result<Addresses, String>>;

struct Known {
    addresses: Arc<[IpAddr]>,
    until_ns: u64,
}

impl Resolver {
    pub(super) fn new(clock: &Clock, names: Names) -> Self {
        Self { clock: clock.clone(), names, known: RefCell::default(), under_way: RefCell::default() }
    }

    /// The addresses of a host: at least one.
    pub(super) async fn addresses(
        &self,
        host: &str,
        name_servers: Option<&Arc<[NameServer]>>,
    ) -> Result<Arc<[IpAddr]>, String> {
        if let Ok(address) = host.parse() {
            return Ok(Arc::new([address]));
        }
        let host = Host { name: host.to_owned(), name_servers: name_servers.cloned() };
        let now_ns = self.clock.now().monotonic_ns;
        if let Some(known) = self.known.borrow().get(&host).filter(|known| now_ns < known.until_ns) {
            return Ok(Arc::clone(&known.addresses));
        }
        let Addresses { addresses, ttl } = self.look_up(&host).await?;
        let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = self.clock.now().monotonic_ns.saturating_add(ttl_ns);
        let mut known = self.known.borrow_mut();
        if known.len() < MAX_HOSTS || known.contains_key(&host) {
            known.insert(host, Known { addresses: Arc::clone(&addresses), until_ns });
        }
        Ok(addresses)
    }

    fn look_up(&self, host: &Host) -> Shared<Lookup> {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(lookup) = under_way.get(host).and_then(WeakShared::upgrade) {
            return lookup;
        }
        under_way.retain(|_, lookup| lookup.upgrade().is_some());
        let (names, wanted) = (self.names.clone(), host.clone());
        let lookup: Shared<Lookup> =
            async move { names.addresses(&wanted.name, wanted.name_servers.as_ref()).await }.boxed_local().shared();
        under_way.extend(lookup.downgrade().map(|lookup_under_way| (host.clone(), lookup_under_way)));
        lookup
    }

    /// Forgets what is not good any more.
    pub(super) fn sweep(&self, now_ns: u64) {
        self.known.borrow_mut().retain(|_, known| now_ns < known.until_ns);
    }
}
