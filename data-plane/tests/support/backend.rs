//! Services that do what they are told, right or wrong.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub type ResponseBody = BoxBody<Bytes, Infallible>;

/// A service over HTTP/1.1 that answers with `handler`.
pub async fn http<F, R>(handler: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    sockets(move |stream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        }
    })
    .await
}

/// A service that handles each connection with `handler`.
pub async fn sockets<F, R>(handler: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handler(stream));
        }
    });
    address
}

/// A service that reads one head, sends these bytes and closes.
pub async fn sends(answer: &'static str) -> SocketAddr {
    sockets(move |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

/// A service whose answer comes byte by byte and never ends.
pub async fn endless() -> SocketAddr {
    sockets(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
        while stream.write_all(b".").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A service that answers with what it got, as JSON.
pub async fn echo() -> SocketAddr {
    http(|request| async move {
        let (parts, body) = request.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]));
        let headers: Vec<Value> = headers.collect();
        let (body, trailers) = match body.collect().await {
            Ok(collected) => {
                let trailers = collected.trailers().map(|trailers| trailers.len());
                (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
            }
            Err(error) => (error.to_string(), None),
        };
        let got = json!({
            "method": parts.method.as_str(),
            "target": parts.uri.to_string(),
            "headers": headers,
            "body": body,
            "trailers": trailers,
        });
        Response::new(full(got.to_string()))
    })
    .await
}

pub fn full(text: impl Into<Bytes>) -> ResponseBody {
    Full::new(text.into()).boxed()
}
