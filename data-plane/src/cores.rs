//! The cores that serve requests, each a thread with a runtime, listeners and an upstream pool of its own.
//!
//! [`Cores::adopt`] is the only writer of what is served. It opens what is missing before anything changes,
//! so that a revision whose address is taken is refused as a whole.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use model::membership::Membership;
use model::problem::Problems;
use model::resource::service::DnsDiscovery;
use model::resource::{Key, Kind, Name};
use model::snapshot::Snapshot;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::current::Current;
use crate::discovery::Discoveries;
use crate::dns::Names;
use crate::health::Health;
use crate::listener::places::Places;
use crate::listener::tickets::TicketKeys;
use crate::listener::tls::ListenerTls;
use crate::membership::{Served, Sources};
use crate::memory::Pressure;
use crate::settings::Settings;
use crate::sync::{Adopt, TicketSecret};
use crate::telemetry::{NodeState, Telemetry};
use crate::upstream::CookieKey;

pub(crate) mod core;
mod ports;
pub(crate) mod supervision;
#[cfg(test)]
mod tests;

use self::core::{Opening, Order};
use self::supervision::Post;

/// The cores that serve requests. Clones are the same cores.
#[derive(Clone)]
pub struct Cores(Arc<Shared>);

struct Shared {
    current: Current,
    /// See [`Settings::listen_address`].
    listen_address: Option<IpAddr>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    sources: Sources,
    discoveries: Discoveries,
    /// Held while what is served changes: one change at a time.
    serving: tokio::sync::Mutex<Serving>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ticket_keys: TicketKeys,
    cookie_key: CookieKey,
    health: Health,
    node: Arc<NodeState>,
    broken: CancellationToken,
}

/// What is served.
#[derive(Default)]
struct Serving {
    /// The addresses that are open.
    open: HashMap<SocketAddr, Open>,
    served: Option<Served>,
}

/// What all cores share of an open address.
struct Open {
    tls: Option<ListenerTls>,
    places: Arc<Places>,
}

impl Cores {
    /// Starts the threads. Nothing listens before the first snapshot.
    pub fn start(settings: &Settings, telemetry: &Telemetry) -> std::io::Result<Self> {
        let retire = start_retirement()?;
        let (failed, failures) = std::sync::mpsc::channel();
        let broken = CancellationToken::new();
        let names = Names::of_system(Handle::current());
        let cookie_key = CookieKey::alone();
        let mut orders = Vec::new();
        let mut threads = Vec::new();
        for number in 0..settings.cores.get() {
            let (order, ordered) = mpsc::unbounded_channel();
            let post = Post {
                number,
                timers: Handle::current(),
                settings: settings.clone(),
                telemetry: telemetry.clone(),
                names: names.clone(),
                cookie_key: cookie_key.clone(),
                retire: retire.clone(),
                failed: failed.clone(),
                broken: broken.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("core-{number}"))
                .spawn(move || supervision::run(&post, ordered))?;
            orders.push(order);
            threads.push(thread);
        }
        let shared = Arc::new(Shared {
            current: Current::default(),
            listen_address: settings.listen_address,
            orders,
            sources: Sources::default(),
            discoveries: Discoveries::new(names, telemetry.node.clone()),
            serving: tokio::sync::Mutex::default(),
            threads: Mutex::new(threads),
            ticket_keys: TicketKeys::alone(),
            cookie_key,
            health: telemetry.health.clone(),
            node: telemetry.node.clone(),
            broken,
        });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("core-watch".into()).spawn(move || {
            for number in failures {
                let Some(shared) = weak.upgrade() else { return };
                shared.open_again(number);
            }
        })?;
        Ok(Self(shared))
    }

    /// Makes the cores give up what this stage asks for.
    pub fn press(&self, pressure: Pressure) {
        for orders in &self.0.orders {
            let _ = orders.send(Order::Press(pressure));
        }
    }

    /// Waits until the cores keep failing: then the node should end.
    pub async fn broken(&self) {
        self.0.broken.cancelled().await;
    }

    /// The snapshot that is served.
    #[must_use]
    pub fn current(&self) -> &Current {
        &self.0.current
    }

    /// What this node knows of names.
    #[must_use]
    pub fn names(&self) -> Names {
        self.0.discoveries.names().clone()
    }

    /// Seals session tickets with the first of these keys from now on, and opens those of all of them.
    pub fn use_ticket_keys(&self, secrets: &[TicketSecret]) {
        self.0.ticket_keys.replace(secrets);
    }

    /// Makes and knows sticky cookies by this key from now on.
    pub fn use_cookie_key(&self, secret: &TicketSecret) {
        self.0.cookie_key.replace(secret);
    }

    /// Serves `snapshot` from now on: returns when every core does. If an address cannot be listened on,
    /// nothing changes.
    pub async fn adopt(&self, snapshot: Arc<Snapshot>) -> Result<(), Problems> {
        self.0.discover(&snapshot).await;
        let mut serving = self.0.serving.lock().await;
        let mut openings = self.prepare(&snapshot, &serving.open)?;
        let shared = |opening: &Opening| Open { tls: opening.tls.clone(), places: opening.places.clone() };
        serving.open = openings.iter().map(|opening| (opening.address, shared(opening))).collect();
        self.0.discoveries.settle(&snapshot, &self.0.sources);
        let served = self.0.sources.join(snapshot, serving.served.as_ref());
        let snapshot = Arc::clone(&served.joined);
        serving.served = Some(served);
        self.0.current.swap(snapshot.clone());
        self.0.health.follow(&snapshot);
        let order = |done| {
            let openings = openings.iter_mut().map(Opening::for_next_core).collect();
            Order::Serve { snapshot: snapshot.clone(), openings, done }
        };
        self.0.order(order).await;
        Ok(())
    }

    /// See [`Adopt::retarget`].
    pub fn retarget(&self, membership: Membership, touched: Vec<Name>) -> impl Future<Output = ()> + Send + use<> {
        self.0.sources.say(membership, touched);
        let shared = Arc::clone(&self.0);
        async move { shared.follow_sources().await }
    }

    /// What should be open, with sockets for the cores where it is not yet.
    fn prepare(&self, snapshot: &Snapshot, open: &HashMap<SocketAddr, Open>) -> Result<Vec<Opening>, Problems> {
        let mut openings = Vec::new();
        let mut problems = Problems::new();
        for (slot, listener) in snapshot.listeners.iter().filter(|(_, listener)| listener.enabled) {
            let address = ports::of_node(listener.bind, self.0.listen_address);
            let known = open.get(&address);
            let sockets = match known {
                Some(_) => Vec::new(),
                None => match ports::open(address, self.0.orders.len(), open.keys()) {
                    Ok(sockets) => sockets,
                    Err(fault) => {
                        problems.push(fault.at(&Key::new(Kind::Listener, listener.name.clone())));
                        continue;
                    }
                },
            };
            let previous = known.and_then(|known| known.tls.as_ref());
            let tls = ListenerTls::of(listener, snapshot, previous, &self.0.ticket_keys);
            let places = known.map(|known| known.places.clone()).unwrap_or_default();
            openings.push(Opening { address, slot, tls, places, sockets });
        }
        if problems.is_empty() { Ok(openings) } else { Err(problems) }
    }

    /// Accepts nothing more, lets requests end and clients go, until `timeout`; then ends what still runs.
    pub async fn drain(&self, timeout: Duration) {
        // What is adopted from now on would open listeners again.
        let _serving = self.0.serving.lock().await;
        let mut drained = Vec::with_capacity(self.0.orders.len());
        for orders in &self.0.orders {
            let (done, wait) = oneshot::channel();
            let _ = orders.send(Order::Drain { done });
            drained.push(wait);
        }
        let all = async {
            for wait in drained {
                let _ = wait.await;
            }
        };
        if tokio::time::timeout(timeout, all).await.is_err() {
            tracing::warn!("requests were still running after the drain timeout and have been ended");
        }
        for orders in &self.0.orders {
            let _ = orders.send(Order::Stop);
        }
        let threads = std::mem::take(&mut *self.0.threads.lock());
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().map(JoinHandle::join).count()).await;
    }
}

impl Adopt for Cores {
    async fn adopt(&self, snapshot: Arc<Snapshot>) -> Result<(), Problems> {
        Cores::adopt(self, snapshot).await
    }

    fn retarget(&self, membership: Membership, touched: Vec<Name>) -> impl Future<Output = ()> + Send + 'static {
        Cores::retarget(self, membership, touched)
    }

    fn use_ticket_keys(&self, secrets: &[TicketSecret]) {
        Cores::use_ticket_keys(self, secrets);
    }

    fn use_cookie_key(&self, secret: &TicketSecret) {
        Cores::use_cookie_key(self, secret);
    }

    fn targets(&self) -> proto::NodeHeartbeat {
        let (unhealthy, more_unhealthy) = self.0.health.to_wire();
        let (found, more_found) =
            self.0.current.load().map(|snapshot| self.0.sources.to_wire(&snapshot)).unwrap_or_default();
        proto::NodeHeartbeat { unhealthy, found, untold: more_unhealthy + more_found, ..Default::default() }
    }

    fn traffic(&self) -> Option<proto::Traffic> {
        self.0.node.traffic()
    }
}

impl Shared {
    /// Serves what was said since by the sources of targets.
    async fn follow_sources(&self) {
        let mut serving = self.serving.lock().await;
        // Without a snapshot there is nobody to tell; the first one has it.
        let Some(served) = &serving.served else { return };
        let Some((served, slots)) = self.sources.follow(served) else { return };
        let snapshot = Arc::clone(&served.joined);
        serving.served = Some(served);
        self.current.swap(snapshot.clone());
        self.health.follow(&snapshot);
        let order = |done| Order::Retarget { snapshot: snapshot.clone(), slots: slots.clone(), done };
        self.order(order).await;
    }

    /// Begins to look for what the services of a snapshot find by themselves, and waits a while for what comes.
    async fn discover(self: &Arc<Self>, snapshot: &Snapshot) {
        let shared = Arc::downgrade(self);
        let tell = move |discovery: Arc<DnsDiscovery>, found| {
            let shared = shared.clone();
            async move {
                let Some(shared) = shared.upgrade() else { return };
                shared.sources.find(&discovery, Some(found));
                shared.follow_sources().await;
            }
        };
        self.discoveries.begin(snapshot, tell).await;
    }

    /// Gives every core an order, and waits until all have carried it out.
    async fn order(&self, mut order: impl FnMut(oneshot::Sender<()>) -> Order) {
        let given = self.orders.iter().map(|orders| {
            let (done, wait) = oneshot::channel();
            // A core that is gone has nothing to serve.
            let _ = orders.send(order(done));
            wait
        });
        for wait in given.collect::<Vec<_>>() {
            let _ = wait.await;
        }
    }

    /// Gives a core that has taken the place of another the snapshot, and sockets on the addresses that are open.
    fn open_again(&self, number: usize) {
        let serving = self.serving.blocking_lock();
        let open = &serving.open;
        let Some(snapshot) = self.current.load() else { return };
        let listeners = snapshot.listeners.iter().filter(|(_, listener)| listener.enabled);
        let openings = listeners.filter_map(|(slot, listener)| {
            let address = ports::of_node(listener.bind, self.listen_address);
            let Open { tls, places } = open.get(&address)?;
            let sockets = ports::open(address, 1, open.keys()).unwrap_or_else(|fault| {
                tracing::error!(core = number, error = fault.message, "a core cannot listen again");
                Vec::new()
            });
            Some(Opening { address, slot, tls: tls.clone(), places: places.clone(), sockets })
        });
        let (openings, (done, _)) = (openings.collect(), oneshot::channel());
        let _ = self.orders[number].send(Order::Serve { snapshot: snapshot.clone(), openings, done });
    }
}

/// Where cores send snapshots that no request holds any more: freeing a large one takes longer than a
/// request should wait.
fn start_retirement() -> std::io::Result<std::sync::mpsc::Sender<Arc<Snapshot>>> {
    let (retire, retired) = std::sync::mpsc::channel::<Arc<Snapshot>>();
    std::thread::Builder::new().name("retirement".into()).spawn(move || retired.into_iter().for_each(drop))?;
    Ok(retire)
}
