//! A TCP relay between two processes of a test that makes the faults of a network: cut, silent, slow, broken bytes.
//!
//! It passes connections to the first of its targets that accepts, as a load balancer does. A fault holds for all of its
//! connections, those that are open and those that come, until the next one is set.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::address::free_address;

/// What a relay does to the bytes that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Open connections end, new ones end at once.
    Cut,
    /// Connections stay open and nothing passes; what was sent meanwhile passes afterwards.
    Stall,
    /// Each piece that passes waits for so long.
    Delay(Duration),
    /// A connection ends when so many bytes have come to the client since the fault was set.
    CutAfter(usize),
    /// One bit of each piece that comes to the client is another.
    Corrupt,
    /// Of two pieces that come to the client the second one passes first.
    Swap,
    /// What clients send passes, what comes to them vanishes.
    Mute,
    /// The same from the moment on that a client sends this.
    MuteAfter(&'static str),
}

/// How long an idle connection waits before it looks again which fault holds.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// See the head of this file. Dropping it ends all connections.
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    targets: Mutex<Vec<SocketAddr>>,
    fault: Mutex<Option<Fault>>,
    /// Bytes that came to clients since the fault was set.
    passed: AtomicUsize,
    /// What the fault waited for has been sent.
    is_due: AtomicBool,
    /// How often a fault did something to a piece or a connection.
    struck: AtomicU64,
    is_over: AtomicBool,
}

impl Relay {
    /// Listens on an address of its own.
    ///
    /// # Panics
    /// Panics when there is no address left.
    #[must_use]
    pub fn start(targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind(free_address()).expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            targets: Mutex::new(targets.to_vec()),
            fault: Mutex::default(),
            passed: AtomicUsize::default(),
            is_due: AtomicBool::default(),
            struck: AtomicU64::default(),
            is_over: AtomicBool::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let connection = Arc::clone(&accepting);
                std::thread::spawn(move || connection.connect(&client));
            }
        });
        Self { address, shared }
    }

    /// From now on this fault, or none.
    ///
    /// # Panics
    /// Panics when a thread of the relay has.
    pub fn set(&self, fault: Option<Fault>) {
        self.shared.passed.store(0, Ordering::SeqCst);
        self.shared.is_due.store(false, Ordering::SeqCst);
        *self.shared.fault.lock().expect("no panic while it is held") = fault;
    }

    /// Passes new connections to the first of these that accepts.
    ///
    /// # Panics
    /// Panics when a thread of the relay has.
    pub fn lead_to(&self, targets: &[SocketAddr]) {
        *self.shared.targets.lock().expect("no panic while it is held") = targets.to_vec();
    }

    /// How often a fault did something.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.shared.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn fault(&self) -> Option<Fault> {
        *self.fault.lock().expect("no panic while it is held")
    }

    fn strike(&self) {
        self.struck.fetch_add(1, Ordering::SeqCst);
    }

    fn is_cut(&self) -> bool {
        self.is_over.load(Ordering::SeqCst) || self.fault() == Some(Fault::Cut)
    }

    fn connect(self: Arc<Self>, client: &TcpStream) {
        // A host behind a cut or silent network does not answer.
        while self.fault() == Some(Fault::Stall) && !self.is_cut() {
            std::thread::sleep(LOOK_AGAIN);
        }
        if self.is_cut() {
            return self.strike();
        }
        let targets = self.targets.lock().expect("no panic while it is held").clone();
        let reached = targets.iter().find_map(|target| TcpStream::connect_timeout(target, Duration::from_secs(1)).ok());
        let Some(server) = reached else { return };
        for stream in [client, &server] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(LOOK_AGAIN));
        }
        let (Ok(back_client), Ok(back_server)) = (client.try_clone(), server.try_clone()) else { return };
        let back = Arc::clone(&self);
        std::thread::spawn(move || back.pass(&back_server, &back_client, true));
        self.pass(client, &server, false);
    }

    /// Passes bytes one way until one side ends, or the network does.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, is_to_client: bool) {
        let mut buffer = vec![0; 16 * 1024];
        let mut kept_back: Option<Vec<u8>> = None;
        loop {
            if self.is_cut() {
                self.strike();
                break;
            }
            if self.fault() == Some(Fault::Stall) {
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if let Some(late) = kept_back.take()
                        && to.write_all(&late).is_err()
                    {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            let piece = match self.changed(buffer[..count].to_vec(), is_to_client, &mut kept_back) {
                Some(piece) => piece,
                None => break,
            };
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// What becomes of a piece; nothing if the connection ends with it.
    fn changed(&self, mut piece: Vec<u8>, is_to_client: bool, kept_back: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
        let fault = self.fault();
        match fault {
            Some(Fault::Delay(pause)) => std::thread::sleep(pause),
            Some(Fault::CutAfter(limit)) if is_to_client => {
                let before = self.passed.fetch_add(piece.len(), Ordering::SeqCst);
                if before + piece.len() > limit {
                    self.strike();
                    return None;
                }
            }
            Some(Fault::Corrupt) if is_to_client => {
                let middle = piece.len() / 2;
                piece[middle] ^= 1;
            }
            Some(Fault::Swap) if is_to_client && kept_back.is_none() => {
                *kept_back = Some(piece);
                return Some(Vec::new());
            }
            Some(Fault::Mute) if is_to_client => piece.clear(),
            Some(Fault::MuteAfter(word))
                if !is_to_client && piece.windows(word.len()).any(|window| window == word.as_bytes()) =>
            {
                self.is_due.store(true, Ordering::SeqCst);
                self.strike();
            }
            Some(Fault::MuteAfter(_)) if is_to_client && self.is_due.load(Ordering::SeqCst) => piece.clear(),
            _ => {}
        }
        if let Some(earlier) = kept_back.take() {
            piece.extend(earlier);
            self.strike();
        } else if fault.is_some() && is_to_client && !matches!(fault, Some(Fault::MuteAfter(_))) {
            self.strike();
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client reads after it has sent something, until the end or until nothing comes any more.
    fn read(relay: &Relay, pieces: usize) -> Vec<u8> {
        let mut client = TcpStream::connect(relay.address).expect("the relay accepts");
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket takes it");
        let mut heard = Vec::new();
        for _ in 0..pieces {
            let mut answer = [0; 4];
            if client.write_all(b"ping").is_err() || client.read_exact(&mut answer).is_err() {
                break;
            }
            heard.extend(answer);
        }
        heard
    }

    /// Says everything that it hears.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    #[test]
    fn a_relay_does_what_its_fault_says_and_passes_everything_without_one() {
        let relay = Relay::start(&[free_address(), echo()]);
        assert_eq!(read(&relay, 2), b"pingping", "the first target does not accept");
        for (fault, heard) in [
            (Fault::Cut, &b""[..]),
            (Fault::Stall, b""),
            (Fault::Mute, b""),
            (Fault::MuteAfter("ping"), b""),
            (Fault::CutAfter(8), b"pingping"),
            (Fault::Corrupt, b"piogpiogpiog"),
            (Fault::Delay(Duration::from_millis(1)), b"pingpingping"),
        ] {
            relay.set(Some(fault));
            let before = relay.struck();
            assert_eq!(read(&relay, 3), heard, "{fault:?}");
            assert!(relay.struck() > before || fault == Fault::Stall, "{fault:?}");
        }
        relay.set(None);
        assert_eq!(read(&relay, 2), b"pingping");
    }

    #[test]
    fn what_was_said_during_a_stall_comes_later_and_a_cut_ends_what_is_open() {
        let relay = Relay::start(&[echo()]);
        let mut client = TcpStream::connect(relay.address).expect("the relay accepts");
        client.write_all(b"a").expect("it is open");
        let mut answer = [0; 1];
        client.read_exact(&mut answer).expect("it passes");
        relay.set(Some(Fault::Stall));
        // Whatever was about to be read when the fault was set has been read after that.
        std::thread::sleep(LOOK_AGAIN * 4);
        client.write_all(b"b").expect("it is open");
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket takes it");
        assert!(client.read_exact(&mut answer).is_err(), "nothing passes");
        client.set_read_timeout(None).expect("a socket takes it");
        relay.set(None);
        client.read_exact(&mut answer).expect("it passes");
        assert_eq!(&answer, b"b");
        relay.set(Some(Fault::Cut));
        assert_eq!(client.read(&mut answer).unwrap_or(0), 0, "it has ended");
    }
}
