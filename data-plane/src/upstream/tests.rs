//! Requests against services that behave, and against services that do not.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use model::config::Edit;
use model::fields::Fields;
use model::resource::Kind;
use model::snapshot::Snapshot;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::{CookieKey, RouteTerms, TimeLimits, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams};
use crate::body::Body;
use crate::clock::Clock;
use crate::dns::Names;
use crate::telemetry::{CoreTelemetry, Shard, Telemetry};

mod bodies;
mod calls;
mod hedging;
mod http2;
mod limits;
mod misbehaving;
mod pooling;
mod retries;
mod tls;

/// One core with one service, `shop`.
struct Core {
    upstreams: Upstreams,
    telemetry: Rc<CoreTelemetry>,
    snapshot: RefCell<Rc<Snapshot>>,
}

/// Runs a test as a core runs, with a service of this written form.
fn on_a_core<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test()).await.expect("the test ends");
    });
}

impl Core {
    fn new(service: Value) -> Rc<Self> {
        let clock = Clock::new();
        tokio::task::spawn_local(clock.clone().run(tokio::runtime::Handle::current()));
        let telemetry = Telemetry::without_log().seat().take(&clock);
        let names = Names::of_system(tokio::runtime::Handle::current());
        let upstreams = Upstreams::new(&clock, &telemetry, names, CookieKey::alone(), None);
        let core = Self { upstreams, telemetry, snapshot: RefCell::default() };
        core.put(service);
        Rc::new(core)
    }

    /// Serves another form of the service from now on.
    fn put(&self, service: Value) {
        self.apply(Edit::Put { kind: Kind::Service, name: "shop".into(), spec: service });
    }

    fn apply(&self, edit: Edit) {
        self.apply_all(vec![edit]);
    }

    fn apply_all(&self, edits: Vec<Edit>) {
        let before = Rc::clone(&self.snapshot.borrow());
        let (after, _) = before.apply(before.revision + 1, edits).expect("a good service");
        let after = Rc::new(after);
        self.upstreams.follow(&after, None);
        *self.snapshot.borrow_mut() = after;
    }

    async fn send(&self, request: UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        self.send_by(RouteTerms::default(), request).await
    }

    /// Sends a request of a route that says this.
    async fn send_by(
        &self,
        terms: RouteTerms<'_>,
        request: UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let snapshot = Rc::clone(&self.snapshot.borrow());
        let slot = snapshot.services.slot("shop").unwrap_or(0);
        self.upstreams.forward(&snapshot, slot, terms, request).answer().await.map_err(|unanswered| unanswered.error)
    }

    /// Sends a GET and reads the whole answer.
    async fn get(&self, path: &str) -> Result<(Fields, String), UpstreamError> {
        let response = self.send(get(path)).await?;
        let headers = response.head.headers;
        let body = response.body.collect().await.map_err(|failure| UpstreamError::BadResponse(failure.to_string()))?;
        Ok((headers, String::from_utf8(body.to_bytes().to_vec()).expect("text")))
    }

    fn shard(&self) -> Shard {
        self.telemetry.metrics.shard()
    }

    fn open(&self) -> u64 {
        self.shard().targets.values().map(|target| target.open).sum()
    }

    /// Waits until all connections are closed; those that the service has closed at rest are noticed by a sweep.
    async fn until_closed(&self) {
        until(|| {
            self.upstreams.sweep();
            self.open() == 0
        })
        .await;
    }

    fn idle(&self) -> u64 {
        self.shard().targets.values().map(|target| target.idle).sum()
    }
}

/// Runs what hyper spawns on the core that it was spawned on.
#[derive(Clone)]
struct OnThisCore;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisCore {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// So long for the head of the response.
fn within(head: Duration) -> TimeLimits {
    TimeLimits { head, exchange: None, whole: None, is_call: false }
}

fn get(path: &str) -> UpstreamRequest {
    UpstreamRequest {
        method: Method::GET,
        target: path.parse().expect("a path"),
        headers: Fields::default(),
        body: Body::empty(),
        interim: None,
        ends: None,
        time: within(Duration::from_secs(30)),
        hash: None,
        tag: None,
    }
}

fn post(path: &str, body: Body) -> UpstreamRequest {
    UpstreamRequest { method: Method::POST, body, ..get(path) }
}

fn with_field(mut request: UpstreamRequest, name: &'static str, value: &'static str) -> UpstreamRequest {
    request.headers.append(&HeaderName::from_static(name), &HeaderValue::from_static(value));
    request
}

/// Lets other tasks run until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A service whose connections are served by hand. Each gets its number.
async fn serve<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream, usize) -> F + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::task::spawn_local(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream, number));
            number += 1;
        }
    });
    address
}

/// An address where nothing listens.
async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

fn url(address: SocketAddr) -> Value {
    json!({"url": format!("http://{address}")})
}

/// Reads the head of a request; nothing if the connection ended. What is behind it stays unread.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).expect("text"))
}

fn path_of(head: &str) -> &str {
    head.split(' ').nth(1).expect("a path")
}

async fn write(stream: &mut TcpStream, text: &str) {
    // The gateway may have closed the connection, which is for the test to judge.
    let _ = stream.write_all(text.as_bytes()).await;
}

/// Answers every request with the number of its connection and its path.
async fn behave(mut stream: TcpStream, number: usize) {
    while let Some(head) = read_head(&mut stream).await {
        let path = path_of(&head);
        write(
            &mut stream,
            &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection-number: {number}\r\n\r\n{path}", path.len()),
        )
        .await;
    }
}

fn number_of(headers: &Fields) -> usize {
    headers.get_str("connection-number").expect("text").parse().expect("a number")
}
