//! Bodies of requests, trailers, and connections that switch protocols.

use http_body::Frame;

use super::*;

#[test]
fn a_large_request_arrives_whole_and_its_connection_serves_another() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, number| async move {
            while let Some(head) = read_head(&mut stream).await {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
                let mut body = vec![0; length.parse().expect("a number")];
                stream.read_exact(&mut body).await.expect("all of it");
                let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection-number: {number}\r\nsum: {sum}\r\ncontent-length: 0\r\n\r\n"
                );
                write(&mut stream, &answer).await;
            }
        })
        .await));
        for byte in 1..=3u8 {
            let body = Body::full(Bytes::from(vec![byte; 3_000_000]));
            let response = core.send(post("/", body)).await.expect("an answer");
            assert_eq!(response.head.headers.get_str("sum"), Some((u64::from(byte) * 3_000_000).to_string().as_str()));
            assert_eq!(number_of(&response.head.headers), 0);
            until(|| core.idle() == 1).await;
        }
    });
}

#[test]
fn an_answer_before_the_request_was_read_ends_the_connection() {
    on_a_core(|| async {
        let source = serve(|mut stream, _| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n").await;
            let _ = stream.write_all(&vec![7; 30_000_000]).await;
        });
        let hasty = serve(|mut stream, number| async move {
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 413 Too Large\r\nconnection-number: {number}\r\n");
            write(&mut stream, &format!("{head}content-length: 2\r\n\r\nno")).await;
            // It reads nothing more and keeps the connection.
            std::future::pending::<()>().await;
        });
        let upload = Core::new(url(source.await)).send(get("/")).await.expect("a body").body;
        let core = Core::new(url(hasty.await));
        let response = core.send(post("/", upload)).await.expect("an answer");
        assert_eq!(response.head.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.body.collect().await.expect("a body").to_bytes(), "no");
        assert_eq!(core.idle(), 0);
        let response = core.send(get("/")).await.expect("an answer");
        assert_eq!(number_of(&response.head.headers), 1, "it is not offered to another request");
    });
}

#[test]
fn a_service_that_takes_nothing_of_a_request_does_not_hold_it() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, _| async move {
            read_head(&mut stream).await;
            std::future::pending::<()>().await;
        })
        .await));
        let mut request = post("/", Body::full(Bytes::from(vec![7; 30_000_000])));
        request.time = within(Duration::from_millis(30));
        assert!(matches!(core.send(request).await, Err(UpstreamError::Timeout)));
        core.until_closed().await;
    });
}

#[test]
fn a_request_that_is_too_large_is_the_fault_of_the_client() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, _| async move {
            read_head(&mut stream).await;
            std::future::pending::<()>().await;
        })
        .await));
        let body = Body::full(Bytes::from(vec![7; 1000])).with_limit(999);
        let error = core.send(post("/", body)).await.err().expect("no answer");
        assert_eq!(error.rejection().status, StatusCode::PAYLOAD_TOO_LARGE);
        core.until_closed().await;
        assert!(core.shard().services["shop"].failures.is_empty());
    });
}

#[test]
fn trailers_pass() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, _| async move {
            read_head(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: sum\r\n\r\n";
            write(&mut stream, &format!("{head}3\r\nabc\r\n0\r\nsum: 6\r\n\r\n")).await;
            std::future::pending::<()>().await;
        })
        .await));
        let mut body = core.send(get("/")).await.expect("an answer").body;
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.expect("a frame"));
        }
        assert_eq!(frames[0].data_ref().map(|data| &data[..]), Some(&b"abc"[..]));
        let trailers = frames.pop().and_then(|frame: Frame<Bytes>| frame.into_trailers().ok()).expect("trailers");
        assert_eq!(trailers["sum"], "6");
        until(|| core.idle() == 1).await;
    });
}

#[test]
fn a_connection_that_switches_protocols_belongs_to_its_request() {
    on_a_core(|| async {
        let core = Core::new(url(serve(|mut stream, _| async move {
            let head = read_head(&mut stream).await.expect("a request");
            assert!(head.contains("upgrade: echo"), "{head}");
            write(&mut stream, "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello ").await;
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.expect("what was sent");
            stream.write_all(&bytes).await.expect("it is open");
        })
        .await));
        let request = with_field(with_field(get("/"), "upgrade", "echo"), "connection", "upgrade");
        let response = core.send(request).await.expect("an answer");
        assert_eq!(response.head.status, StatusCode::SWITCHING_PROTOCOLS);
        let mut stream = response.upgrade.expect("it switched").stream;
        drop(response.body);
        stream.write_all(b"world").await.expect("it is open");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "hello world");
        assert_eq!(core.idle(), 0);
    });
}
