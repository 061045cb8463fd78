//! A policy with a fault in it ends the requests that meet it, and nothing else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails, and one policy is to panic")]

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;

use data_plane::telemetry::Telemetry;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::exchange::{Exchange, ResponseHead};
use model::policy::{Outcome, Policy};
use model::resource::Kind;
use model::snapshot::{CompiledPolicy, Snapshot};
use serde_json::json;
use support::{Log, Node, backend, put, read_all, read_until, settings, taken, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Panics where the path says.
struct Faulty;

impl Policy for Faulty {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        match exchange.request.target.path() {
            "/request" => panic!("on the request"),
            "/waiting" => Outcome::Wait(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("while waiting")
            })),
            _ => Outcome::Continue,
        }
    }

    fn on_response(&self, exchange: &mut Exchange, _: &mut ResponseHead) {
        assert_ne!(exchange.request.target.path(), "/response", "on the response");
    }
}

/// A node of one core whose policy for everything is faulty.
async fn node(log: &Log) -> Node {
    let mut settings = settings();
    settings.cores = NonZeroUsize::MIN;
    let telemetry = Telemetry::with_log_to(Box::new(log.clone())).unwrap();
    let edits = vec![
        put(Kind::Policy, "faulty", json!({ "type": "headers", "apply_to": "everything" })),
        put(Kind::Service, "echo", json!({ "url": format!("http://{}", backend::echo().await) })),
        put(Kind::Route, "all", json!({ "service": "echo" })),
    ];
    let node = Node::start_telling(settings, telemetry, edits).await;
    let mut snapshot = Snapshot::clone(&node.snapshot);
    let known = snapshot.policies.find("faulty").unwrap();
    let faulty = CompiledPolicy { name: known.name.clone(), kind: known.kind, policy: Arc::new(Faulty), enabled: true };
    snapshot.policies.put(Arc::new(faulty));
    snapshot.revision += 1;
    node.cores.adopt(Arc::new(snapshot)).await.unwrap();
    node
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

const PANICS: [&str; 3] = ["/request", "/waiting", "/response"];

#[tokio::test]
async fn a_panic_ends_its_own_connection_and_is_counted_and_logged() {
    let log = Log::default();
    let node = node(&log).await;
    let mut other = TcpStream::connect(node.address).await.unwrap();
    other.write_all(b"GET /other HTTP/1.1\r\n").await.unwrap();
    taken(&other).await;
    for path in PANICS {
        assert_eq!(node.raw(request(path)).await, "", "{path}");
        let mut next = TcpStream::connect(node.address).await.unwrap();
        next.write_all(request("/next").as_bytes()).await.unwrap();
        read_until(&mut next, "}").await;
    }
    other.write_all(b"host: x\r\n\r\n").await.unwrap();
    assert!(read_until(&mut other, "}").await.contains("200 OK"));
    drop(other);

    node.until_counted(|counts| {
        let service = &counts.services["echo"];
        let targets = || counts.targets.values();
        counts.rejections.get("panic") == Some(&3)
            && counts.requests_ended == counts.requests_started
            && counts.connections_closed == counts.connections_opened
            && service.in_flight == 0
            // The answers that the policy did not let pass were not read, and their connections are closed.
            && targets().all(|target| target.open == target.idle)
    })
    .await;
    within(async {
        while log.lines().len() < 7 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let lines = log.lines();
    for path in PANICS {
        let line = lines.iter().find(|line| line["path"] == path).unwrap();
        assert_eq!((&line["code"], &line["route"]), (&"panic".into(), &"all".into()), "{line}");
    }
}

#[tokio::test]
async fn over_http_2_a_panic_ends_its_stream_and_no_other() {
    let node = node(&Log::default()).await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut send = |path: &str| {
        let request = Request::get(format!("http://x{path}")).body(Empty::<bytes::Bytes>::new()).unwrap();
        sender.send_request(request)
    };
    for path in PANICS {
        let (faulty, good) = (send(path), send("/good"));
        let (faulty, good) = within(async { tokio::join!(faulty, good) }).await;
        assert!(faulty.is_err(), "{path}");
        assert_eq!(good.unwrap().status(), 200, "{path}");
    }
    let counts = node.telemetry.gather().await;
    assert_eq!((counts.rejections["panic"], counts.connections_opened), (3, 1));
}

#[tokio::test]
async fn a_connection_stays_usable_until_its_own_panic() {
    let node = node(&Log::default()).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(request("/good").as_bytes()).await.unwrap();
        read_until(&mut stream, "}").await;
    }
    stream.write_all(request("/request").as_bytes()).await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
}
