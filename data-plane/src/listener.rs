//! Where requests come in on one core: accepting connections until told to stop.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use model::slots::Slot;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::cores::core::{Core, Opening};
use crate::cores::supervision::run_part;
use crate::memory::Pressure;
use crate::proxy_protocol::Addresses;

pub mod connection;
mod frames;
pub mod http;
mod http1;
mod http2;
mod io;
pub mod known_host;
mod names;
mod origin;
pub mod places;
pub mod terms;
pub mod tickets;
pub mod tls;
mod tunnel;
mod watch;
mod websocket;

pub use tunnel::Tunnel;

use connection::Connection;
use origin::{Duty, Origin, Refused};
use places::{Full, Place, Places};
use terms::Terms;

/// How long to wait when the process can open no more files.
const RETRY: Duration = Duration::from_millis(50);

/// An address that is open on one core.
pub struct OpenListener {
    pub address: SocketAddr,
    /// The listener of the current snapshot; nothing when it has none for this address any more.
    pub slot: Cell<Option<Slot>>,
    terms: RefCell<Rc<Terms>>,
    places: Arc<Places>,
    closing: Notify,
    accepting: RefCell<Option<JoinHandle<()>>>,
}

impl OpenListener {
    /// Begins to accept.
    pub fn open(core: &Rc<Core>, socket: std::net::TcpListener, opening: Opening, terms: Terms) -> Rc<Self> {
        let listener = Rc::new(Self {
            address: opening.address,
            slot: Cell::new(Some(opening.slot)),
            terms: RefCell::new(Rc::new(terms)),
            places: opening.places,
            closing: Notify::new(),
            accepting: RefCell::default(),
        });
        let socket = TcpListener::from_std(socket).expect("sockets are opened for this");
        let accepting = run_part(&core.failed, accept(core.clone(), listener.clone(), socket));
        listener.accepting.replace(Some(accepting));
        listener
    }

    /// Follows a change of the listener; connections that exist keep the terms that they have.
    pub fn change(&self, slot: Slot, terms: Terms) {
        self.slot.set(Some(slot));
        self.terms.replace(Rc::new(terms));
    }

    /// Accepts nothing more; returns when the address is free.
    pub async fn close(&self) {
        self.slot.set(None);
        self.closing.notify_one();
        let accepting = self.accepting.take();
        if let Some(accepting) = accepting {
            let _ = accepting.await;
        }
    }
}

async fn accept(core: Rc<Core>, listener: Rc<OpenListener>, socket: TcpListener) {
    loop {
        tokio::select! {
            biased;
            () = listener.closing.notified() => break,
            () = core.connections.room() => {}
        }
        let accepted = tokio::select! {
            biased;
            () = listener.closing.notified() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => drop(admit(&core, &listener, stream, client)),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(listener.address = %listener.address, %error, "cannot accept connections");
                core.clock.deadline(RETRY).await;
            }
        }
    }
    // Closing the socket resets whoever has been let in by the kernel and not yet by us.
    if let Ok(socket) = socket.into_std() {
        while let Ok((stream, client)) = socket.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
                && let Some(connection) = admit(&core, &listener, stream, client)
            {
                connection.leave();
            }
        }
    }
}

/// Begins a connection if there is a place for it; otherwise it is closed.
fn admit(
    core: &Rc<Core>,
    listener: &Rc<OpenListener>,
    stream: TcpStream,
    client: SocketAddr,
) -> Option<Rc<Connection>> {
    if core.pressure.get() >= Pressure::NothingNew {
        core.telemetry.metrics.connection_refused("memory-short");
        return None;
    }
    let terms = listener.terms.borrow().clone();
    let duty = Duty::of(client, terms.proxy_headers.as_ref());
    if duty == Duty::None {
        return begin(core, listener, terms, None, stream, Origin::is(client));
    }
    let (core, listener) = (core.clone(), listener.clone());
    tokio::task::spawn_local(async move {
        let metrics = &core.telemetry.metrics;
        let refused = |code: Option<&'static str>| code.into_iter().for_each(|code| metrics.connection_refused(code));
        if duty == Duty::Unwanted {
            return refused(Refused::Unwanted.code());
        }
        let place = match listener.places.take(terms.limits.connections) {
            Ok(place) => place,
            Err(full) => return refused(Some(full.code())),
        };
        match origin::told(&stream, client, duty, &terms, &core.clock).await {
            // The listener may have been closed meanwhile.
            Ok(origin) if listener.slot.get().is_some() => {
                begin(&core, &listener, terms, Some(place), stream, origin);
            }
            Ok(_) => {}
            Err(why) => refused(why.code()),
        }
    });
    None
}

fn place(listener: &OpenListener, terms: &Terms, taken: Option<Place>, client: SocketAddr) -> Result<Place, Full> {
    let mut place = match taken {
        Some(place) => place,
        None => listener.places.take(terms.limits.connections)?,
    };
    place.belongs_to(client.ip(), terms.limits.connections_per_client)?;
    Ok(place)
}

fn begin(
    core: &Rc<Core>,
    listener: &Rc<OpenListener>,
    terms: Rc<Terms>,
    taken: Option<Place>,
    stream: TcpStream,
    origin: Origin,
) -> Option<Rc<Connection>> {
    let place = match place(listener, &terms, taken, origin.client) {
        Ok(place) => place,
        Err(full) => {
            core.telemetry.metrics.connection_refused(full.code());
            return None;
        }
    };
    let destination = origin.destination.unwrap_or_else(|| match listener.address.ip().is_unspecified() {
        true => stream.local_addr().unwrap_or(listener.address),
        false => listener.address,
    });
    let ends = Addresses { source: origin.client, destination };
    let connection = Connection::new(core, listener, terms, ends, origin.destination.is_some());
    let number = core.connections.enter(&connection);
    core.telemetry.metrics.connection_opened();
    let (core, running) = (core.clone(), connection.clone());
    tokio::task::spawn_local(async move {
        let _exit = Exit { core, number, _place: place };
        http::serve(running, stream, origin.input).await;
    });
    Some(connection)
}

/// Takes a connection from the list when its task ends, also by a panic.
struct Exit {
    core: Rc<Core>,
    number: u64,
    _place: Place,
}

impl Drop for Exit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a connection ended by a panic");
        }
        self.core.connections.exit(self.number);
        self.core.telemetry.metrics.connection_closed();
    }
}

/// The client has gone before it was accepted.
fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
