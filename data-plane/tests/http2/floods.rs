//! Clients that cost as much as they can. Each is made to go after a bounded amount of work, the process does not grow,
//! and another client on the same core is served all the while.
//!
//! Memory is that of the process, the flooding client included. Work is the processor time of the core's thread,
//! compared with what plain requests cost it, so that a slow machine changes nothing.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use model::resource::Kind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::frames::*;
use crate::support::{self, Node, backend, put, respond, within};

/// Frames that a flood would send if nobody stopped it.
const FRAMES: u32 = 300_000;

/// What all floods of a test may add to the process.
const MEMORY_BYTES: u64 = 48 * 1024 * 1024;

/// A flood may cost its core as much as this many plain requests.
const REQUESTS: u32 = 6000;

/// The same for the header bombs of 20 clients; measured: 30 to 350.
const BOMB_REQUESTS: u32 = 2000;

/// The same for 400 streams of 4 clients, each read of its service until the gateway waits; measured: 2700 to 5700.
const STALLED_REQUESTS: u32 = 20_000;

/// A node with one core, so that everybody is served by the same: `/` answers at once, `/silent` never, and `/gush`
/// without end.
async fn node(limits: Value) -> Node {
    let address = backend::sockets(|mut stream| async move {
        let head = backend::read_head(&mut stream).await;
        if head.starts_with("GET /gush") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
            while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
        }
        // Until the node is no more interested.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let mut settings = support::settings();
    settings.cores = NonZeroUsize::MIN;
    let mut node = Node::start_with(
        settings,
        vec![
            put(Kind::Service, "backend", json!({ "url": format!("http://{address}") })),
            put(Kind::Route, "silent", json!({ "paths": ["/silent"], "service": "backend" })),
            put(Kind::Route, "gush", json!({ "paths": ["/gush"], "service": "backend" })),
            put(Kind::Route, "all", respond("ok")),
        ],
    )
    .await;
    node.change_listener(json!({ "limits": limits })).await;
    node
}

/// A client that asks one thing after the other on one connection, and expects every answer.
struct Bystander {
    answers: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    asking: JoinHandle<()>,
}

impl Bystander {
    async fn begin(address: SocketAddr) -> Self {
        let (answers, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_over) = (answers.clone(), stop.clone());
        let mut client = Client::connect(address).await;
        let asking = tokio::spawn(async move {
            // Odd numbers, for as long as they last.
            for stream in (1..).step_by(2) {
                client.send(head(stream, END_STREAM, GET)).await;
                assert_eq!(client.outcome(stream).await, Outcome::Status(200), "a bystander");
                count.fetch_add(1, Ordering::Relaxed);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        Self { answers, stop, asking }
    }

    async fn end(self) {
        let before = self.answers.load(Ordering::Relaxed);
        support::until(|| self.answers.load(Ordering::Relaxed) >= before + 10).await;
        self.stop.store(true, Ordering::Relaxed);
        within(self.asking).await.expect("every request was answered");
    }
}

/// Kibibytes of a line of `/proc/self/status`, as bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|found| found.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What the process holds now; its peak counts from here.
fn memory_now() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    memory("VmRSS")
}

/// Nanoseconds that the core's thread has run.
fn core_time() -> u64 {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        if std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("core-")) {
            let times = std::fs::read_to_string(task.join("schedstat")).unwrap();
            total += times.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    total
}

/// Sends until the node wants no more, and tells how that ended.
async fn flood(address: SocketAddr, begins: Vec<u8>, piece: impl Fn(u32) -> Vec<u8>) -> Outcome {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let reading = async {
        let mut outcome = Outcome::Closed;
        loop {
            let mut start = [0; 9];
            if read.read_exact(&mut start).await.is_err() {
                return outcome;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, start[0], start[1], start[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return outcome;
            }
            if start[3] == GOAWAY {
                outcome = Outcome::Goaway(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
    };
    let writing = async {
        let mut bytes = [PREFACE, &settings(&[]), &begins].concat();
        for number in 0..FRAMES {
            bytes.extend(piece(number));
            if bytes.len() > 16 * 1024 {
                if write.write_all(&bytes).await.is_err() {
                    break;
                }
                bytes.clear();
            }
        }
        let _ = write.write_all(&bytes).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = within(reading) => outcome,
        () = writing => unreachable!("it waits for the end"),
    }
}

/// What plain requests cost the core.
async fn requests(node: &Node, count: u32) -> u64 {
    let before = core_time();
    let mut client = Client::connect(node.address).await;
    for number in 0..count {
        client.send(head(2 * number + 1, END_STREAM, GET)).await;
        assert_eq!(client.outcome(2 * number + 1).await, Outcome::Status(200));
    }
    core_time() - before
}

/// What the core spends from here on, but for the requests of a bystander.
struct Meter {
    /// For one plain request.
    plain: u64,
    began: u64,
    answers: u64,
}

impl Meter {
    /// `plain` is what 500 requests cost.
    fn start(plain: u64, bystander: &Bystander) -> Self {
        Self { plain: plain / 500, began: core_time(), answers: bystander.answers.load(Ordering::Relaxed) }
    }

    /// Holds it to what so many plain requests cost.
    fn end(self, bystander: &Bystander, most: u32, what: &str) {
        let served = bystander.answers.load(Ordering::Relaxed) - self.answers;
        let spent = (core_time() - self.began).saturating_sub(served * self.plain);
        let most = self.plain * u64::from(most);
        assert!(spent < most, "{what}: {} ms of {} ms", spent / 1_000_000, most / 1_000_000);
    }
}

/// Floods a node four times over and holds it to what it may cost.
async fn withstand(node: &Node, what: &str, allowed: &[Outcome], begins: &[u8], piece: impl Fn(u32) -> Vec<u8>) {
    let plain = requests(node, 500).await;
    let bystander = Bystander::begin(node.address).await;
    let memory_before = memory_now();
    for _ in 0..4 {
        let meter = Meter::start(plain, &bystander);
        let outcome = flood(node.address, begins.to_vec(), &piece).await;
        assert!(allowed.contains(&outcome), "{what}: {outcome:?}, not {allowed:?}");
        meter.end(&bystander, REQUESTS, what);
    }
    let grown = memory("VmHWM").saturating_sub(memory_before);
    assert!(grown < MEMORY_BYTES, "{what}: {} KiB more", grown / 1024);
    bystander.end().await;
    node.until_counted(|shard| shard.connections_opened - shard.connections_closed <= 1).await;
}

const CALM: &[Outcome] = &[Outcome::Goaway(ENHANCE_YOUR_CALM)];
/// A connection that is closed with unread bytes may lose its last word.
const CALM_OR_GONE: &[Outcome] = &[Outcome::Goaway(ENHANCE_YOUR_CALM), Outcome::Closed];

fn silent(stream: u32, flags: u8) -> Vec<u8> {
    head(stream, flags, &[GET[0], GET[1], GET[2], (":path", "/silent")])
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_reset() {
    let node = node(json!({})).await;
    withstand(&node, "of requests under way", CALM_OR_GONE, &[], |number| {
        let stream = 2 * number + 1;
        [silent(stream, END_STREAM), reset(stream, CANCEL)].concat()
    })
    .await;
}

/// CVE-2025-8671: the client makes the server reset the streams.
#[tokio::test]
async fn made_you_reset() {
    let node = node(json!({})).await;
    // The codec takes that for the fault of the whole connection.
    let allowed = &[Outcome::Goaway(PROTOCOL_ERROR), Outcome::Closed];
    withstand(&node, "by windows of nothing", allowed, &[], |number| {
        let stream = 2 * number + 1;
        [silent(stream, 0), window_update(stream, 0)].concat()
    })
    .await;
    withstand(&node, "by windows beyond the largest", CALM_OR_GONE, &[], |number| {
        let stream = 2 * number + 1;
        [silent(stream, 0), window_update(stream, (1 << 31) - 1)].concat()
    })
    .await;
    withstand(&node, "by data behind the end", allowed, &[], |number| {
        let stream = 2 * number + 1;
        [silent(stream, END_STREAM), frame(DATA, 0, stream, b"x")].concat()
    })
    .await;
    withstand(&node, "by a length that is wrong", CALM_OR_GONE, &[], |number| {
        let stream = 2 * number + 1;
        let announced = [GET[0], GET[1], GET[2], (":path", "/silent"), ("content-length", "1")];
        [head(stream, 0, &announced), frame(DATA, END_STREAM, stream, b"xx")].concat()
    })
    .await;
}

/// CVE-2024-27316 and its like.
#[tokio::test]
async fn continuation() {
    let node = node(json!({})).await;
    let begun = frame(HEADERS, END_STREAM, 1, &block(GET));
    withstand(&node, "of nothing", CALM_OR_GONE, &begun, |_| frame(CONTINUATION, 0, 1, &[])).await;
    let allowed = &[CALM[0], Outcome::Goaway(COMPRESSION_ERROR), Outcome::Closed];
    withstand(&node, "of fields", allowed, &begun, |number| {
        frame(CONTINUATION, 0, 1, &block(&[("x-more", &format!("{number:0200}"))]))
    })
    .await;
    let endless = [&[0x00, 0x01, b'a', 0x7f, 0xff, 0xff, 0xff, 0x07][..]].concat();
    let begun = frame(HEADERS, END_STREAM, 1, &endless);
    let allowed = &[CALM[0], Outcome::Goaway(COMPRESSION_ERROR), Outcome::Goaway(PROTOCOL_ERROR), Outcome::Closed];
    withstand(&node, "of one field without end", allowed, &begun, |_| frame(CONTINUATION, 0, 1, &[b'x'; 1024])).await;
}

/// CVE-2019-9515, CVE-2019-9512, CVE-2019-9513 and CVE-2019-9518.
#[tokio::test]
async fn frames_that_lead_to_nothing() {
    let node = node(json!({})).await;
    withstand(&node, "settings", CALM_OR_GONE, &[], |_| settings(&[])).await;
    withstand(&node, "pings", CALM_OR_GONE, &[], |_| frame(PING, 0, 0, &[7; 8])).await;
    withstand(&node, "priorities", CALM_OR_GONE, &[], |number| frame(PRIORITY, 0, 2 * number + 1, &[0, 0, 0, 0, 9]))
        .await;
    withstand(&node, "unknown frames", CALM_OR_GONE, &[], |_| frame(0xbe, 0, 0, &[])).await;
    withstand(&node, "empty data", CALM_OR_GONE, &silent(1, 0), |_| frame(DATA, 0, 1, &[])).await;
    withstand(&node, "data of padding", CALM_OR_GONE, &silent(1, 0), |_| frame(DATA, PADDED, 1, &[2, 0, 0])).await;
    withstand(&node, "resets of one stream", CALM_OR_GONE, &silent(1, 0), |_| reset(1, CANCEL)).await;
}

/// CVE-2019-9511 and CVE-2019-9517.
#[tokio::test]
async fn window_games() {
    let node = node(json!({})).await;
    withstand(&node, "growing by one", CALM_OR_GONE, &silent(1, END_STREAM), |_| window_update(1, 1)).await;
    withstand(&node, "growing and shrinking", CALM_OR_GONE, &silent(1, END_STREAM), |number| {
        settings(&[(INITIAL_WINDOW_SIZE, number % 2 * 1000)])
    })
    .await;
}

/// CVE-2026-47774 and its like: what is cheap to send and dear to hold. A long field goes into the table once, and each
/// head names it as often as a frame can.
#[tokio::test]
async fn header_bomb() {
    let node = node(json!({})).await;
    let plain = requests(&node, 500).await;
    for length in [1, 4000] {
        let bystander = Bystander::begin(node.address).await;
        let before = memory_now();
        let meter = Meter::start(plain, &bystander);
        let value = "v".repeat(length);
        let mut bomb = block(GET);
        // Literal with indexing, and then its place in the table again and again.
        let field = block(&[("b", &value)]);
        bomb.push(0x40);
        bomb.extend(&field[1..]);
        bomb.resize(16_384, 0xbe);
        let outcomes = futures_util::future::join_all((0..20).map(|_| {
            flood(node.address, settings(&[(INITIAL_WINDOW_SIZE, 0)]), |number| {
                // As many at a time as there may be.
                frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &bomb)
            })
        }))
        .await;
        for outcome in outcomes {
            assert!(CALM_OR_GONE.contains(&outcome), "{length}: {outcome:?}");
        }
        let grown = memory("VmHWM").saturating_sub(before);
        assert!(grown < MEMORY_BYTES, "{length}: {} KiB more", grown / 1024);
        meter.end(&bystander, BOMB_REQUESTS, &format!("bombs of {length}"));
        bystander.end().await;
    }
}

/// Answers that are asked for and not taken, with windows of nothing and with windows as large as they get.
/// A stream holds what was read of its service and not sent; where its window is open, and the connection is not read, as
/// much again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_streams() {
    const CLIENTS: u32 = 4;
    const STREAMS: u32 = 100;
    const PIECE_BYTES: u64 = 64 * 1024;
    const BESIDES_BYTES: u64 = 8 * 1024 * 1024;
    let node = node(json!({ "idle_time": "3s" })).await;
    let plain = requests(&node, 500).await;
    for (window, pieces) in [(0, 1), ((1 << 31) - 1, 2)] {
        let bystander = Bystander::begin(node.address).await;
        let before = memory_now();
        let meter = Meter::start(plain, &bystander);
        let mut stalled = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = Client::connect(node.address).await;
            client.send([settings(&[(INITIAL_WINDOW_SIZE, window)]), window_update(0, 1 << 30)].concat()).await;
            for number in 0..STREAMS {
                let gush = [GET[0], GET[1], GET[2], (":path", "/gush")];
                client.send(head(2 * number + 1, END_STREAM, &gush)).await;
            }
            stalled.push(client);
        }
        // They are given up for taking nothing, whatever they still hold.
        node.until_counted(|shard| shard.connections_opened - shard.connections_closed <= 1).await;
        let grown = memory("VmHWM").saturating_sub(before);
        let most = u64::from(CLIENTS * STREAMS) * pieces * PIECE_BYTES + BESIDES_BYTES;
        assert!(grown < most, "{window}: {} KiB more", grown / 1024);
        meter.end(&bystander, STALLED_REQUESTS, &format!("streams stalled by windows of {window}"));
        bystander.end().await;
    }
}

/// A client that trickles its windows open takes less than the least, and goes as well.
#[tokio::test]
async fn windows_that_trickle() {
    let node = node(json!({ "idle_time": "1s", "header_time": "2s", "body_rate": 1024 })).await;
    let mut client = Client::connect(node.address).await;
    let gush = [GET[0], GET[1], GET[2], (":path", "/gush")];
    client.send([settings(&[(INITIAL_WINDOW_SIZE, 0)]), head(1, END_STREAM, &gush)].concat()).await;
    within(async {
        while client.send(window_update(1, 1)).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
