//! What operators and Prometheus get to see, from requests counted on several cores.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use model::digest::Digest;
use model::resource::Name;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::sync::{Served, Status};

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn record<'a>(route: Option<(Slot, &'a Name)>, status: u16, code: Option<&'static str>) -> RequestRecord<'a> {
    RequestRecord {
        time_unix_ms: 1_795_495_541_007,
        request_id: b"id",
        method: &Method::GET,
        host: "a.example",
        path: "/",
        protocol: http::Version::HTTP_11,
        client_certificate: None,
        client: "127.0.0.1:1".parse().expect("an address"),
        user_agent: None,
        route,
        service: None,
        target: None,
        consumer: None,
        status: StatusCode::from_u16(status).ok(),
        code,
        policy: None,
        revision: 1,
        duration_ns: 700_000,
        upstream_ns: None,
        attempts: 1,
        bytes_in: 1,
        bytes_out: 2,
    }
}

/// A node that serves a revision and has no connection.
fn serving(revision: u64) -> Status {
    let served = Served { revision, digest: Digest::default(), since: Instant::now(), from_disk: true };
    Status { serving: Some(served), ..Status::default() }
}

/// Runs a core of its own, which does its work and then serves scrapes until the end of the test.
fn core(telemetry: &Telemetry, work: impl FnOnce(&Rc<CoreTelemetry>) + Send + 'static) -> CancellationToken {
    let (seat, end) = (telemetry.seat(), CancellationToken::new());
    let until = end.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let telemetry = seat.take(&Clock::new());
            work(&telemetry);
            until.cancelled().await;
        });
    });
    end
}

/// Reads OpenMetrics strictly: every sample belongs to a family that was declared above it with its type, no
/// sample stands twice, and `# EOF` ends it.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut current = "";
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (family, kind) = declared.split_once(' ').expect("a family and its type");
            assert!(families.insert(family, kind).is_none(), "{family} is declared twice");
            current = family;
        } else if !line.starts_with("# ") {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
            let suffix = sample.split('{').next().and_then(|sample| sample.strip_prefix(current));
            let suffixes: &[&str] = match families[current] {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("unknown type {other}"),
            };
            assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line} is not of {current}");
            let value = value.parse().expect("a number");
            assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} stands twice");
        }
    }
    samples
}

async fn get(address: SocketAddr, method: Method, path: &str) -> (StatusCode, String, String) {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "node");
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let content_type = head.headers["content-type"].to_str().expect("text").to_owned();
    (head.status, content_type, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn prometheus_reads_the_sum_of_all_cores() {
    let telemetry = Telemetry::without_log();
    let (shop, blog) = (name("shop"), name("blog"));
    let first = core(&telemetry, move |core| {
        core.metrics.connection_opened();
        for _ in 0..3 {
            core.metrics.request_started();
        }
        core.ended(&record(Some((0, &shop)), 200, None));
        core.ended(&record(Some((0, &shop)), 503, Some("no-target")));
        let service = core.metrics.service(0, &shop);
        service.started();
        service.failed("no-target");
    });
    let second = core(&telemetry, move |core| {
        core.metrics.request_started();
        core.ended(&record(Some((0, &name("shop"))), 204, None));
        // The slot passes to another route.
        core.ended(&record(Some((0, &blog)), 200, None));
        core.ended(&record(None, 404, Some("no-route")));
        core.metrics.connection_refused("bad-request");
        std::mem::forget(core.metrics.endpoint("10.0.0.1:80".into()));
    });
    telemetry.node.follows(serving(7));
    let samples = parse(&exposition::render(&telemetry).await);
    let value = |sample: &str| samples.get(sample).copied();
    assert_eq!(value(r#"sluice_requests_total{route="shop",code="2xx"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_requests_total{route="shop",code="5xx"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_requests_total{route="blog",code="2xx"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_requests_total{route="",code="4xx"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_request_duration_seconds_bucket{le="0.0005",route="shop"}"#), Some(0.0));
    assert_eq!(value(r#"sluice_request_duration_seconds_bucket{le="+Inf",route="shop"}"#), Some(2.0));
    assert_eq!(value(r#"sluice_rejections_total{code="no-route"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_connections_refused_total{code="bad-request"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_upstream_failures_total{service="shop",code="no-target"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_upstream_requests_in_flight{service="shop"}"#), Some(1.0));
    assert_eq!(value(r#"sluice_upstream_connections{target="10.0.0.1:80",state="idle"}"#), Some(0.0));
    assert_eq!(value("sluice_config_revision"), Some(7.0));
    assert!(value("process_resident_memory_bytes") > Some(0.0));
    first.cancel();
    second.cancel();
}

#[tokio::test]
async fn a_flood_of_routes_is_counted_together() {
    let telemetry = Telemetry::without_log();
    let end = core(&telemetry, |core| {
        for slot in 0..3000 {
            core.ended(&record(Some((slot, &name(&format!("r{slot}")))), 200, None));
        }
    });
    let shard = telemetry.gather().await;
    assert_eq!(shard.routes.len(), 2000 + 2, "with the unrouted and all others");
    assert_eq!(shard.routes["_other"].by_class[1], 1000);
    end.cancel();
}

#[tokio::test]
async fn probes_learn_the_condition_of_the_node() {
    let telemetry = Telemetry::without_log();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let port = tokio::spawn(node_port::serve(listener, telemetry.clone(), shutdown.clone()));

    let (status, _, body) = get(address, Method::GET, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    telemetry.node.follows(serving(12));
    let (status, _, body) = get(address, Method::GET, "/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["revision"], &body["connected"]), (StatusCode::OK, &12.into(), &false.into()));
    telemetry.node.drain();
    assert_eq!(get(address, Method::GET, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(address, Method::GET, "/livez").await.0, StatusCode::OK);
    parse(&get(address, Method::GET, "/metrics").await.2);
    let (status, content_type, _) = get(address, Method::GET, "/nothing").await;
    assert_eq!((status, &*content_type), (StatusCode::NOT_FOUND, "application/problem+json"));
    assert_eq!(get(address, Method::POST, "/metrics").await.0, StatusCode::METHOD_NOT_ALLOWED);

    shutdown.cancel();
    port.await.expect("it ends");
}

/// A log that somebody reads when they like.
#[derive(Clone, Default)]
struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_line_is_lost_silently_when_the_log_is_read_slowly() {
    let sink = Sink::default();
    let telemetry = Telemetry::with_log_to(Box::new(sink.clone())).expect("a thread");
    let held = sink.bytes.lock();
    let lines = 50_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let core = telemetry.seat().take(&Clock::new());
        for _ in 0..lines {
            core.ended(&record(None, 200, None));
        }
    });
    drop(held);
    telemetry.finish();
    let dropped = telemetry.log_lines_dropped();
    let written = || sink.bytes.lock().iter().filter(|byte| **byte == b'\n').count() as u64;
    // Finishing waits a bounded time, which a machine with other things to do may exceed.
    while dropped + written() < lines {
        std::thread::sleep(Duration::from_millis(1));
    }
    let written = written();
    assert!(dropped > 0 && written > 0, "{dropped} dropped, {written} written");
    assert_eq!(dropped + written, lines);
}
