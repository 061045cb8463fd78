//! Services that break off, lie or talk too much: the client gets an error or its own answer, never another's.

use futures_util::future::join_all;

use super::*;

/// What a service may do instead of answering.
const MISCHIEF: [&str; 14] = [
    "nothing",
    "half-a-head",
    "garbage",
    "huge-head",
    "folded",
    "two-lengths",
    "short-body",
    "more-than-said",
    "second-answer",
    "close-said",
    "close-unsaid",
    "bad-chunk",
    "until-close",
    "switch",
];

/// Does as the path says; every answer names the request that it is for.
async fn mischief(mut stream: TcpStream, _: usize) {
    while let Some(head) = read_head(&mut stream).await {
        let path = path_of(&head).to_owned();
        let what = path.split('/').nth(1).expect("a word");
        let size = path.len();
        let answer = format!("HTTP/1.1 200 OK\r\ntag: {path}\r\n");
        let whole = format!("{answer}content-length: {size}\r\n\r\n{path}");
        let poison = "HTTP/1.1 200 OK\r\ntag: poison\r\ncontent-length: 6\r\n\r\npoison";
        let text = match what {
            "nothing" => String::new(),
            "half-a-head" => answer,
            "garbage" => "\u{1}\u{2} what?\r\n\r\n".into(),
            "huge-head" => format!("{answer}big: {}\r\n\r\n", "x".repeat(200_000)),
            "folded" => format!("{answer} folded: yes\r\ncontent-length: {size}\r\n\r\n{path}"),
            "two-lengths" => format!("{answer}content-length: 1\r\ncontent-length: {size}\r\n\r\n{path}"),
            "short-body" => format!("{answer}content-length: {}\r\n\r\n{path}", size + 1),
            "more-than-said" => format!("{whole}and more"),
            "second-answer" => format!("{whole}{poison}"),
            "close-said" => format!("{answer}connection: close\r\ncontent-length: {size}\r\n\r\n{path}{poison}"),
            "bad-chunk" => format!("{answer}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{path}\r\nzz\r\n{poison}"),
            "until-close" => format!("{answer}\r\n{path}"),
            "switch" => {
                format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n{poison}")
            }
            _ => whole,
        };
        write(&mut stream, &text).await;
        if !matches!(what, "ok" | "more-than-said" | "second-answer" | "close-said" | "bad-chunk" | "switch") {
            return;
        }
    }
}

#[test]
fn no_answer_ever_reaches_another_request() {
    on_a_core(|| async {
        let core = Core::new(url(serve(mischief).await));
        for round in 0..30 {
            let clients = (0..12).map(|client| {
                let core = &core;
                async move {
                    for step in 0..6 {
                        let what = if fastrand::bool() { "ok" } else { MISCHIEF[fastrand::usize(..MISCHIEF.len())] };
                        let path = format!("/{what}/{round}/{client}/{step}");
                        if let Ok(response) = core.send(get(&path)).await {
                            assert_eq!(response.head.status, StatusCode::OK);
                            assert_eq!(response.head.headers.get_str("tag"), Some(path.as_str()));
                            let body = response.body.collect().await;
                            if let Ok(body) = body {
                                assert_eq!(body.to_bytes(), path.as_bytes(), "all of its own and nothing else");
                            }
                        }
                    }
                }
            });
            join_all(clients).await;
        }
        until(|| core.open() == core.idle()).await;
        core.get("/ok/end").await.expect("what is left over is good");
        assert_eq!(core.shard().services["shop"].in_flight, 0);
    });
}

#[test]
fn each_mischief_ends_its_connection() {
    on_a_core(|| async {
        let core = Core::new(url(serve(mischief).await));
        for what in MISCHIEF {
            let path = format!("/{what}/once");
            match core.get(&path).await {
                Ok((headers, body)) => assert_eq!((headers.get_str("tag"), body), (Some(&*path), path.clone())),
                Err(error) => assert!(matches!(error, UpstreamError::BadResponse(_)), "{what}: {error}"),
            }
            core.until_closed().await;
        }
    });
}

#[test]
fn what_comes_while_a_connection_idles_ends_it() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, _| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            tokio::task::yield_now().await;
            write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").await;
            std::future::pending::<()>().await;
        })
        .await));
        core.get("/").await.expect("an answer");
        core.until_closed().await;
    });
}

#[test]
fn a_connection_that_was_closed_while_it_idled_costs_no_request() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, number| async move {
            read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection-number: {number}\r\n\r\n");
            write(&mut stream, &answer).await;
        })
        .await));
        for number in 0..5 {
            let (headers, _) = core.get("/").await.expect("an answer");
            assert_eq!(number_of(&headers), number);
            core.until_closed().await;
        }
    });
}

#[test]
fn a_client_that_leaves_closes_the_connection_of_its_request() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, _| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
            std::future::pending::<()>().await;
        })
        .await));
        let response = core.send(get("/")).await.expect("a head");
        assert_eq!(core.open(), 1);
        drop(response.body);
        core.until_closed().await;
        assert_eq!(core.shard().services["shop"].in_flight, 0);
    });
}

#[test]
fn answers_without_a_body_leave_a_good_connection() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, number| async move {
            while let Some(head) = read_head(&mut stream).await {
                let status = path_of(&head).trim_start_matches('/').to_owned();
                let length = if status == "204" { "" } else { "content-length: 10\r\n" };
                let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
                let answer = format!("{interim}HTTP/1.1 {status} X\r\nconnection-number: {number}\r\n{length}\r\n");
                write(&mut stream, &answer).await;
            }
        })
        .await));
        for (method, path) in [(Method::GET, "/204"), (Method::GET, "/304"), (Method::HEAD, "/200")] {
            let response = core.send(UpstreamRequest { method, ..get(path) }).await.expect("an answer");
            assert_eq!(response.head.status.as_str(), &path[1..]);
            assert_eq!(number_of(&response.head.headers), 0);
            assert!(response.body.is_empty());
        }
    });
}

/// Answers the first request of each connection, and ends the connection when the second comes: with a reset or in good
/// order. Then the request may have been seen by a service that idled too long.
async fn end_at_the_second(mut stream: TcpStream, number: usize, resets: bool, last_words: &'static str) {
    let Some(head) = read_head(&mut stream).await else { return };
    let path = path_of(&head);
    let length = path.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection-number: {number}\r\n\r\n{path}");
    write(&mut stream, &answer).await;
    read_head(&mut stream).await;
    write(&mut stream, last_words).await;
    if resets {
        stream.set_zero_linger().expect("a socket");
    }
}

#[test]
fn a_connection_that_ends_as_the_request_comes_costs_no_request_that_can_be_repeated() {
    on_a_core(|| async {
        for resets in [false, true] {
            let address = serve(move |stream, number| end_at_the_second(stream, number, resets, "")).await;
            let core = Core::new(url(address));
            core.get("/0").await.expect("an answer");
            for (number, method) in [(1, Method::GET), (2, Method::PUT), (3, Method::DELETE), (4, Method::OPTIONS)] {
                let request = with_field(UpstreamRequest { method, ..get("/again") }, "x-tag", "kept");
                let response = core.send(request).await.expect("an answer");
                assert_eq!(number_of(&response.head.headers), number);
                assert_eq!(response.body.collect().await.expect("a body").to_bytes(), "/again");
            }
            assert!(core.shard().services["shop"].failures.is_empty());
            until(|| core.open() == 1).await;
        }
    });
}

#[test]
fn what_may_have_had_an_effect_is_not_repeated_and_other_things_once() {
    on_a_core(|| async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let core = Core::new(url(serve(move |mut stream, _| {
            let log = Rc::clone(&log);
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    let path = path_of(&head).to_owned();
                    let answer = match &*path {
                        "/good" => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                        "/half" => "HTTP/1.1 200",
                        _ => "",
                    };
                    log.borrow_mut().push(path);
                    write(&mut stream, answer).await;
                    if !answer.ends_with("\n") {
                        return;
                    }
                }
            }
        })
        .await));
        let body = || Body::full(Bytes::from_static(b"body"));
        let cases = [
            post("/post", Body::empty()),
            post("/post-body", body()),
            UpstreamRequest { method: Method::PUT, ..post("/put", body()) },
            UpstreamRequest { method: Method::PUT, ..post("/long", Body::full(Bytes::from(vec![0; 70_000]))) },
            get("/half"),
        ];
        for request in cases {
            core.get("/good").await.expect("an answer");
            assert!(matches!(core.send(request).await, Err(UpstreamError::BadResponse(_))));
        }
        // On a new connection or not.
        assert!(core.get("/new").await.is_err());
        core.get("/good").await.expect("an answer");
        assert!(core.get("/never").await.is_err());
        let seen: Vec<_> = seen.borrow().iter().filter(|path| *path != "/good").cloned().collect();
        let once = ["/post", "/post-body", "/long"];
        let twice = ["/put", "/put", "/half", "/half", "/new", "/new", "/never", "/never"];
        let (seen_once, seen_twice): (Vec<_>, Vec<_>) = seen.into_iter().partition(|path| once.contains(&&**path));
        assert_eq!((&seen_once[..], &seen_twice[..]), (&once.map(str::to_owned)[..], &twice.map(str::to_owned)[..]));
    });
}

#[test]
fn a_connection_whose_service_leaves_a_part_of_the_request_unread_serves_no_other() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, number| async move {
            read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection-number: {number}\r\n\r\n");
            if number == 0 {
                // Early enough to leave something in the buffers of the gateway, late enough that it took all of it.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            write(&mut stream, &answer).await;
            std::future::pending::<()>().await;
        })
        .await));
        let body = Body::full(Bytes::from(vec![0; 32 * 1024 * 1024]));
        let response = core.send(post("/", body)).await.expect("an answer");
        assert_eq!(number_of(&response.head.headers), 0);
        drop(response);
        let (headers, _) = core.get("/next").await.expect("an answer");
        assert_eq!(number_of(&headers), 1);
    });
}
