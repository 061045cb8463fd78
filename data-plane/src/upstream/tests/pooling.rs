//! Connections are reused, bounded, and let go; targets that cannot be reached are passed over.

use std::cell::Cell;
use std::collections::BTreeSet;

use futures_util::future::join_all;
use model::resource::Key;
use tokio::sync::Semaphore;

use super::*;

#[test]
fn requests_one_after_the_other_share_a_connection() {
    on_a_core(|| async {
        let core = Core::new(url(serve(behave).await));
        for request in 0..20 {
            let (headers, body) = core.get(&format!("/{request}")).await.expect("an answer");
            assert_eq!((number_of(&headers), body), (0, format!("/{request}")));
        }
        until(|| core.idle() == 1).await;
        let shard = core.shard();
        let service = &shard.services["shop"];
        assert_eq!((core.open(), service.requests, service.in_flight), (1, 20, 0));
    });
}

#[test]
fn a_request_without_a_host_names_its_target_and_one_with_a_host_keeps_it() {
    on_a_core(|| async {
        let address = serve(|mut stream, _| async move {
            while let Some(head) = read_head(&mut stream).await {
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned();
                write(&mut stream, &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len())).await;
            }
        })
        .await;
        let core = Core::new(url(address));
        assert_eq!(core.get("/").await.expect("an answer").1, address.to_string());
        let response = core.send(with_field(get("/"), "host", "shop.example")).await.expect("an answer");
        assert_eq!(response.body.collect().await.expect("a body").to_bytes(), "shop.example");
    });
}

#[test]
fn no_more_connections_than_allowed_are_made() {
    on_a_core(|| async {
        let mut service = url(serve(|stream, _| hold(stream)).await);
        service["limits"] = json!({"connections_per_target": 4});
        let core = Core::new(service);
        let held: Vec<_> = (0..4)
            .map(|_| {
                let core = Rc::clone(&core);
                tokio::task::spawn_local(async move { core.get("/").await.map(drop) })
            })
            .collect();
        until(|| core.open() == 4).await;
        assert!(matches!(core.get("/").await, Err(UpstreamError::Overloaded)));
        assert_eq!(core.shard().services["shop"].failures["upstream-overloaded"], 1);
        // Whoever gives up frees a place.
        held[0].abort();
        until(|| core.open() == 3).await;
        let core_too = Rc::clone(&core);
        let next = tokio::task::spawn_local(async move { core_too.get("/").await.map(drop) });
        until(|| core.open() == 4).await;
        next.abort();
    });
}

/// A place in front of a target that takes connections, and lets the first one through alone, until it is told otherwise.
async fn narrow(target: SocketAddr) -> (SocketAddr, Rc<Semaphore>, Rc<Cell<usize>>) {
    let (open, seen) = (Rc::new(Semaphore::new(1)), Rc::new(Cell::new(0)));
    let (door, count) = (Rc::clone(&open), Rc::clone(&seen));
    let address = serve(move |mut stream, number| {
        count.set(number + 1);
        let door = Rc::clone(&door);
        async move {
            door.acquire().await.expect("it stays open").forget();
            let mut onward = TcpStream::connect(target).await.expect("the target listens");
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        }
    });
    (address.await, open, seen)
}

#[test]
fn who_waits_for_a_connection_takes_one_that_is_free_before_it() {
    on_a_core(|| async {
        let (target, certs) = tls::secure("shop.internal", &["http/1.1"]).await;
        let (address, open, seen) = narrow(target).await;
        let core = tls::core(address, "http1", &certs, &tls::named("shop.internal"));
        let tls = tls::named("shop.internal");
        core.put(json!({"url": format!("https://{address}"), "tls": tls, "timeouts": {"connect": "1m"}}));
        let held = core.send(get("/")).await.expect("an answer");
        let waiting = {
            let core = Rc::clone(&core);
            tokio::task::spawn_local(async move { core.get("/").await })
        };
        until(|| seen.get() == 2).await;
        held.body.collect().await.expect("a body");
        waiting.await.expect("no panic").expect("an answer, by the connection that was freed");
        // What was begun is there for whoever comes next.
        open.add_permits(1);
        until(|| core.idle() == 2).await;
        assert_eq!(core.open(), 2);
    });
}

/// Takes a request and never answers.
async fn hold(mut stream: TcpStream) {
    read_head(&mut stream).await;
    std::future::pending::<()>().await;
}

#[test]
fn a_target_that_refuses_is_passed_over() {
    on_a_core(|| async {
        for strategy in ["least_request", "round_robin"] {
            let (good, bad) = (serve(behave).await, nowhere().await);
            let targets = json!([{"url": format!("http://{good}")}, {"url": format!("http://{bad}"), "weight": 9}]);
            let core = Core::new(json!({"targets": targets, "load_balancing": strategy}));
            for _ in 0..20 {
                core.get("/").await.expect("the other target answers");
            }
            assert!(core.shard().services["shop"].connect_failures > 0);
            assert!(core.shard().services["shop"].failures.is_empty());
        }
    });
}

#[test]
fn every_reason_without_an_answer_has_its_name() {
    on_a_core(|| async {
        let (quiet, refusing) = (serve(|stream, _| hold(stream)).await, nowhere().await);
        let core = Core::new(url(refusing));
        let snapshot = Rc::clone(&core.snapshot.borrow());
        let unanswered = core
            .upstreams
            .forward(&snapshot, 0, RouteTerms::default(), get("/"))
            .answer()
            .await
            .err()
            .expect("no answer");
        assert!(matches!(unanswered.error, UpstreamError::Unreachable(_)));
        assert_eq!(unanswered.target.as_deref(), Some(&*refusing.to_string()));
        core.put(json!({"url": format!("http://{refusing}"), "enabled": false}));
        assert!(matches!(core.get("/").await, Err(UpstreamError::Disabled)));
        core.put(json!({"targets": [{"url": format!("http://{refusing}"), "weight": 0}]}));
        assert!(matches!(core.get("/").await, Err(UpstreamError::NoTarget)));
        core.put(json!({"url": "http://name.invalid:80"}));
        assert!(matches!(core.get("/").await, Err(UpstreamError::Unreachable(_))));
        core.put(url(quiet));
        let request = UpstreamRequest { time: within(Duration::from_millis(20)), ..get("/") };
        assert!(matches!(core.send(request).await, Err(UpstreamError::Timeout)));
        // An address that a TLS handshake gets no answer from.
        let tls = json!({"url": format!("https://{quiet}"), "timeouts": {"connect": "20ms"}});
        core.put(tls);
        assert!(matches!(core.get("/").await, Err(UpstreamError::ConnectTimeout)));
        core.until_closed().await;
        assert_eq!(core.shard().services["shop"].in_flight, 0);
    });
}

#[test]
fn requests_are_shared_out_by_weight() {
    on_a_core(|| async {
        let (first, second) = (serve(behave).await, serve(behave).await);
        let targets = json!([{"url": format!("http://{first}"), "weight": 3}, {"url": format!("http://{second}")}]);
        let core = Core::new(json!({"targets": targets, "load_balancing": "round_robin"}));
        join_all((0..40).map(|_| core.get("/"))).await;
        let shard = core.shard();
        let requests = [first, second].map(|address| shard.targets[&address.to_string()].requests);
        assert_eq!(requests, [30, 10]);
    });
}

#[test]
fn connections_survive_a_change_that_does_not_concern_them_and_end_with_their_service() {
    on_a_core(|| async {
        let address = serve(behave).await;
        let core = Core::new(url(address));
        core.get("/").await.expect("an answer");
        until(|| core.idle() == 1).await;
        core.put(json!({"url": format!("http://{address}"), "timeouts": {"request": "5s"}}));
        core.upstreams.sweep();
        let (headers, _) = core.get("/").await.expect("an answer");
        assert_eq!(number_of(&headers), 0, "the same connection");

        let long = core.send(get("/long")).await.expect("an answer");
        core.apply(Edit::Remove { key: Key::new(Kind::Service, "shop".parse().expect("a name")) });
        core.upstreams.sweep();
        assert_eq!(core.open(), 1, "its request is not over");
        assert_eq!(long.body.collect().await.expect("a body").to_bytes(), "/long");
        core.until_closed().await;
        assert!(matches!(core.get("/").await, Err(UpstreamError::NoTarget)));
    });
}

#[test]
fn a_target_that_leaves_finishes_what_it_serves_and_keeps_nothing() {
    on_a_core(|| async {
        let (leaving, staying) = (serve(behave).await, serve(behave).await);
        let core = Core::new(url(leaving));
        let long = core.send(get("/long")).await.expect("an answer");
        core.get("/").await.expect("an answer");
        until(|| core.idle() == 1).await;
        core.put(url(staying));
        let snapshot = Rc::clone(&core.snapshot.borrow());
        core.upstreams.follow(&snapshot, Some(&[snapshot.services.slot("shop").expect("a service")]));
        until(|| core.open() == 1).await;
        assert_eq!(core.idle(), 0);
        assert_eq!(long.body.collect().await.expect("a body").to_bytes(), "/long");
        core.until_closed().await;

        // Back again, it is used as before.
        core.put(url(leaving));
        core.get("/").await.expect("an answer");
        until(|| core.idle() == 1).await;
    });
}

#[test]
fn a_request_under_an_older_snapshot_does_not_bring_targets_back() {
    on_a_core(|| async {
        let (old, new) = (serve(behave).await, serve(behave).await);
        let core = Core::new(url(old));
        let older = Rc::clone(&core.snapshot.borrow());
        core.put(url(new));
        core.get("/").await.expect("an answer");
        let response =
            core.upstreams.forward(&older, 0, RouteTerms::default(), get("/")).answer().await.expect("an answer");
        response.body.collect().await.expect("a body");
        until(|| core.open() == 1).await;
        assert_eq!((core.shard().targets[&new.to_string()].idle, core.idle()), (1, 1));
    });
}

#[test]
fn services_with_the_same_target_share_its_connections() {
    on_a_core(|| async {
        let address = serve(behave).await;
        let core = Core::new(url(address));
        core.apply(Edit::Put { kind: Kind::Service, name: "blog".into(), spec: url(address) });
        let mut numbers = BTreeSet::new();
        for name in ["shop", "blog", "shop"] {
            let snapshot = Rc::clone(&core.snapshot.borrow());
            let slot = snapshot.services.slot(name).expect("a service");
            let response = core
                .upstreams
                .forward(&snapshot, slot, RouteTerms::default(), get("/"))
                .answer()
                .await
                .expect("an answer");
            numbers.insert(number_of(&response.head.headers));
            response.body.collect().await.expect("a body");
        }
        assert_eq!(numbers.len(), 1);
    });
}

#[test]
fn idle_and_old_connections_are_closed_when_the_core_sweeps() {
    on_a_core(|| async {
        let core = Core::new(url(serve(behave).await));
        let second = 1_000_000_000;
        let begin_ns = core.upstreams.core.clock.now().monotonic_ns;
        let sweep_at = |now_ns| {
            core.upstreams.core.swept_ns.set(now_ns);
            core.upstreams.backends.sweep(now_ns);
        };
        core.get("/").await.expect("an answer");
        sweep_at(begin_ns + 58 * second);
        assert_eq!((core.idle(), core.open()), (1, 1));
        core.get("/").await.expect("an answer");
        sweep_at(begin_ns + 116 * second);
        assert_eq!((core.idle(), core.open()), (1, 1), "it was used in between");
        sweep_at(begin_ns + 180 * second);
        core.until_closed().await;

        core.get("/").await.expect("an answer");
        let response = core.send(get("/")).await.expect("an answer");
        sweep_at(begin_ns + 3601 * second);
        response.body.collect().await.expect("a body");
        assert_eq!(core.idle(), 0, "it is too old for another request");
        core.until_closed().await;
    });
}

/// A service that says how long it waits for the next request, in its first answer.
async fn says_patience(mut stream: TcpStream, said: &'static str) {
    let mut said = format!("keep-alive: {said}\r\n");
    while read_head(&mut stream).await.is_some() {
        write(&mut stream, &format!("HTTP/1.1 200 OK\r\n{said}content-length: 0\r\n\r\n")).await;
        said.clear();
    }
}

#[test]
fn a_connection_is_closed_before_the_service_does_it() {
    on_a_core(|| async {
        // How long it was when a sweep kept it, and when another did not.
        for (said, configured, kept, closed) in [
            ("timeout=5", "1m", 2, 4),
            ("max=100, Timeout=20", "1m", 17, 20),
            ("timeout=20", "5s", 3, 5),
            ("timeout=600", "1m", 58, 60),
            ("timeout=x", "1m", 58, 60),
            ("max=5", "1h", 3598, 3600),
        ] {
            let mut service = url(serve(move |stream, _| says_patience(stream, said)).await);
            service["connections"] = json!({"max_idle": configured, "max_age": "2h"});
            let core = Core::new(service);
            core.get("/").await.expect("an answer");
            core.get("/").await.expect("an answer");
            let begin_ns = core.upstreams.core.swept_ns.get();
            for (seconds, expected) in [(kept, 1), (closed, 0)] {
                core.upstreams.backends.sweep(begin_ns + seconds * 1_000_000_000);
                assert_eq!(core.idle(), expected, "{said}, {configured}: after {seconds} s");
            }
            core.until_closed().await;
        }
        let core = Core::new(url(serve(|stream, _| says_patience(stream, "timeout=1")).await));
        core.get("/").await.expect("an answer");
        core.until_closed().await;
    });
}

#[test]
fn a_connection_serves_as_many_requests_as_it_may() {
    on_a_core(|| async {
        let mut service = url(serve(behave).await);
        service["connections"] = json!({"max_requests": 5});
        let core = Core::new(service);
        for request in 0..15 {
            let (headers, _) = core.get("/").await.expect("an answer");
            assert_eq!(number_of(&headers), request / 5);
        }
        core.until_closed().await;
    });
}

#[test]
fn an_address_that_refuses_costs_no_request_if_there_is_another() {
    on_a_core(|| async {
        // On most machines `localhost` has an address of each family; this listens on one.
        let address = serve(behave).await;
        let core = Core::new(json!({"url": format!("http://localhost:{}", address.port())}));
        core.get("/").await.expect("an answer");
        assert_eq!(core.shard().services["shop"].connect_failures, 0);
    });
}
