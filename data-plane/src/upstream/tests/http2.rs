//! HTTP/2 by prior knowledge: shared connections, their end, and refusals.

use std::cell::Cell;
use std::convert::Infallible;

use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use super::*;

fn prior_knowledge(address: SocketAddr) -> Value {
    json!({"url": format!("http://{address}"), "protocol": "http2"})
}

/// A service that answers when `together` requests have come in.
#[derive(Clone)]
struct Gathering {
    together: usize,
    waiting: Rc<Cell<usize>>,
    enough: Rc<Notify>,
}

impl Gathering {
    fn of(together: usize) -> Self {
        Self { together, waiting: Rc::default(), enough: Rc::default() }
    }

    async fn answer(self, number: usize, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let enough = self.enough.notified();
        self.waiting.set(self.waiting.get() + 1);
        if self.waiting.get() < self.together {
            enough.await;
        } else {
            self.enough.notify_waiters();
        }
        let body = Full::new(Bytes::from(request.uri().to_string()));
        let response = Response::builder().header("connection-number", number);
        Ok(response.body(body).expect("a response"))
    }

    async fn serve(self) -> SocketAddr {
        serve(move |stream, number| {
            let this = self.clone();
            async move {
                let service = service_fn(move |request| this.clone().answer(number, request));
                let mut builder = hyper::server::conn::http2::Builder::new(OnThisCore);
                let _ = builder.max_concurrent_streams(200).serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await
    }
}

#[test]
fn requests_share_a_connection() {
    on_a_core(|| async {
        let address = Gathering::of(60).serve().await;
        let core = Core::new(prior_knowledge(address));
        let answers = join_all((0..60).map(|request| {
            let core = &core;
            async move { core.get(&format!("/{request}")).await }
        }));
        for (request, answer) in answers.await.into_iter().enumerate() {
            let (headers, body) = answer.expect("an answer");
            assert_eq!(body, format!("http://{address}/{request}"));
            assert_eq!(number_of(&headers), 0);
        }
        assert_eq!(core.open(), 1);
        assert_eq!(core.shard().services["shop"].in_flight, 0);
    });
}

#[test]
fn more_requests_than_a_connection_may_carry_get_another() {
    on_a_core(|| async {
        let core = Core::new(prior_knowledge(Gathering::of(250).serve().await));
        let answers = join_all((0..250).map(|_| core.get("/"))).await;
        let mut carried = [0; 3];
        for answer in answers {
            carried[number_of(&answer.expect("an answer").0)] += 1;
        }
        assert_eq!(carried, [100, 100, 50]);
    });
}

#[test]
fn the_host_of_the_client_becomes_the_authority() {
    on_a_core(|| async {
        let core = Core::new(prior_knowledge(Gathering::of(1).serve().await));
        let response = core.send(with_field(get("/a?b"), "host", "shop.example")).await.expect("an answer");
        assert_eq!(response.body.collect().await.expect("a body").to_bytes(), "http://shop.example/a?b");
    });
}

#[test]
fn a_wish_to_switch_protocols_is_passed_over() {
    on_a_core(|| async {
        let address = Gathering::of(1).serve().await;
        let core = Core::new(prior_knowledge(address));
        let request = with_field(with_field(get("/"), "upgrade", "websocket"), "connection", "upgrade");
        let response = core.send(request).await.expect("an answer");
        assert_eq!(response.body.collect().await.expect("a body").to_bytes(), format!("http://{address}/"));
        assert_eq!(core.open(), 1);
    });
}

#[test]
fn a_connection_that_says_goodbye_gets_no_further_request() {
    on_a_core(|| async {
        let address = serve(|stream, number| async move {
            let goodbye = Rc::new(Notify::new());
            let told = Rc::clone(&goodbye);
            let service = service_fn(move |_: Request<Incoming>| {
                told.notify_one();
                async move {
                    let response = Response::builder().header("connection-number", number);
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::new())).expect("a response"))
                }
            });
            let connection =
                hyper::server::conn::http2::Builder::new(OnThisCore).serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = goodbye.notified() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        })
        .await;
        let core = Core::new(prior_knowledge(address));
        for number in 0..5 {
            let (headers, _) = core.get("/").await.expect("an answer");
            assert_eq!(number_of(&headers), number);
            core.until_closed().await;
        }
    });
}

/// A frame of HTTP/2: type, flags, stream, payload.
async fn frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    let _ = stream.write_all(&bytes).await;
}

#[test]
fn a_stream_that_is_refused_is_an_error_of_its_request_alone() {
    on_a_core(|| async {
        let address = serve(|mut stream, _| async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.expect("the preface");
            frame(&mut stream, 4, 0, 0, &[]).await;
            let mut seen = 0;
            loop {
                let mut head = [0; 9];
                if stream.read_exact(&mut head).await.is_err() {
                    return;
                }
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).await.expect("a whole frame");
                let id = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
                match (head[3], seen) {
                    (1, 0) => {
                        seen += 1;
                        frame(&mut stream, 3, 0, id, &7u32.to_be_bytes()).await;
                    }
                    // `:status: 204` from the static table, with the end of the stream.
                    (1, _) => frame(&mut stream, 1, 5, id, &[0x89]).await,
                    (4, _) if head[4] == 0 => frame(&mut stream, 4, 1, 0, &[]).await,
                    _ => {}
                }
            }
        })
        .await;
        let mut service = prior_knowledge(address);
        service["retries"] = json!({"attempts": 0});
        let core = Core::new(service);
        assert!(matches!(core.get("/").await, Err(UpstreamError::BadResponse(_))));
        let response = core.send(get("/")).await.expect("an answer");
        assert_eq!(response.head.status, StatusCode::NO_CONTENT);
        assert_eq!(core.open(), 1);
    });
}

#[test]
fn a_service_that_speaks_no_http2_is_a_bad_gateway() {
    on_a_core(|| async {
        let core = Core::new(prior_knowledge(
            serve(|mut stream, _| async move { write(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n").await }).await,
        ));
        let error = core.get("/").await.expect_err("no answer");
        assert_eq!(error.rejection().status, StatusCode::BAD_GATEWAY, "{error}");
        core.until_closed().await;
    });
}

#[test]
fn a_connection_that_went_silent_gets_no_further_request() {
    on_a_core(|| async {
        // It answers the first request of a connection and no other.
        let address = serve(|stream, number| async move {
            let is_first = Cell::new(true);
            let service = service_fn(move |_: Request<Incoming>| {
                let is_first = is_first.replace(false);
                async move {
                    if !is_first {
                        std::future::pending::<()>().await;
                    }
                    let response = Response::builder().header("connection-number", number);
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::new())).expect("a response"))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(OnThisCore);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        })
        .await;
        let core = Core::new(prior_knowledge(address));
        for number in 0..3 {
            let (headers, _) = core.get("/").await.expect("an answer");
            assert_eq!(number_of(&headers), number);
            let request = UpstreamRequest { time: within(Duration::from_millis(10)), ..get("/") };
            assert!(matches!(core.send(request).await, Err(UpstreamError::Timeout)));
        }
    });
}

/// A service that begins an answer on every stream, without an end, and says which connection that is in a piece of it. It
/// answers one PING, with another piece on stream 1 behind that, and after that it is silent. Every PING is counted.
async fn falls_silent(mut stream: TcpStream, number: usize, pings: Rc<Cell<usize>>) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.expect("the preface");
    frame(&mut stream, 4, 0, 0, &[]).await;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.expect("a whole frame");
        let id = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
        match head[3] {
            // `:status: 200` from the static table.
            1 => {
                frame(&mut stream, 1, 4, id, &[0x88]).await;
                frame(&mut stream, 0, 0, id, number.to_string().as_bytes()).await;
            }
            4 if head[4] == 0 => frame(&mut stream, 4, 1, 0, &[]).await,
            6 if head[4] == 0 => {
                pings.set(pings.get() + 1);
                if pings.get() == 1 {
                    frame(&mut stream, 6, 1, 0, &payload).await;
                    frame(&mut stream, 0, 0, 1, b"still here").await;
                }
            }
            _ => {}
        }
    }
}

/// The next piece of a body, if it goes on.
async fn piece(body: &mut Body) -> Option<Bytes> {
    body.frame().await?.ok()?.into_data().ok()
}

#[test]
fn a_connection_that_dies_under_its_requests_is_asked_and_given_up() {
    // Whether it takes further requests or not.
    for max_requests in [None, Some(1)] {
        on_a_core(|| async {
            let pings = Rc::new(Cell::new(0));
            let count = Rc::clone(&pings);
            let mut service =
                prior_knowledge(serve(move |stream, number| falls_silent(stream, number, Rc::clone(&count))).await);
            service["connections"] = json!({"max_requests": max_requests});
            let core = Core::new(service);
            let begin_ns = core.upstreams.core.clock.now().monotonic_ns;
            let look_after = |seconds: u64| core.upstreams.backends.sweep(begin_ns + seconds * 1_000_000_000);
            let mut body = core.send(get("/")).await.expect("an answer").body;
            assert_eq!(piece(&mut body).await.as_deref(), Some(&b"0"[..]));

            // What came is seen by the first look; from then on it is quiet.
            [100, 129].into_iter().for_each(look_after);
            assert_eq!(core.open(), 1);
            look_after(130);
            assert_eq!(
                piece(&mut body).await.as_deref(),
                Some(&b"still here"[..]),
                "the answer to a PING is before it"
            );
            // It is not asked again so soon, though it is quiet: no response has begun since.
            [131, 170, 250, 429].into_iter().for_each(look_after);
            look_after(430);
            until(|| pings.get() == 2).await;
            look_after(439);
            assert_eq!((core.open(), pings.get()), (1, 2));
            look_after(440);
            assert_eq!(piece(&mut body).await, None);
            until(|| core.open() == 0).await;
            let mut body = core.send(get("/")).await.expect("an answer").body;
            assert_eq!(piece(&mut body).await.as_deref(), Some(&b"1"[..]));
        });
    }
}

#[test]
fn a_connection_without_requests_is_not_asked() {
    on_a_core(|| async {
        let pings = Rc::new(Cell::new(0));
        let count = Rc::clone(&pings);
        let mut service =
            prior_knowledge(serve(move |stream, number| falls_silent(stream, number, Rc::clone(&count))).await);
        service["connections"] = json!({"max_idle": "1h"});
        let core = Core::new(service);
        let begin_ns = core.upstreams.core.clock.now().monotonic_ns;
        let look_after = |seconds: u64| core.upstreams.backends.sweep(begin_ns + seconds * 1_000_000_000);
        core.send(get("/")).await.expect("an answer");
        [100, 200, 300].into_iter().for_each(look_after);
        let mut body = core.send(get("/")).await.expect("an answer").body;
        assert_eq!(piece(&mut body).await.as_deref(), Some(&b"0"[..]), "the same connection");
        // A PING that was sent before the request would have been counted by now.
        assert_eq!(pings.get(), 0);
        [301, 330].into_iter().for_each(look_after);
        look_after(331);
        until(|| pings.get() == 1).await;
    });
}

#[test]
fn a_request_that_is_too_large_ends_its_stream_and_not_the_connection() {
    on_a_core(|| async {
        let core = Core::new(prior_knowledge(Gathering::of(1).serve().await));
        core.get("/").await.expect("an answer");
        let body = Body::full(Bytes::from(vec![7; 1000])).with_limit(999);
        match core.send(post("/", body)).await {
            // It may have answered before it learnt of the end.
            Ok(_) => {}
            Err(error) => assert_eq!(error.rejection().status, StatusCode::PAYLOAD_TOO_LARGE),
        }
        assert_eq!(number_of(&core.get("/").await.expect("an answer").0), 0);
    });
}
