//! Backends to stand behind the gateway, and steady traffic that remembers every failure.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::address::free_address;
use crate::http::Connection;

/// A backend that answers every request with its name and the path that it saw. Requests have no bodies.
pub struct Backend {
    pub address: SocketAddr,
}

impl Backend {
    /// Lives as long as the test process.
    pub fn start(name: &'static str) -> Self {
        Self::start_slow(name, Duration::ZERO)
    }

    /// Takes this long for each answer.
    pub fn start_slow(name: &'static str, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_nodelay(true);
                std::thread::spawn(move || serve(stream, name, delay));
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(mut stream: impl Read + Write, name: &str, delay: Duration) {
    let mut held = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        while let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = held.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            std::thread::sleep(delay);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let body = format!("{name} {path}\n{head}");
            let answer =
                format!("HTTP/1.1 200 OK\r\nX-Backend: {name}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => held.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

/// A backend that can be stopped, and started again at its address: a process that ends takes its connections with it.
pub struct Passing {
    pub address: SocketAddr,
    name: &'static str,
    delay: Duration,
    life: Arc<Life>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Life {
    is_over: AtomicBool,
    accepted: AtomicU64,
    answered: AtomicU64,
    open: Mutex<Vec<(u64, std::net::TcpStream)>>,
}

impl Passing {
    pub fn start(name: &'static str) -> anyhow::Result<Self> {
        Self::start_slow(name, Duration::from_millis(2))
    }

    /// Takes this long for each answer.
    pub fn start_slow(name: &'static str, delay: Duration) -> anyhow::Result<Self> {
        let address = free_address();
        let mut backend = Self { address, name, delay, life: Arc::default(), accepting: None };
        backend.start_again()?;
        Ok(backend)
    }

    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        let (life, name, delay) = (Arc::<Life>::default(), self.name, self.delay);
        self.life = Arc::clone(&life);
        self.accepting = Some(std::thread::spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                if life.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                life.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(copy) = stream.try_clone() else { continue };
                life.open.lock().expect("no panic while it is held").push((number, copy));
                let life = Arc::clone(&life);
                std::thread::spawn(move || {
                    serve(Counted(stream, &life.answered), name, delay);
                    life.open.lock().expect("no panic while it is held").retain(|(other, _)| *other != number);
                });
            }
        }));
        Ok(())
    }

    /// Connections that the other side has not closed.
    pub fn connections(&self) -> usize {
        self.life.open.lock().expect("no panic while it is held").len()
    }

    /// Connections in this life.
    pub fn accepted(&self) -> u64 {
        self.life.accepted.load(Ordering::SeqCst)
    }

    /// Requests in this life.
    pub fn answered(&self) -> u64 {
        self.life.answered.load(Ordering::SeqCst)
    }

    /// Accepts nothing more, and ends every connection in the middle of what it does.
    pub fn stop(&mut self) {
        self.life.is_over.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("accepting does not panic");
        }
        for (_, stream) in self.life.open.lock().expect("no panic while it is held").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Counts what is written to it: one write for each answer.
struct Counted<'l>(std::net::TcpStream, &'l AtomicU64);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// 200 requests a second, until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Anything but a 200 is a failure.
    pub fn start(address: SocketAddr, host: &'static str, path: &'static str) -> Self {
        const CONNECTIONS: u32 = 4;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..CONNECTIONS)
            .map(|_| {
                let (stop, sent, failures) = (stop.clone(), sent.clone(), failures.clone());
                std::thread::spawn(move || {
                    let mut connection = None;
                    let mut due = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        due += Duration::from_millis(5) * CONNECTIONS;
                        sent.fetch_add(1, Ordering::Relaxed);
                        if let Err(failure) = one(&mut connection, address, host, path) {
                            connection = None;
                            failures.lock().expect("no panic while it is held").push(failure);
                        }
                    }
                })
            })
            .collect();
        Self { stop, sent, failures, threads }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many were sent, and every failure.
    pub fn stop(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("traffic threads do not panic");
        }
        let failures = std::mem::take(&mut *self.failures.lock().expect("no panic while it is held"));
        (self.sent(), failures)
    }
}

fn one(connection: &mut Option<Connection>, address: SocketAddr, host: &str, path: &str) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(address).map_err(|error| format!("connect: {error}"))?,
    };
    let answer = open.send("GET", path, &[("Host", host)], b"").map_err(|error| format!("request: {error}"))?;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.text()));
    }
    // A gateway that wants to be rid of a connection says so; that is no failure.
    if answer.field("connection") != Some("close") {
        *connection = Some(open);
    }
    Ok(())
}
