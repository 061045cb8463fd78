//! Requests beyond what a service may be given: they wait in their order, and no longer or more than they may.

use std::cell::Cell;

use futures_util::future::join_all;
use model::resource::route::Importance;
use tokio::sync::Semaphore;

use super::*;

/// A service that answers one request for each permit, and counts those that it has.
struct Slow {
    permits: Rc<Semaphore>,
    now: Rc<Cell<usize>>,
    most: Rc<Cell<usize>>,
    seen: Rc<RefCell<Vec<String>>>,
}

impl Slow {
    fn new() -> Self {
        let (now, most, seen) = (Rc::default(), Rc::default(), Rc::default());
        Self { permits: Rc::new(Semaphore::new(0)), now, most, seen }
    }

    async fn serve(&self) -> SocketAddr {
        let (permits, now, most, seen) =
            (Rc::clone(&self.permits), Rc::clone(&self.now), Rc::clone(&self.most), Rc::clone(&self.seen));
        serve(move |mut stream, _| {
            let (permits, now, most, seen) = (Rc::clone(&permits), Rc::clone(&now), Rc::clone(&most), Rc::clone(&seen));
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    seen.borrow_mut().push(path_of(&head).to_owned());
                    now.set(now.get() + 1);
                    most.set(most.get().max(now.get()));
                    permits.acquire().await.expect("it stays open").forget();
                    now.set(now.get() - 1);
                    write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            }
        })
        .await
    }
}

fn pending(core: &Core) -> u32 {
    core.snapshot.borrow().services.get(0).expect("a service").gates.pending.inside()
}

#[test]
fn requests_wait_for_a_place_in_their_order_and_the_newest_is_sent_away() {
    on_a_core(|| async {
        let slow = Slow::new();
        let mut service = url(slow.serve().await);
        service["limits"] = json!({"requests": 2, "pending": 3, "pending_timeout": "1m"});
        let core = Core::new(service.clone());
        let all: Vec<_> = (0..5)
            .map(|number| {
                let core = Rc::clone(&core);
                tokio::task::spawn_local(async move { core.get(&format!("/{number}")).await })
            })
            .collect();
        until(|| pending(&core) == 3 && slow.now.get() == 2).await;
        let error = core.get("/too-many").await.expect_err("there is no room to wait");
        assert!(matches!(error, UpstreamError::Full), "{error}");
        let rejection = error.rejection();
        assert_eq!((rejection.status, rejection.code), (StatusCode::SERVICE_UNAVAILABLE, "upstream-full"));
        assert_eq!(rejection.fields[0].0, http::header::RETRY_AFTER);
        // A change of the service is no way around it.
        service["timeouts"] = json!({"request": "29s"});
        core.put(service);
        assert!(matches!(core.get("/too-many").await, Err(UpstreamError::Full)));
        // Long enough for each of them to have looked for a place.
        tokio::time::sleep(Duration::from_millis(50)).await;
        // One by one: what comes on two connections at a time may be seen in either order.
        for seen in 3..=5 {
            slow.permits.add_permits(1);
            until(|| slow.seen.borrow().len() == seen).await;
        }
        slow.permits.add_permits(2);
        for answer in join_all(all).await {
            answer.expect("it ends").expect("an answer");
        }
        assert_eq!((slow.most.get(), pending(&core)), (2, 0));
        assert_eq!(*slow.seen.borrow(), ["/0", "/1", "/2", "/3", "/4"]);
        slow.permits.add_permits(1);
        core.get("/").await.expect("all places are free again");
    });
}

#[test]
fn nobody_waits_longer_than_they_may_and_who_leaves_makes_room() {
    on_a_core(|| async {
        let slow = Slow::new();
        let mut service = url(slow.serve().await);
        service["limits"] = json!({"requests": 1, "pending": 1, "pending_timeout": "30ms"});
        let core = Core::new(service);
        let first = tokio::task::spawn_local({
            let core = Rc::clone(&core);
            async move { core.get("/first").await.map(drop) }
        });
        until(|| slow.now.get() == 1).await;
        assert!(matches!(core.get("/").await, Err(UpstreamError::QueueTimeout)));
        assert_eq!(core.shard().services["shop"].failures["upstream-queue-timeout"], 1);
        // A client that gives up while it waits, and one that gives up while it is served.
        assert!(tokio::time::timeout(Duration::from_millis(1), core.get("/")).await.is_err());
        assert_eq!(pending(&core), 0);
        let second = tokio::task::spawn_local({
            let core = Rc::clone(&core);
            async move { core.get("/second").await.map(drop) }
        });
        until(|| pending(&core) == 1).await;
        first.abort();
        until(|| slow.seen.borrow().len() == 2).await;
        slow.permits.add_permits(2);
        second.await.expect("it ends").expect("an answer");
    });
}

#[test]
fn a_target_that_is_full_is_passed_over() {
    on_a_core(|| async {
        let (one, two) = (Slow::new(), Slow::new());
        let targets = [one.serve().await, two.serve().await].map(|address| json!({"url": format!("http://{address}")}));
        let limits = json!({"requests_per_target": 3, "pending": 0});
        for strategy in ["round_robin", "least_request"] {
            let core = Core::new(json!({"targets": targets, "limits": limits, "load_balancing": strategy}));
            let all: Vec<_> = (0..6)
                .map(|_| {
                    let core = Rc::clone(&core);
                    tokio::task::spawn_local(async move { core.get("/").await })
                })
                .collect();
            until(|| one.now.get() == 3 && two.now.get() == 3).await;
            assert!(matches!(core.get("/").await, Err(UpstreamError::Full)));
            one.permits.add_permits(3);
            two.permits.add_permits(3);
            for answer in join_all(all).await {
                answer.expect("it ends").expect("an answer");
            }
        }
    });
}

#[test]
fn places_are_counted_across_cores() {
    on_a_core(|| async {
        let slow = Slow::new();
        let mut service = url(slow.serve().await);
        service["limits"] = json!({"requests": 1, "pending_timeout": "1m"});
        let (core, other) = (Core::new(service), Core::new(json!({"url": "http://127.0.0.1:1"})));
        // Another core with the same snapshot.
        *other.snapshot.borrow_mut() = Rc::new(Snapshot::clone(&core.snapshot.borrow()));
        other.upstreams.follow(&other.snapshot.borrow(), None);
        let mine = tokio::task::spawn_local(async move { core.get("/mine").await.map(drop) });
        until(|| slow.now.get() == 1).await;
        let theirs = tokio::task::spawn_local({
            let other = Rc::clone(&other);
            async move { other.get("/theirs").await.map(drop) }
        });
        until(|| pending(&other) == 1).await;
        slow.permits.add_permits(2);
        mine.await.expect("it ends").expect("an answer");
        theirs.await.expect("it ends").expect("an answer");
        assert_eq!(slow.most.get(), 1);
    });
}

/// Sends a request that matters so much, and goes on without waiting for it.
fn begin(core: &Rc<Core>, importance: Importance) -> tokio::task::JoinHandle<Result<UpstreamResponse, UpstreamError>> {
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let terms = RouteTerms { importance, ..RouteTerms::default() };
        core.send_by(terms, get("/")).await
    })
}

async fn read_to_the_end(all: Vec<tokio::task::JoinHandle<Result<UpstreamResponse, UpstreamError>>>) {
    join_all(all.into_iter().map(|request| async {
        let response = request.await.expect("it ends").expect("an answer");
        response.body.collect().await.expect("a body");
    }))
    .await;
}

#[test]
fn what_matters_less_is_sent_away_sooner() {
    on_a_core(|| async {
        let slow = Slow::new();
        let mut service = url(slow.serve().await);
        service["limits"] = json!({"requests": 1, "pending": 2, "pending_timeout": "1m"});
        let core = Core::new(service);
        let mut all = vec![begin(&core, Importance::Normal)];
        until(|| slow.now.get() == 1).await;
        for (importance, waiting) in [
            (Importance::Low, Some(1)),
            (Importance::Low, None),
            (Importance::Normal, Some(2)),
            (Importance::Low, None),
            (Importance::Normal, None),
            (Importance::High, Some(3)),
            (Importance::High, None),
        ] {
            let request = begin(&core, importance);
            match waiting {
                Some(waiting) => {
                    until(|| pending(&core) == waiting).await;
                    all.push(request);
                }
                None => assert!(matches!(request.await.expect("it ends"), Err(UpstreamError::Full)), "{importance:?}"),
            }
        }
        slow.permits.add_permits(4);
        read_to_the_end(all).await;
        assert_eq!(pending(&core), 0);
    });
}

#[test]
fn more_than_the_adaptive_limit_is_sent_away_at_once() {
    on_a_core(|| async {
        let slow = Slow::new();
        let mut service = url(slow.serve().await);
        service["limits"] = json!({"adaptive": {"min": 4, "max": 4}});
        let core = Core::new(service);
        let mut all = Vec::new();
        for (importance, is_in) in [
            (Importance::Low, true),
            (Importance::Low, true),
            (Importance::Low, false),
            (Importance::Normal, true),
            (Importance::Normal, true),
            (Importance::Normal, false),
            (Importance::High, true),
        ] {
            let request = begin(&core, importance);
            if is_in {
                all.push(request);
                until(|| slow.now.get() == all.len()).await;
                continue;
            }
            let error = request.await.expect("it ends").err().expect("it is too much");
            let rejection = error.rejection();
            assert_eq!((rejection.status.as_u16(), rejection.code), (503, "upstream-adaptive-limit"));
            assert_eq!(rejection.fields[0].0, http::header::RETRY_AFTER);
        }
        slow.permits.add_permits(5);
        read_to_the_end(all).await;
        let shard = core.shard();
        let shop = &shard.services["shop"];
        assert_eq!((shop.adaptive_limit, shop.failures["upstream-adaptive-limit"]), (4, 2));
        slow.permits.add_permits(1);
        core.get("/").await.expect("there is room again");
    });
}
