//! Requests that are tried again: on which failures, with what, how often, and never more than the budget allows.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::resource::route::RouteRetries;

use super::*;
use crate::upstream::{End, TimeLimits};

/// Answers with these statuses, one for each request, and with 200 from then on; what it was sent is told.
pub(super) async fn scripted(statuses: &'static [&'static str]) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    let address = serve(move |mut stream, _| {
        let log = Rc::clone(&log);
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let number = log.borrow().len();
                log.borrow_mut().push(request);
                match statuses.get(number) {
                    Some(&"close") => return,
                    Some(&"hang") => std::future::pending().await,
                    Some(status) => {
                        write(&mut stream, &format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nsad.")).await;
                    }
                    None => write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await,
                }
            }
        }
    })
    .await;
    (address, seen)
}

/// A request with its body, as it came.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = read_head(stream).await?;
    if let Some(length) = request.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        let mut body = vec![0; length.parse().expect("a length")];
        stream.read_exact(&mut body).await.ok()?;
        request.push_str(&String::from_utf8(body).expect("text"));
    }
    if request.contains("transfer-encoding: chunked") {
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await.ok()?);
        }
        request.push_str(&String::from_utf8(body).expect("text"));
    }
    Some(request)
}

fn with_retries(address: SocketAddr, retries: impl Into<Value>) -> Value {
    let retries: Value = retries.into();
    json!({"url": format!("http://{address}"), "retries": retries})
}

pub(super) fn put(body: Body) -> UpstreamRequest {
    UpstreamRequest { method: Method::PUT, ..post("/thing?a=b", body) }
}

#[test]
fn what_is_sent_again_is_the_same_to_the_letter() {
    on_a_core(|| async {
        let statuses = json!({"attempts": 2, "statuses": [503], "backoff": {"base": "1ms"}});
        for retries in [json!({"attempts": 2, "backoff": {"base": "1ms"}}), statuses] {
            let script: &[&str] =
                if retries["statuses"].is_null() { &["close", "close"] } else { &["503 No", "503 No"] };
            let (address, seen) = scripted(script).await;
            let core = Core::new(with_retries(address, retries));
            let request = with_field(put(Body::full(Bytes::from_static(b"the body"))), "x-tag", "kept");
            let response = core.send(request).await.expect("an answer");
            assert_eq!((response.head.status, response.attempts), (StatusCode::OK, 3));
            let seen = seen.borrow();
            assert_eq!(seen.len(), 3);
            assert!(seen[0].starts_with("PUT /thing?a=b ") && seen[0].contains("x-tag: kept"), "{}", seen[0]);
            assert!(seen[0].ends_with("the body"), "{}", seen[0]);
            assert!(seen.iter().all(|request| *request == seen[0]), "{seen:?}");
            assert_eq!(core.shard().services["shop"].retries.values().sum::<u64>(), 2);
        }
    });
}

#[test]
fn an_answer_that_is_not_worth_a_retry_goes_to_the_client_as_it_is() {
    on_a_core(|| async {
        let retries = json!({"statuses": [503], "backoff": {"base": "1ms"}});
        for (script, method, expected, attempts) in [
            (&["503 No", "503 No"][..], Method::GET, 503, 2),
            (&["503 No"][..], Method::POST, 503, 1),
            (&["500 No"][..], Method::GET, 500, 1),
            (&["503 No\r\nretry-after: 2"][..], Method::GET, 503, 1),
            (&["503 No\r\nretry-after: 0"][..], Method::GET, 200, 2),
        ] {
            let (address, seen) = scripted(script).await;
            let core = Core::new(with_retries(address, retries.clone()));
            let request = UpstreamRequest { method, ..get("/") };
            let response = core.send(request).await.expect("an answer");
            assert_eq!((response.head.status.as_u16(), response.attempts), (expected, attempts), "{script:?}");
            let body = response.body.collect().await.expect("a body").to_bytes();
            assert_eq!(body, if expected == 200 { "ok" } else { "sad." });
            assert_eq!(seen.borrow().len(), usize::from(attempts));
            assert_eq!(core.open(), 1, "the connection of an answer that was put aside serves on");
        }
    });
}

#[test]
fn a_route_has_retries_of_its_own() {
    on_a_core(|| async {
        let of_route = |retries: Value| -> Arc<RouteRetries> { serde_json::from_value(retries).expect("retries") };
        let more = of_route(json!({"attempts": 3, "statuses": [503], "backoff": {"base": "1ms"}}));
        let none = of_route(json!({"attempts": 0}));
        for (script, retries, expected, attempts) in [
            (&["503 No", "503 No", "503 No"], Some(&more), 200, 4),
            (&["503 No", "503 No", "503 No"], None, 503, 1),
            (&["500 No", "200 OK", "200 OK"], None, 200, 2),
            (&["500 No", "200 OK", "200 OK"], Some(&none), 500, 1),
        ] {
            let (address, _) = scripted(script).await;
            let core = Core::new(with_retries(address, json!({"statuses": [500]})));
            let terms = RouteTerms { retries, ..RouteTerms::default() };
            let response = core.send_by(terms, get("/")).await.expect("an answer");
            assert_eq!((response.head.status.as_u16(), response.attempts), (expected, attempts));
        }
    });
}

#[test]
fn methods_and_failures_can_be_chosen() {
    on_a_core(|| async {
        let (address, seen) = scripted(&["hang", "close"]).await;
        let retries = json!({
            "attempts": 2, "on": ["timeout", "reset"], "methods": ["POST"], "backoff": {"base": "1ms"}
        });
        let core = Core::new(with_retries(address, retries));
        let request = UpstreamRequest {
            time: within(Duration::from_millis(20)),
            ..post("/", Body::full(Bytes::from_static(b"body")))
        };
        assert_eq!(core.send(request).await.expect("an answer").attempts, 3);
        assert_eq!(seen.borrow().len(), 3);
        let (address, seen) = scripted(&["close"]).await;
        core.put(with_retries(address, json!({"methods": ["POST"]})));
        assert!(core.get("/").await.is_err());
        assert_eq!(seen.borrow().len(), 1);
    });
}

#[test]
fn another_target_is_tried_first_and_no_answer_is_waited_for_twice() {
    on_a_core(|| async {
        let (bad, bad_seen) = scripted(&["500 No"; 40]).await;
        let (good, good_seen) = scripted(&[]).await;
        let targets = json!([{"url": format!("http://{bad}")}, {"url": format!("http://{good}")}]);
        let core = Core::new(json!({
            "targets": targets,
            "load_balancing": "round_robin",
            // A wait would be noticed.
            "retries": {"statuses": [500], "backoff": {"base": "1m", "max": "1m"}},
        }));
        for _ in 0..10 {
            assert_eq!(core.send(get("/")).await.expect("an answer").head.status, StatusCode::OK);
        }
        assert_eq!(good_seen.borrow().len(), 10);
        assert!(!bad_seen.borrow().is_empty());
    });
}

#[test]
fn a_service_that_fails_gets_no_more_than_its_budget() {
    on_a_core(|| async {
        let (address, seen) = scripted(&["503 No"; 2000]).await;
        let budget = json!({"percent": "10%", "per_second": 0});
        let core = Core::new(with_retries(address, json!({"attempts": 5, "statuses": [503], "budget": budget})));
        for _ in 0..200 {
            let response = core.send(get("/")).await.expect("an answer");
            assert_eq!(response.head.status, StatusCode::SERVICE_UNAVAILABLE);
            response.body.collect().await.expect("a body");
        }
        assert_eq!(seen.borrow().len(), 220);
        assert!(core.shard().services["shop"].retries_denied > 0);
        // A change of the service is no fresh start.
        core.put(with_retries(
            address,
            json!({"attempts": 4, "statuses": [503], "budget": {"percent": "10%", "per_second": 0}}),
        ));
        core.get("/").await.expect("an answer");
        assert_eq!(seen.borrow().len(), 221);
    });
}

#[test]
fn long_bodies_are_sent_once_and_cost_no_copy() {
    on_a_core(|| async {
        let (address, seen) = scripted(&["close", "close"]).await;
        let core = Core::new(with_retries(address, json!({"buffer_bytes": 10, "backoff": {"base": "1ms"}})));
        assert!(core.send(put(Body::full(Bytes::from_static(b"more than ten")))).await.is_err());
        assert_eq!(seen.borrow().len(), 1);
        assert_eq!(
            core.send(put(Body::full(Bytes::from_static(b"ten at most")[..10].to_vec().into())))
                .await
                .expect("an answer")
                .attempts,
            2
        );
        assert_eq!(seen.borrow().len(), 3);
    });
}

#[test]
fn nothing_is_begun_for_which_no_time_is_left() {
    on_a_core(|| async {
        let (address, seen) = scripted(&["503 No\r\nretry-after: 60"]).await;
        let backoff = json!({"base": "1m", "max": "1m"});
        let core = Core::new(with_retries(address, json!({"statuses": [503], "backoff": backoff})));
        let at_ns = core.upstreams.core.clock.now().monotonic_ns + 30_000_000_000;
        let whole = Some(End { at_ns, is_of_client: false });
        let time = TimeLimits { whole, ..within(Duration::from_secs(30)) };
        let response = core.send(UpstreamRequest { time, ..get("/") }).await.expect("an answer");
        assert_eq!(response.head.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(seen.borrow().len(), 1);
    });
}

/// A service on a thread of its own, so that it closes a connection while the core does not look: it answers one request
/// on each, and closes it when it is told to.
fn closes_when_told() -> (SocketAddr, std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let ((tell, told), (done, closed)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.expect("a connection"), Vec::new());
            while !head.ends_with(b"once") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("it is taken");
            if told.recv().is_err() {
                return;
            }
            drop(stream);
            done.send(()).expect("the test waits");
        }
    });
    (address, tell, closed)
}

#[test]
fn a_connection_that_was_closed_a_moment_ago_costs_no_request_of_any_method() {
    on_a_core(|| async {
        let (address, tell, closed) = closes_when_told();
        let core = Core::new(url(address));
        for _ in 0..20 {
            let request = post("/", Body::full(Bytes::from_static(b"once")));
            let response = core.send(request).await.expect("an answer");
            response.body.collect().await.expect("a body");
            // Nothing here gives the runtime the time to learn of it.
            tell.send(()).expect("the service waits");
            closed.recv().expect("it has closed");
        }
        assert_eq!(core.shard().targets[&address.to_string()].requests, 20, "none was sent twice");
    });
}

/// A service of HTTP/2 by hand, which is given each stream that opens.
async fn by_frames(on_stream: impl Fn(usize, u32) -> Vec<(u8, u8, u32, Vec<u8>)> + Clone + 'static) -> SocketAddr {
    serve(move |mut stream, number| {
        let on_stream = on_stream.clone();
        async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.expect("a preface");
            send_frame(&mut stream, 4, 0, 0, &[]).await;
            loop {
                let mut head = [0; 9];
                if stream.read_exact(&mut head).await.is_err() {
                    return;
                }
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).await.expect("a whole frame");
                let id = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
                // The end of the request: of its head, or of its body.
                if matches!(head[3], 0 | 1) && head[4] & 1 == 1 {
                    for (kind, flags, stream_id, payload) in on_stream(number, id) {
                        send_frame(&mut stream, kind, flags, stream_id, &payload).await;
                    }
                }
                if head[3] == 4 && head[4] == 0 {
                    send_frame(&mut stream, 4, 1, 0, &[]).await;
                }
            }
        }
    })
    .await
}

async fn send_frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
    let _ = stream.write_all(&[&head, payload].concat()).await;
}

#[test]
fn a_request_that_was_not_looked_at_is_sent_again_whatever_its_method() {
    /// `:status: 204`, and the end of the stream.
    fn good(id: u32) -> (u8, u8, u32, Vec<u8>) {
        (1, 5, id, vec![0x89])
    }
    on_a_core(|| async {
        // A stream that is refused.
        let refusals = Rc::new(Cell::new(0));
        let count = Rc::clone(&refusals);
        let refuses = by_frames(move |_, id| {
            count.set(count.get() + 1);
            if count.get() == 1 { vec![(3, 0, id, 7u32.to_be_bytes().to_vec())] } else { vec![good(id)] }
        })
        .await;
        // A goodbye that names the streams before this one as the last.
        let leaves = by_frames(|number, id| {
            if number > 0 {
                return vec![good(id)];
            }
            let last = [id.saturating_sub(2).to_be_bytes(), 0u32.to_be_bytes()].concat();
            if id == 1 { vec![good(id)] } else { vec![(7, 0, 0, last)] }
        })
        .await;
        for address in [refuses, leaves] {
            let core = Core::new(json!({"url": format!("http://{address}"), "protocol": "http2"}));
            for _ in 0..2 {
                let response = core.send(post("/", Body::full(Bytes::from_static(b"once")))).await.expect("an answer");
                assert_eq!(response.head.status, StatusCode::NO_CONTENT);
            }
            assert_eq!(core.shard().services["shop"].retries["refused-stream"], 1);
        }
        // A stream that is cancelled may have had an effect.
        let cancels = by_frames(|_, id| vec![(3, 0, id, 8u32.to_be_bytes().to_vec())]).await;
        let core = Core::new(json!({"url": format!("http://{cancels}"), "protocol": "http2"}));
        assert!(core.send(post("/", Body::empty())).await.is_err());
        assert!(core.shard().services["shop"].retries.is_empty());
    });
}

#[test]
fn a_call_of_grpc_that_found_nobody_is_made_again() {
    on_a_core(|| async {
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let address = serve(move |stream, _| {
            let count = Rc::clone(&count);
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    count.set(count.get() + 1);
                    let code = if count.get() < 3 { "14" } else { "0" };
                    async move {
                        let body = request.into_body().collect().await.expect("a body").to_bytes();
                        assert_eq!(body, "call");
                        let response = Response::builder().header("grpc-status", code);
                        Ok::<_, Infallible>(response.body(Full::new(Bytes::new())).expect("a response"))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(OnThisCore);
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await;
        let retries = json!({
            "attempts": 2, "grpc_codes": ["unavailable"], "methods": ["POST"], "backoff": {"base": "1ms"}
        });
        let core = Core::new(json!({"url": format!("http://{address}"), "protocol": "http2", "retries": retries}));
        let response = core.send(post("/", Body::full(Bytes::from_static(b"call")))).await.expect("an answer");
        assert_eq!((response.head.headers.get_str("grpc-status"), calls.get()), (Some("0"), 3));
    });
}
