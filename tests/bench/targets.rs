//! Targets that can be made to misbehave: each answers as fast as it is told, until it is told otherwise.
//!
//! They run in a process of their own. Whoever writes a line such as `2 refuse` to the first of their ports gets `ok`
//! when the third target does so.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

/// What a target does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Healthy,
    /// Nothing listens, and who is connected is cut off.
    Refuse,
    /// Neither packets for new connections nor requests on old ones are answered.
    BlackHole,
    /// Connections are reset when a request comes.
    Reset,
    /// Every answer is 500.
    Error,
    /// Every answer takes two seconds.
    Slow,
}

/// The targets, seen from who measures.
pub struct Targets {
    control: std::net::TcpStream,
}

impl Targets {
    pub fn connect(port: u16) -> Result<Self> {
        Ok(Self { control: std::net::TcpStream::connect(("127.0.0.1", port))? })
    }

    /// Returns when the target behaves so.
    pub fn set(&mut self, target: usize, mode: Mode) -> Result<()> {
        writeln!(self.control, "{target} {}", serde_json::to_string(&mode)?)?;
        let mut answer = String::new();
        BufReader::new(&self.control).read_line(&mut answer)?;
        if answer == "ok\n" { Ok(()) } else { bail!("the targets answered `{answer}`") }
    }
}

/// One target.
struct Target {
    address: SocketAddr,
    /// How long an answer takes, when nothing is the matter.
    takes: Duration,
    /// Requests are served one after the other, as by a target that has one worker.
    worker: Mutex<()>,
    mode: Cell<Mode>,
    changed: Notify,
    accepting: RefCell<Option<JoinHandle<()>>>,
    /// What fills the queue of connections in place of a black hole.
    filling: RefCell<Vec<std::net::TcpStream>>,
}

/// Serves until it is killed: `ports` are that of control, and one for each target; `micros` how long answers take.
pub fn serve(ports: &[u16], micros: &[u64]) -> Result<()> {
    let (control, ports) = ports.split_first().context("a port for control is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut targets = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let takes = Duration::from_micros(*micros.get(index).or(micros.last()).unwrap_or(&0));
            let target = Rc::new(Target {
                address: SocketAddr::from(([127, 0, 0, 1], *port)),
                takes,
                worker: Mutex::new(()),
                mode: Cell::new(Mode::Healthy),
                changed: Notify::new(),
                accepting: RefCell::default(),
                filling: RefCell::default(),
            });
            target.accept()?;
            targets.push(target);
        }
        let control = TcpListener::bind(("127.0.0.1", *control)).await?;
        loop {
            let (stream, _) = control.accept().await?;
            obey(&targets, stream).await?;
        }
    })
}

async fn obey(targets: &[Rc<Target>], stream: TcpStream) -> Result<()> {
    let (from, mut to) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (index, mode) = line.split_once(' ').context("write a target and a mode")?;
        let target = targets.get(index.parse::<usize>()?).context("there is no such target")?;
        target.become_of(serde_json::from_str(mode)?)?;
        to.write_all(b"ok\n").await?;
    }
    Ok(())
}

impl Target {
    fn become_of(self: &Rc<Self>, mode: Mode) -> Result<()> {
        self.mode.set(mode);
        self.filling.borrow_mut().clear();
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        self.changed.notify_waiters();
        match mode {
            Mode::Refuse => Ok(()),
            Mode::BlackHole => self.swallow(),
            _ => self.accept(),
        }
    }

    fn listen(&self, backlog: i32) -> Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        // The listener of before closes when its task is dropped, which may be a moment later.
        socket.set_reuse_port(true)?;
        socket.bind(&self.address.into())?;
        socket.listen(backlog)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    fn accept(self: &Rc<Self>) -> Result<()> {
        let listener = TcpListener::from_std(self.listen(1024)?)?;
        let target = Rc::clone(self);
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let target = Rc::clone(&target);
                tokio::task::spawn_local(async move {
                    let _ = target.answer(stream).await;
                });
            }
        });
        self.accepting.replace(Some(accepting));
        Ok(())
    }

    /// A queue that nobody empties: when it is full, the kernel drops what asks for a connection.
    fn swallow(self: &Rc<Self>) -> Result<()> {
        let listener = self.listen(0)?;
        let mut filling = Vec::new();
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // It is under way, which is all that it is for.
            let _ = socket.connect(&self.address.into());
            filling.push(socket.into());
        }
        self.filling.replace(filling);
        self.accepting.replace(Some(tokio::task::spawn_local(async move {
            let _listener = listener;
            std::future::pending::<()>().await;
        })));
        Ok(())
    }

    async fn answer(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; 16 * 1024];
        let mut held = 0;
        loop {
            let changed = self.changed.notified();
            let count = tokio::select! {
                count = stream.read(&mut buffer[held..]) => count?,
                () = changed => match self.mode.get() {
                    Mode::Refuse => return Ok(()),
                    _ => continue,
                },
            };
            if count == 0 {
                return Ok(());
            }
            held += count;
            if !buffer[..held].ends_with(b"\r\n\r\n") {
                continue;
            }
            held = 0;
            let status = match self.mode.get() {
                Mode::Healthy => "200 OK",
                Mode::Error => "500 Internal Server Error",
                Mode::Slow => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    "200 OK"
                }
                Mode::Refuse => return Ok(()),
                Mode::Reset => {
                    stream.set_zero_linger()?;
                    return Ok(());
                }
                Mode::BlackHole => std::future::pending().await,
            };
            if !self.takes.is_zero() {
                let _turn = self.worker.lock().await;
                tokio::time::sleep(self.takes).await;
            }
            let body = "x".repeat(200);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: 200\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}
