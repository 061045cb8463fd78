//! Names and what DNS says of them, for the process: one answer serves all cores and services until its time is over.
//!
//! It runs on the runtime for everything else, whoever asks. Questions under way are bounded, and shared by all who want
//! the same; so is what is remembered. No name server that is down, slow or mistaken takes away what was known before.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_resolver::proto::rr::{Name, RecordType};
use model::resource::service::NameServer;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::ask::{Record, Servers};
use self::memory::{Known, Memory, Trouble};
use self::system::{Naming, System};

pub mod ask;
pub mod memory;
#[cfg(test)]
#[path = "../tests/support/name_server.rs"]
mod name_server;
mod system;
#[cfg(test)]
mod tests;

/// Questions under way at a time.
const MAX_ASKING: usize = 64;

/// What is remembered, in names times types of records. More are asked for each time.
const MAX_REMEMBERED: usize = 8192;

/// After this long without anybody who asks, a name is forgotten when there are too many.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How long somebody waits for a new answer who can go on with an old one (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// How long names of the machine's own file are good.
const HOSTS_TTL: Duration = Duration::from_secs(5);

/// Addresses of one host that connections are tried with.
const MAX_ADDRESSES: usize = 64;

/// Names and what DNS says of them. Clones are the same.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

struct Inner {
    runtime: Handle,
    system: Mutex<System>,
    /// In place of those of the system.
    naming: Option<Arc<Naming>>,
    remembered: Mutex<HashMap<Question, Entry>>,
    asking: Arc<Semaphore>,
}

/// What is asked of whom.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    name: Name,
    of_type: RecordType,
    /// Those of the system if there are none.
    servers: Option<Arc<[SocketAddr]>>,
}

struct Entry {
    memory: Memory,
    asking: Option<Asking>,
    used_at: Instant,
}

/// Ready when there is a reply.
type Asking = Shared<BoxFuture<'static, ()>>;

/// What is to be known of a name.
#[derive(Clone)]
pub struct Wanted {
    pub name: Name,
    pub types: &'static [RecordType],
    /// Whom to ask in place of those of the system.
    pub servers: Option<Arc<Servers>>,
}

/// Addresses of a host, and for how long they are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub addresses: Arc<[IpAddr]>,
    pub ttl: Duration,
}

const ADDRESSES: &[RecordType] = &[RecordType::A, RecordType::AAAA];

impl Names {
    /// As the machine says. Questions are asked on `runtime`, which has timers.
    #[must_use]
    pub fn of_system(runtime: Handle) -> Self {
        Self::new(runtime, System::new(PathBuf::from("/etc/resolv.conf"), PathBuf::from("/etc/hosts")), None)
    }

    fn new(runtime: Handle, system: System, naming: Option<Arc<Naming>>) -> Self {
        let asking = Arc::new(Semaphore::new(MAX_ASKING));
        Self(Arc::new(Inner { runtime, system: Mutex::new(system), naming, remembered: Mutex::default(), asking }))
    }

    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// The addresses of a host: at least one. Whoever is given is asked first, and those of the system if these know none.
    /// Can be called from any runtime.
    pub async fn addresses(&self, host: &str, first: Option<&Arc<[NameServer]>>) -> Result<Addresses, String> {
        let name = Name::from_ascii(host).map_err(|error| format!("it is no name: {error}"))?;
        let (names, first) = (self.clone(), first.cloned());
        let asking = self.0.runtime.spawn(async move { names.know_host(name, first).await });
        let asking = AbortOnDropHandle::new(asking);
        let known = asking.await.map_err(|error| error.to_string())?;
        let addresses = known.records.iter().filter_map(|record| match record {
            Record::Address(address) => Some(*address),
            Record::Service { .. } => None,
        });
        let addresses: Arc<[IpAddr]> = addresses.take(MAX_ADDRESSES).collect();
        match (addresses.is_empty(), known.trouble) {
            (false, _) => Ok(Addresses { addresses, ttl: known.ask_at.saturating_duration_since(Instant::now()) }),
            (true, Some(Trouble::Failed(reason))) => Err(reason),
            (true, _) => Err("DNS knows none".to_owned()),
        }
    }

    async fn know_host(&self, name: Name, first: Option<Arc<[NameServer]>>) -> Known {
        let servers = first.map(|first| Arc::new(Servers::new(first.iter().map(|server| server.0))));
        let mut wanted = Wanted { name, types: ADDRESSES, servers };
        let known = self.know(&wanted).await;
        if !known.records.is_empty() || wanted.servers.take().is_none() {
            return known;
        }
        self.know(&wanted).await
    }

    /// What holds of a name, after asking for it if it is time to. To be called on the runtime of this.
    pub async fn know(&self, wanted: &Wanted) -> Known {
        let now = Instant::now();
        if let Some(servers) = &wanted.servers {
            let mut name = wanted.name.clone();
            name.set_fqdn(true);
            return self.know_one(&name, wanted, servers).await;
        }
        let (naming, hosts) = self.0.system.lock().look(now);
        let naming = self.0.naming.clone().unwrap_or(naming);
        let own = system::addresses(&hosts, &wanted.name, wanted.types);
        if !own.is_empty() {
            let records = own.into_iter().map(Record::Address).collect();
            return Known { records, trouble: None, ask_at: now + HOSTS_TTL };
        }
        let mut candidates = naming.candidates(&wanted.name).into_iter();
        let first = candidates.next().expect("a name is a candidate for itself");
        let mut known = self.know_one(&first, wanted, &naming.servers).await;
        for candidate in candidates {
            if !known.records.is_empty() || known.trouble != Some(Trouble::Nothing) {
                break;
            }
            let next = self.know_one(&candidate, wanted, &naming.servers).await;
            // As long as a name that comes earlier may turn up.
            known = Known { ask_at: next.ask_at.min(known.ask_at.max(now + HOSTS_TTL)), ..next };
        }
        known
    }

    async fn know_one(&self, name: &Name, wanted: &Wanted, servers: &Arc<Servers>) -> Known {
        let own = wanted.servers.as_ref().map(|servers| servers.addresses());
        let each = wanted.types.iter().map(|of_type| {
            let question = Question { name: name.clone(), of_type: *of_type, servers: own.clone() };
            self.answer(question, servers)
        });
        let known = futures_util::future::join_all(each).await;
        known.into_iter().reduce(Known::and).expect("something is wanted of a name")
    }

    async fn answer(&self, question: Question, servers: &Arc<Servers>) -> Known {
        let now = Instant::now();
        let (asking, is_good) = {
            let mut remembered = self.0.remembered.lock();
            make_room(&mut remembered, now);
            let entry = remembered.entry(question.clone()).or_insert_with(|| Entry::new(now));
            entry.used_at = now;
            if !entry.memory.is_due(now) {
                return entry.memory.known();
            }
            let asking = entry.asking.get_or_insert_with(|| self.ask(question.clone(), Arc::clone(servers)));
            (asking.clone(), entry.memory.is_good())
        };
        if is_good {
            // Whatever comes of it, there is something to go on with.
            let _ = tokio::time::timeout(STALE_AFTER, asking).await;
        } else {
            asking.await;
        }
        let mut known = self
            .0
            .remembered
            .lock()
            .get(&question)
            .map_or_else(|| Memory::new(now).known(), |entry| entry.memory.known());
        // What has not come yet is worth another look.
        known.ask_at = known.ask_at.max(now + STALE_AFTER);
        known
    }

    /// Asks, on and on whoever waits for it: what comes of it is for all who ask later.
    fn ask(&self, question: Question, servers: Arc<Servers>) -> Asking {
        let names = Arc::downgrade(&self.0);
        let places = Arc::clone(&self.0.asking);
        let asking = async move {
            let place = places.acquire().await.expect("places are never closed");
            let reply = servers.ask(&question.name, question.of_type).await;
            drop(place);
            let Some(names) = names.upgrade() else { return };
            if let Some(entry) = names.remembered.lock().get_mut(&question) {
                entry.memory.learn(reply, Instant::now());
                entry.asking = None;
            }
        };
        let asking = AbortOnDropHandle::new(self.0.runtime.spawn(asking));
        asking.map(drop).boxed().shared()
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { memory: Memory::new(now), asking: None, used_at: now }
    }
}

/// Forgets what nobody asked for in a long time, or else anything, once there is too much.
fn make_room(remembered: &mut HashMap<Question, Entry>, now: Instant) {
    if remembered.len() < MAX_REMEMBERED {
        return;
    }
    remembered.retain(|_, entry| entry.asking.is_some() || now < entry.used_at + FORGET_AFTER);
    while remembered.len() >= MAX_REMEMBERED {
        let Some(any) = remembered.keys().next().cloned() else { return };
        remembered.remove(&any);
    }
}
