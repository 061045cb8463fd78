//! What calls of gRPC say about their targets.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::*;

/// An answer with one message and these trailers.
fn answer(trailers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n")
}

/// A target that says this to every call.
async fn says(words: String) -> SocketAddr {
    serve(move |mut stream, _| {
        let words = words.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                write(&mut stream, &words).await;
            }
        }
    })
    .await
}

#[test]
fn a_target_is_known_by_the_codes_of_its_calls() {
    on_a_core(|| async {
        let head = |code| format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\ngrpc-status: {code}\r\n\r\n");
        for (words, is_out) in [
            (head("14"), true),
            (answer("grpc-status: 13\r\n"), true),
            (answer(""), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), true),
            ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_owned(), true),
            (head("5"), false),
            (answer("grpc-status: 5\r\n"), false),
            (answer("grpc-status: 0\r\n"), false),
        ] {
            let (one, other) = (says(words.clone()).await, says(answer("grpc-status: 0\r\n")).await);
            let core = Core::new(json!({
                "targets": [{"url": format!("http://{one}")}, {"url": format!("http://{other}")}],
                "load_balancing": "round_robin",
                "outlier_detection": {"consecutive_failures": 3},
            }));
            let health = core.telemetry.health.clone();
            health.follow(&Arc::new(Snapshot::clone(&core.snapshot.borrow())));
            let names = Names::of_system(tokio::runtime::Handle::current());
            tokio::task::spawn_local(health.clone().watch(names, CancellationToken::new()));
            for _ in 0..20 {
                let time = TimeLimits { is_call: true, ..within(Duration::from_secs(30)) };
                let response = core.send(UpstreamRequest { time, ..get("/") }).await.expect("an answer");
                response.body.collect().await.expect("it ends");
            }
            if is_out {
                until(|| !health.troubles(9).is_empty()).await;
                assert_eq!(health.troubles(9)[0].1.port, one.port());
            }
            assert_eq!(health.troubles(9).len(), usize::from(is_out), "{words}");
        }
    });
}
