//! The API on a real socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::harness::{ADMIN, Api};
use crate::api::serve;

#[tokio::test]
async fn it_serves_until_it_is_asked_to_stop_and_finishes_what_it_began() {
    let api = Api::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, api.state.clone(), stop.clone()));

    let mut idle = TcpStream::connect(address).await.expect("it listens");
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("it reads");
    assert!(read_until(&mut idle, "\"ok\"}\n").await.starts_with("HTTP/1.1 200 OK\r\n"));

    let mut busy = TcpStream::connect(address).await.expect("it listens");
    let body = "{\"url\":\"http://127.0.0.1:9\"}";
    let head = format!(
        "PUT /v1/gateways/default/services/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    busy.write_all(head.as_bytes()).await.expect("it reads");
    // From here on the request is in flight: the handler asked for its body.
    read_until(&mut busy, "100 Continue\r\n\r\n").await;
    stop.cancel();
    let mut rest = String::new();
    idle.read_to_string(&mut rest).await.expect("an idle connection is closed");
    busy.write_all(body.as_bytes()).await.expect("it still reads");
    busy.read_to_string(&mut rest).await.expect("it answers and closes");
    assert!(rest.starts_with("HTTP/1.1 201 Created\r\n"), "{rest}");
    server.await.expect("it ends");
    assert_eq!(api.revision(), 1);
    TcpStream::connect(address).await.expect_err("nobody listens any more");
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(stream.read_u8().await.expect("more of the answer"));
    }
    String::from_utf8(text).expect("UTF-8")
}
