//! One core: a thread with a runtime of its own. Nothing in here is seen by another core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use model::slots::Slot;
use model::snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use super::supervision::run_part;
use crate::clock::Clock;
use crate::dns::Names;
use crate::http1::Date;
use crate::listener::OpenListener;
use crate::listener::connection::Connection;
use crate::listener::places::Places;
use crate::listener::terms::Terms;
use crate::listener::tls::ListenerTls;
use crate::memory::Pressure;
use crate::proxy::mirror::Copies;
use crate::settings::Settings;
use crate::telemetry::{CoreTelemetry, Seat};
use crate::upstream::{CookieKey, SWEEP, Upstreams};

/// Of the connections with requests, one of so many is reset each time that memory is found to be all but used up.
const RESET_ONE_OF: usize = 8;

/// What a core is told to do.
pub enum Order {
    /// Serve this snapshot and keep exactly these addresses open.
    Serve {
        snapshot: Arc<Snapshot>,
        openings: Vec<Opening>,
        done: oneshot::Sender<()>,
    },
    /// Serve this snapshot, which differs in the targets of these services alone.
    Retarget {
        snapshot: Arc<Snapshot>,
        slots: Arc<[Slot]>,
        done: oneshot::Sender<()>,
    },
    /// Accept nothing more, and say when the last client has gone.
    Drain {
        done: oneshot::Sender<()>,
    },
    /// Memory is short, or is not any more.
    Press(Pressure),
    Stop,
    /// Fails as the loop of a core never should.
    #[cfg(test)]
    Fail,
}

/// An address that should be open.
pub struct Opening {
    pub address: SocketAddr,
    pub slot: Slot,
    pub tls: Option<ListenerTls>,
    pub places: Arc<Places>,
    /// One for each core, if it was not open before.
    pub sockets: Vec<TcpListener>,
}

impl Opening {
    /// The same for one core, which gets one of the sockets.
    pub fn for_next_core(&mut self) -> Self {
        let sockets = self.sockets.pop().into_iter().collect();
        let (tls, places) = (self.tls.clone(), self.places.clone());
        Self { address: self.address, slot: self.slot, tls, places, sockets }
    }
}

/// One core. Everything on the request path hangs on it.
pub struct Core {
    pub clock: Clock,
    pub via: bool,
    pub upstreams: Upstreams,
    pub telemetry: Rc<CoreTelemetry>,
    pub date: Date,
    pub connections: Connections,
    pub copies: Copies,
    snapshot: RefCell<Rc<Snapshot>>,
    listeners: RefCell<HashMap<SocketAddr, Rc<OpenListener>>>,
    /// What was served and may still be in use, with what keeps its parts alive until then.
    outgoing: RefCell<Vec<(Weak<Snapshot>, Arc<Snapshot>)>>,
    serving: RefCell<Arc<Snapshot>>,
    retire: Sender<Arc<Snapshot>>,
    /// A part of the core itself has ended by a panic.
    pub failed: Rc<Notify>,
    /// How short memory is.
    pub pressure: Cell<Pressure>,
}

/// The life of a core, on the runtime of its thread.
pub async fn run(
    settings: &Settings,
    timers: Handle,
    seat: Seat,
    known: (Names, CookieKey),
    orders: Rc<Mutex<mpsc::UnboundedReceiver<Order>>>,
    retire: Sender<Arc<Snapshot>>,
) {
    let core = Core::new(settings, seat, known, retire);
    run_part(&core.failed, core.clock.clone().run(timers));
    // As a task it is looked at when there is something for it; what stands here is looked at with every event.
    let obeying = tokio::task::spawn_local(async move { core.obey(&mut *orders.lock().await).await });
    if let Err(failed) = obeying.await {
        std::panic::resume_unwind(failed.into_panic());
    }
}

impl Core {
    fn new(
        settings: &Settings,
        seat: Seat,
        (names, cookie_key): (Names, CookieKey),
        retire: Sender<Arc<Snapshot>>,
    ) -> Rc<Self> {
        let clock = Clock::new();
        let telemetry = seat.take(&clock);
        let upstreams = Upstreams::new(&clock, &telemetry, names, cookie_key, settings.zone.as_deref());
        Rc::new(Self {
            clock,
            via: settings.via,
            upstreams,
            telemetry,
            date: Date::default(),
            connections: Connections::new(settings.connections_per_core),
            copies: Copies::default(),
            snapshot: RefCell::default(),
            listeners: RefCell::default(),
            outgoing: RefCell::default(),
            serving: RefCell::default(),
            retire,
            failed: Rc::default(),
            pressure: Cell::default(),
        })
    }

    /// The snapshot for a request that begins now.
    #[must_use]
    pub fn snapshot(&self) -> Rc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    async fn obey(self: &Rc<Self>, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let mut sweep = self.clock.deadline(SWEEP);
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = self.failed.notified() => panic!("a part of the core ended by a panic"),
                () = &mut sweep => {
                    sweep.reset(SWEEP);
                    self.upstreams.sweep();
                    self.retire_outgoing();
                    continue;
                }
            };
            match order {
                Some(Order::Serve { snapshot, openings, done }) => {
                    self.close(self.serve(&snapshot, openings)).await;
                    let _ = done.send(());
                }
                Some(Order::Retarget { snapshot, slots, done }) => {
                    self.swap(&snapshot, Some(&slots));
                    let _ = done.send(());
                }
                Some(Order::Press(pressure)) => {
                    self.pressure.set(pressure);
                    self.connections.ease(pressure);
                }
                Some(Order::Drain { done }) => self.drain(done).await,
                #[cfg(test)]
                Some(Order::Fail) => panic!("as it was told to"),
                Some(Order::Stop) | None => return,
            }
        }
    }

    /// Swaps the snapshot and the listeners in one step: no request runs in between. Returns the listeners
    /// that are to close.
    fn serve(self: &Rc<Self>, snapshot: &Arc<Snapshot>, openings: Vec<Opening>) -> Vec<Rc<OpenListener>> {
        self.swap(snapshot, None);
        let mut listeners = self.listeners.borrow_mut();
        let mut closing = std::mem::take(&mut *listeners);
        for mut opening in openings {
            let configured =
                snapshot.listeners.get(opening.slot).expect("an opening is for a listener of the snapshot");
            let terms = Terms::of(configured, opening.tls.take());
            let listener = match (closing.remove(&opening.address), opening.sockets.pop()) {
                (Some(listener), _) => {
                    listener.change(opening.slot, terms);
                    listener
                }
                (None, Some(socket)) => OpenListener::open(self, socket, opening, terms),
                (None, None) => continue,
            };
            listeners.insert(listener.address, listener);
        }
        drop(listeners);
        closing.into_values().collect()
    }

    /// Serves requests that begin from now on with this snapshot; with `slots` given, only these services differ.
    fn swap(&self, snapshot: &Arc<Snapshot>, slots: Option<&[Slot]>) {
        let current = Rc::new(Snapshot::clone(snapshot));
        self.upstreams.follow(&current, slots);
        let previous = self.snapshot.replace(current);
        let keeper = self.serving.replace(snapshot.clone());
        self.outgoing.borrow_mut().push((Rc::downgrade(&previous), keeper));
        drop(previous);
        self.retire_outgoing();
    }

    /// Closes listeners and asks their clients to go. Their addresses are free when it returns.
    async fn close(&self, listeners: Vec<Rc<OpenListener>>) {
        for listener in listeners {
            // Before the port is closed: who finds it closed may count on it that all were asked. And who came just now.
            self.connections.leave(&listener);
            listener.close().await;
            self.connections.leave(&listener);
        }
    }

    /// Gives up snapshots that no request holds any more, to be freed on another thread.
    fn retire_outgoing(&self) {
        // Each is moved: were a count of it left here, this thread might be the last to let go.
        for (_, keeper) in self.outgoing.borrow_mut().extract_if(.., |(used, _)| used.strong_count() == 0) {
            let _ = self.retire.send(keeper);
        }
    }

    async fn drain(self: &Rc<Self>, done: oneshot::Sender<()>) {
        let listeners = std::mem::take(&mut *self.listeners.borrow_mut());
        self.close(listeners.into_values().collect()).await;
        let core = self.clone();
        tokio::task::spawn_local(async move {
            core.connections.none_left().await;
            let _ = done.send(());
        });
    }
}

/// The connections of clients on this core.
pub struct Connections {
    limit: usize,
    open: RefCell<HashMap<u64, Rc<Connection>, foldhash::fast::RandomState>>,
    next: Cell<u64>,
    closed: Notify,
}

impl Connections {
    fn new(limit: usize) -> Self {
        Self { limit, open: RefCell::default(), next: Cell::new(0), closed: Notify::new() }
    }

    /// Waits until there is room for one more.
    pub async fn room(&self) {
        while self.open.borrow().len() >= self.limit {
            self.closed.notified().await;
        }
    }

    pub fn enter(&self, connection: &Rc<Connection>) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.borrow_mut().insert(number, connection.clone());
        number
    }

    pub fn exit(&self, number: u64) {
        self.open.borrow_mut().remove(&number);
        self.closed.notify_waiters();
    }

    /// Gives up what memory may be had from.
    fn ease(&self, pressure: Pressure) {
        let open = self.open.borrow();
        if pressure >= Pressure::NoKeepAlive {
            for connection in open.values().filter(|connection| connection.requests.get() > 0) {
                connection.leave();
            }
        }
        if pressure >= Pressure::ResetLargest {
            let mut busy: Vec<_> = open.values().filter(|connection| connection.in_flight.get() > 0).collect();
            busy.sort_by_cached_key(|connection| std::cmp::Reverse(connection.holds_bytes()));
            // A part of them each time: the next look tells whether that was enough.
            for connection in &busy[..busy.len().div_ceil(RESET_ONE_OF)] {
                connection.reset();
            }
        }
    }

    /// Asks the clients of a listener to go.
    fn leave(&self, listener: &Rc<OpenListener>) {
        for connection in self.open.borrow().values() {
            if Rc::ptr_eq(listener, &connection.listener) {
                connection.leave();
            }
        }
    }

    async fn none_left(&self) {
        while !self.open.borrow().is_empty() {
            self.closed.notified().await;
        }
    }
}
