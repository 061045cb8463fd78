//! Second attempts beside first ones that take long.

use super::retries::{put, scripted};
use super::*;

/// A target that answers nobody, and one that does, in turns; what each of them was sent.
async fn slow_and_quick() -> (Value, [Rc<RefCell<Vec<String>>>; 2]) {
    let (slow, slow_seen) = scripted(&["hang"; 100]).await;
    let (quick, quick_seen) = scripted(&[]).await;
    let targets = json!([{"url": format!("http://{slow}")}, {"url": format!("http://{quick}")}]);
    let service = json!({
        "targets": targets,
        "load_balancing": "round_robin",
        "retries": {"hedging": {"initial_delay": "200ms"}},
        // Else the slow one is not asked again.
        "outlier_detection": {"consecutive_failures": 0},
    });
    (service, [slow_seen, quick_seen])
}

#[test]
fn a_second_attempt_beside_a_slow_one_gives_the_answer() {
    on_a_core(|| async {
        let (service, [slow, quick]) = slow_and_quick().await;
        let core = Core::new(service);
        for _ in 0..8 {
            let response = core.send(put(Body::full(Bytes::from_static(b"the body")))).await.expect("an answer");
            assert_eq!(response.head.status, StatusCode::OK);
            response.body.collect().await.expect("a body");
        }
        assert_eq!((slow.borrow().len(), quick.borrow().len()), (4, 8));
        assert!(slow.borrow().iter().chain(&*quick.borrow()).all(|request| request.ends_with("the body")));
        let shard = core.shard();
        assert_eq!((shard.services["shop"].retries["hedge"], shard.services["shop"].hedges_won), (4, 4));
        // What was given up is over, and its connection is closed.
        assert_eq!((shard.services["shop"].in_flight, core.open(), core.idle()), (0, 1, 1));
    });
}

#[test]
fn only_what_may_be_repeated_and_is_at_hand_is_sent_twice() {
    on_a_core(|| async {
        for (retries, is_post) in [
            (json!({"hedging": {"initial_delay": "10ms"}}), true),
            (json!({"hedging": {"initial_delay": "10ms"}, "buffer_bytes": 3}), false),
            (json!({"hedging": {"initial_delay": "10ms"}, "budget": {"percent": "0%", "per_second": 0}}), false),
            (json!({}), false),
        ] {
            let (mut service, [slow, quick]) = slow_and_quick().await;
            service["retries"] = retries.clone();
            let core = Core::new(service);
            let mut late = 0;
            for _ in 0..4 {
                let body = Body::full(Bytes::from_static(b"body"));
                let request = if is_post { post("/", body) } else { put(body) };
                let request = UpstreamRequest { time: within(Duration::from_millis(60)), ..request };
                late += usize::from(core.send(request).await.is_err());
            }
            assert_eq!((late, slow.borrow().len(), quick.borrow().len()), (2, 2, 2), "{retries}");
        }
    });
}

#[test]
fn the_other_attempt_is_waited_for_when_one_fails() {
    on_a_core(|| async {
        // The first closes its connection, or says that it cannot, when the second is under way.
        for answer in ["", "HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nno."] {
            let (told, hears) = (Rc::new(tokio::sync::Notify::new()), Rc::new(tokio::sync::Notify::new()));
            let (second_begins, first_failed) = (Rc::clone(&told), Rc::clone(&hears));
            let bad = serve(move |mut stream, _| {
                let (second_begins, first_failed) = (Rc::clone(&second_begins), Rc::clone(&first_failed));
                async move {
                    read_head(&mut stream).await;
                    second_begins.notified().await;
                    write(&mut stream, answer).await;
                    drop(stream);
                    first_failed.notify_one();
                }
            })
            .await;
            let good = serve(move |mut stream, _| {
                let (told, hears) = (Rc::clone(&told), Rc::clone(&hears));
                async move {
                    read_head(&mut stream).await;
                    told.notify_one();
                    hears.notified().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            })
            .await;
            let core = Core::new(json!({
                // The other target gets only what the first does not answer.
                "targets": [{"url": format!("http://{bad}"), "weight": 1000}, {"url": format!("http://{good}")}],
                "load_balancing": "maglev",
                "retries": {"statuses": [503], "hedging": {"initial_delay": "10ms"}},
            }));
            let hash = {
                let snapshot = core.snapshot.borrow();
                let service = snapshot.services.get(0).expect("a service");
                let table = service.hash_table.as_ref().expect("a table");
                (0..).find(|hash| table.find(*hash, |_| true) == Some(0)).expect("most hashes")
            };
            let response = core.send(UpstreamRequest { hash: Some(hash), ..get("/") }).await.expect("an answer");
            assert_eq!((response.head.status, response.attempts), (StatusCode::OK, 2));
            assert_eq!(&*response.target, good.to_string());
        }
    });
}

#[test]
fn a_quick_answer_and_an_only_target_are_not_hedged() {
    on_a_core(|| async {
        let (address, seen) = scripted(&["hang"]).await;
        let hedging = json!({"hedging": {"initial_delay": "10ms"}});
        let core = Core::new(json!({"url": format!("http://{address}"), "retries": hedging}));
        let request = UpstreamRequest { time: within(Duration::from_millis(60)), ..get("/") };
        assert!(core.send(request).await.is_err());
        for _ in 0..60 {
            core.get("/").await.expect("an answer");
        }
        assert_eq!(seen.borrow().len(), 61);
    });
}
