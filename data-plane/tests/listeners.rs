//! Listeners that appear, change and vanish by configuration, and nodes that leave.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use model::resource::Kind;
use rustls::pki_types::ServerName;
use serde_json::json;
use support::{Node, free_address, put, raw, read_all, read_until, remove, respond, taken, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_taken_port_refuses_the_revision_and_changes_nothing() {
    let mut node = Node::start(vec![put(Kind::Route, "all", respond("first"))]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let change = vec![
        put(Kind::Route, "all", respond("second")),
        put(Kind::Listener, "second", json!({ "bind": bind.to_string() })),
    ];
    let problems = node.change(change.clone()).await.unwrap_err();
    let problem = &problems[0];
    assert_eq!(
        (problem.name.as_deref(), &*problem.pointer, &*problem.code),
        (Some("second"), "/bind", "address-in-use")
    );
    assert!(problem.message.contains(&format!("process {}", std::process::id())), "{}", problem.message);
    assert!(node.raw(REQUEST).await.ends_with("first"));
    drop(taken);
    node.change(change).await.unwrap();
    assert!(raw(bind, REQUEST).await.ends_with("second"));
}

#[tokio::test]
async fn listeners_come_and_go_without_a_failed_request_on_another() {
    let mut node = Node::start(vec![put(Kind::Route, "all", respond("ok"))]).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let traffic = tokio::spawn({
        let (stop, served, address) = (stop.clone(), served.clone(), node.address);
        async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = raw(address, REQUEST).await;
                assert!(answer.ends_with("ok"), "{answer:?}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let second = free_address();
    for round in 0..20 {
        node.change(vec![put(Kind::Listener, "second", json!({ "bind": second.to_string() }))]).await.unwrap();
        assert!(raw(second, REQUEST).await.ends_with("ok"));
        node.change(vec![remove(Kind::Listener, "second")]).await.unwrap();
        let before = served.load(Ordering::Relaxed);
        while served.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        assert!(TcpStream::connect(second).await.is_err(), "round {round}");
        assert!(!traffic.is_finished(), "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    within(traffic).await.unwrap();
}

#[tokio::test]
async fn a_vanished_listener_lets_its_clients_go() {
    let mut node = Node::start(vec![put(Kind::Route, "all", respond("ok"))]).await;
    let second = free_address();
    node.change(vec![put(Kind::Listener, "second", json!({ "bind": second.to_string() }))]).await.unwrap();
    let mut idle = TcpStream::connect(second).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok").await;
    let mut half = TcpStream::connect(second).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    taken(&half).await;
    node.change(vec![remove(Kind::Listener, "second")]).await.unwrap();
    assert_eq!(read_all(&mut idle).await, "");
    half.write_all(b"host: x\r\n\r\n").await.unwrap();
    let answer = read_all(&mut half).await;
    assert!(answer.contains("connection: close") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn draining_ends_idle_connections_and_lets_begun_requests_end() {
    // One core, so that all connections are asked to go at once.
    let mut settings = support::settings();
    settings.cores = std::num::NonZeroUsize::MIN;
    let node = Node::start_with(settings, vec![put(Kind::Route, "all", respond("ok"))]).await;
    let mut fresh = TcpStream::connect(node.address).await.unwrap();
    let mut half = TcpStream::connect(node.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    taken(&half).await;
    let cores = node.cores.clone();
    let drained = tokio::spawn(async move { cores.drain(Duration::from_secs(20)).await });
    assert_eq!(read_all(&mut fresh).await, "");
    assert!(!drained.is_finished());
    half.write_all(b"host: x\r\n\r\n").await.unwrap();
    let answer = read_all(&mut half).await;
    assert!(answer.contains("connection: close") && answer.ends_with("ok"), "{answer}");
    within(drained).await.unwrap();
    assert!(TcpStream::connect(node.address).await.is_err());
}

#[tokio::test]
async fn who_uses_a_connection_while_its_node_drains_is_answered_and_told() {
    // One core: when it refuses connections it has asked all that it has to go.
    let mut settings = support::settings();
    settings.cores = std::num::NonZeroUsize::MIN;
    let node = Node::start_with(settings, vec![put(Kind::Route, "all", respond("ok"))]).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "ok").await;
    let cores = node.cores.clone();
    let drained = tokio::spawn(async move { cores.drain(Duration::from_secs(20)).await });
    while TcpStream::connect(node.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.contains("connection: close") && answer.ends_with("ok"), "{answer}");
    within(drained).await.unwrap();
}

#[tokio::test]
async fn draining_is_bounded() {
    let node = Node::start(vec![put(Kind::Route, "all", respond("ok"))]).await;
    let mut half = TcpStream::connect(node.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    taken(&half).await;
    within(node.cores.drain(Duration::from_millis(50))).await;
    assert_eq!(read_all(&mut half).await, "");
}

/// A certificate for a host, in the written form, and its DER.
fn certificate(host: &str) -> (serde_json::Value, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let spec = json!({ "cert": made.cert.pem(), "key": made.signing_key.serialize_pem() });
    (spec, made.cert.der().to_vec())
}

/// What a TLS client gets: the certificate, the protocol by ALPN, and the answer over HTTP/1.1.
async fn tls(address: std::net::SocketAddr, name: &str, alpn: &[&str]) -> (Vec<u8>, Option<Vec<u8>>, String) {
    let (stream, certificate, protocol) = tls_connect(address, name, alpn).await.unwrap();
    let answer = if protocol.as_deref() == Some(b"h2") { String::new() } else { tls_request(stream).await };
    (certificate, protocol, answer)
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

async fn tls_request(mut stream: Tls) -> String {
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = within(stream.read_to_string(&mut answer)).await;
    answer
}

async fn tls_connect(
    address: std::net::SocketAddr,
    name: &str,
    alpn: &[&str],
) -> std::io::Result<(Tls, Vec<u8>, Option<Vec<u8>>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support::AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = within(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().unwrap()[0].to_vec();
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    Ok((stream, certificate, protocol))
}

#[tokio::test]
async fn tls_picks_the_certificate_by_name_and_the_protocol_by_alpn() {
    let mut node = Node::start(vec![put(Kind::Route, "all", respond("ok"))]).await;
    let secure = free_address();
    let (first, first_der) = certificate("first.test");
    let (exact, exact_der) = certificate("a.wild.test");
    let (wild, wild_der) = certificate("*.wild.test");
    node.change(vec![
        put(Kind::Certificate, "first", first),
        put(Kind::Certificate, "exact", exact),
        put(Kind::Certificate, "wild", wild),
        put(
            Kind::Listener,
            "secure",
            json!({ "bind": secure.to_string(), "tls": { "certificates": ["first", "wild", "exact"] } }),
        ),
    ])
    .await
    .unwrap();
    for (name, der) in [
        ("first.test", &first_der),
        ("A.wild.test", &exact_der),
        ("b.wild.test", &wild_der),
        ("other.test", &first_der),
    ] {
        let (served, protocol, answer) = tls(secure, name, &["http/1.1"]).await;
        assert_eq!((&served, protocol.as_deref()), (der, Some(&b"http/1.1"[..])), "{name}");
        assert!(answer.ends_with("ok"), "{answer}");
    }
    assert_eq!(tls(secure, "first.test", &["h2", "http/1.1"]).await.1.as_deref(), Some(&b"h2"[..]));
    assert!(tls(secure, "first.test", &[]).await.2.ends_with("ok"));
}

#[tokio::test]
async fn connections_that_come_to_nothing_are_counted_by_reason() {
    let mut node =
        Node::start_limited(json!({ "header_time": "50ms" }), vec![put(Kind::Route, "all", respond("ok"))]).await;
    let secure = free_address();
    node.change(vec![
        put(Kind::Certificate, "first", certificate("first.test").0),
        put(Kind::Listener, "secure", json!({ "bind": secure.to_string(), "tls": { "certificates": ["first"] } })),
    ])
    .await
    .unwrap();
    node.raw("what is this\r\n\r\n").await;
    node.raw(format!("GET / HTTP/1.1\r\nhost: x\r\nbig: {}\r\n\r\n", "x".repeat(200_000))).await;
    node.raw("GET / HTTP/1.1\r\nhost:").await;
    node.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nwhat is this, and this, and this?").await;
    raw(secure, REQUEST).await;
    drop(TcpStream::connect(secure).await.unwrap());
    // Neither of these is the fault of its client.
    assert!(node.raw(REQUEST).await.ends_with("ok"));
    drop(TcpStream::connect(node.address).await.unwrap());
    let codes = [
        "bad-request",
        "header-too-large",
        "header-too-slow",
        "http2-preface",
        "tls-abandoned",
        "tls-handshake-failed",
    ];
    node.until_counted(|counts| {
        counts.connections_opened == 8
            && counts.connections_closed == 8
            && counts.refusals.iter().map(|(code, count)| (*code, *count)).eq(codes.map(|code| (code, 1)))
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_served_while_the_socket_stays_open() {
    let mut node = Node::start(vec![put(Kind::Route, "all", respond("ok"))]).await;
    let secure = free_address();
    let (old, old_der) = certificate("a.test");
    node.change(vec![
        put(Kind::Certificate, "a", old),
        put(Kind::Listener, "secure", json!({ "bind": secure.to_string(), "tls": { "certificates": ["a"] } })),
    ])
    .await
    .unwrap();
    let (stream, served, _) = tls_connect(secure, "a.test", &[]).await.unwrap();
    assert_eq!(served, old_der);
    let (new, new_der) = certificate("a.test");
    node.change(vec![put(Kind::Certificate, "a", new)]).await.unwrap();
    assert_eq!(tls(secure, "a.test", &[]).await.0, new_der);
    assert!(tls_request(stream).await.ends_with("ok"), "a connection from before goes on");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_handshake_is_closed() {
    let mut node = Node::start(vec![put(Kind::Route, "all", respond("ok"))]).await;
    let secure = free_address();
    let (spec, _) = certificate("a.test");
    node.change(vec![
        put(Kind::Certificate, "a", spec),
        put(
            Kind::Listener,
            "secure",
            json!({
                "bind": secure.to_string(),
                "tls": { "certificates": ["a"] },
                "limits": { "tls_handshake": "100ms" },
            }),
        ),
    ])
    .await
    .unwrap();
    assert_eq!(raw(secure, "\x16\x03\x01\x00").await, "");
}
