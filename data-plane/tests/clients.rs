//! Who the client is: what proxies in front say of it, and who is believed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use data_plane::proxy_protocol::{Addresses, Beginning, read, write_v1, write_v2};
use data_plane::telemetry::Telemetry;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::resource::Kind;
use serde_json::{Value, json};
use support::{Log, Node, backend, put, read_all, respond, settings, within};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// The last part of the loopback address that is a proxy in these tests, and of one that is none.
const PROXY: u8 = 2;
const STRANGER: u8 = 3;

async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// What comes back for bytes from that address.
async fn send_from(last: u8, node: &Node, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect_from(last, node.address).await;
    let _ = stream.write_all(bytes.as_ref()).await;
    read_all(&mut stream).await
}

fn request(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{fields}\r\n")
}

/// A node that trusts the proxy, before a service that answers with what it got.
async fn node(mut forwarded: Value) -> Node {
    forwarded["trusted_proxies"] = json!([format!("127.0.0.{PROXY}")]);
    let edits = vec![
        put(Kind::Service, "echo", json!({ "url": format!("http://{}", backend::echo().await) })),
        put(Kind::Route, "all", json!({ "service": "echo" })),
    ];
    Node::start_on(json!({ "forwarded": forwarded }), edits).await
}

/// The values of a field as the service got them.
async fn got(node: &Node, from: u8, fields: &str, name: &str) -> Vec<String> {
    let answer = send_from(from, node, request(fields)).await;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let headers = body["headers"].as_array().unwrap().iter();
    let named = headers.filter(|field| field[0] == name);
    named.map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn services_get_what_trusted_proxies_say_and_never_what_others_say() {
    let node = node(json!({ "reserved": ["x-user-id", "x-internal-*"] })).await;
    let fields = "x-forwarded-for: 192.0.2.9\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\r\n\
                  x-forwarded-host: shop.test\r\nx-forwarded-port: 443\r\nforwarded: for=6.6.6.6\r\n\
                  x-real-ip: 6.6.6.6\r\nx-user-id: root\r\nx-internal-zone: a\r\nx-sluice-a: b\r\n";
    for (name, from_proxy, from_stranger) in [
        ("x-forwarded-for", vec!["192.0.2.9, 192.0.2.1, 127.0.0.2"], vec!["127.0.0.3"]),
        ("x-forwarded-proto", vec!["https"], vec!["http"]),
        ("x-forwarded-host", vec!["shop.test"], vec!["a.test"]),
        ("x-forwarded-port", vec!["443"], vec![]),
        ("forwarded", vec![], vec![]),
        ("x-real-ip", vec![], vec![]),
        ("x-user-id", vec!["root"], vec![]),
        ("x-internal-zone", vec!["a"], vec![]),
        ("x-sluice-a", vec![], vec![]),
    ] {
        assert_eq!(got(&node, PROXY, fields, name).await, from_proxy, "{name}");
        assert_eq!(got(&node, STRANGER, fields, name).await, from_stranger, "{name}");
    }
}

#[tokio::test]
async fn the_way_can_be_told_by_the_field_of_rfc_7239() {
    let node = node(json!({ "read": "forwarded", "send": "both" })).await;
    let fields = "forwarded: for=\"[2001:db8::1]:80\";proto=https;host=shop.test\r\nx-forwarded-for: 6.6.6.6\r\n";
    assert_eq!(
        got(&node, PROXY, fields, "forwarded").await,
        ["for=\"[2001:db8::1]\";host=shop.test;proto=https, for=127.0.0.2;host=a.test;proto=http"]
    );
    assert_eq!(got(&node, PROXY, fields, "x-forwarded-for").await, ["2001:db8::1, 127.0.0.2"]);
    assert_eq!(got(&node, PROXY, fields, "x-forwarded-proto").await, ["https"]);
    assert_eq!(got(&node, PROXY, fields, "x-forwarded-host").await, ["shop.test"]);
    assert_eq!(got(&node, STRANGER, fields, "forwarded").await, ["for=127.0.0.3;host=a.test;proto=http"]);
    assert_eq!(got(&node, STRANGER, fields, "x-forwarded-for").await, ["127.0.0.3"]);
    let torn = "forwarded: for=\"192.0.2.1\r\n";
    assert_eq!(got(&node, PROXY, torn, "forwarded").await, ["for=127.0.0.2;host=a.test;proto=http"]);
}

#[tokio::test]
async fn what_a_trusted_proxy_says_can_be_boiled_down_to_the_client() {
    let node = node(json!({ "from_trusted": "overwrite", "send": "both" })).await;
    let fields = "x-forwarded-for: 6.6.6.6, 192.0.2.1\r\nx-forwarded-proto: https\r\nx-forwarded-port: 443\r\n";
    assert_eq!(got(&node, PROXY, fields, "x-forwarded-for").await, ["192.0.2.1"]);
    assert_eq!(got(&node, PROXY, fields, "x-forwarded-proto").await, ["https"]);
    assert_eq!(got(&node, PROXY, fields, "forwarded").await, ["for=192.0.2.1;host=a.test;proto=https"]);
    assert!(got(&node, PROXY, fields, "x-forwarded-port").await.is_empty());
}

#[tokio::test]
async fn routes_limits_and_the_log_go_by_the_client_behind_the_proxy() {
    let log = Log::default();
    let telemetry = Telemetry::with_log_to(Box::new(log.clone())).unwrap();
    let limit = json!({ "type": "rate-limit", "config": { "limit": 1, "per": "1h", "scope": "node" } });
    let edits = vec![
        put(Kind::Policy, "limit", limit),
        put(Kind::Route, "all", respond("somebody")),
        put(Kind::Route, "partner", {
            let mut route = respond("the partner");
            route["sources"] = json!(["192.0.2.0/24"]);
            route["policies"] = json!(["limit"]);
            route
        }),
    ];
    let mut node = Node::start_telling(settings(), telemetry, edits).await;
    node.change_listener(json!({ "forwarded": { "trusted_proxies": ["127.0.0.2"] } })).await;
    let from = async |last, client: &str| {
        let answer = send_from(last, &node, request(&format!("x-forwarded-for: {client}\r\n"))).await;
        (answer[9..12].to_owned(), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    };
    let answer = |status: &str, body: &str| (status.to_owned(), body.to_owned());
    assert_eq!(from(PROXY, "192.0.2.1").await, answer("200", "the partner"));
    assert_eq!(from(PROXY, "192.0.2.1").await.0, "429");
    assert_eq!(from(PROXY, "192.0.2.2").await, answer("200", "the partner"), "another client has its own limit");
    assert_eq!(from(PROXY, "198.51.100.1").await, answer("200", "somebody"));
    assert_eq!(from(STRANGER, "192.0.2.3").await, answer("200", "somebody"), "nobody believes it");
    within(async {
        while log.lines().len() < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let logged: Vec<String> = log.lines().iter().map(|line| line["client"].as_str().unwrap().to_owned()).collect();
    let of = |client: &str| logged.iter().filter(|line| line.starts_with(&format!("{client}:"))).count();
    assert_eq!([of("192.0.2.1"), of("192.0.2.2"), of("198.51.100.1"), of("127.0.0.3")], [2, 1, 1, 1], "{logged:?}");
}

fn addresses(source: &str) -> Addresses {
    Addresses { source: source.parse().unwrap(), destination: "198.51.100.1:443".parse().unwrap() }
}

fn header(source: &str, is_v2: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if is_v2 {
        write_v2(&mut bytes, addresses(source));
    } else {
        write_v1(&mut bytes, addresses(source));
    };
    bytes
}

/// A node that takes headers from the proxy, and answers 192.0.2.0/24 differently.
async fn behind_proxy(mode: &str, limits: Value) -> Node {
    let mut known = respond("known");
    known["sources"] = json!(["192.0.2.0/24", "2001:db8::/32"]);
    let edits = vec![put(Kind::Route, "all", respond("unknown")), put(Kind::Route, "known", known)];
    let from = json!([format!("127.0.0.{PROXY}")]);
    Node::start_on(json!({ "proxy_protocol": { "from": from, "mode": mode }, "limits": limits }), edits).await
}

#[tokio::test]
async fn a_connection_is_for_whom_the_proxy_says_ahead_of_it() {
    let node = behind_proxy("required", json!({})).await;
    for is_v2 in [false, true] {
        for source in ["192.0.2.1:1000", "[2001:db8::1]:1000"] {
            let bytes = [header(source, is_v2), request("").into_bytes()].concat();
            assert!(send_from(PROXY, &node, bytes).await.ends_with("\r\n\r\nknown"), "{source}");
        }
    }
    // Byte by byte it means the same.
    for is_v2 in [false, true] {
        let mut stream = connect_from(PROXY, node.address).await;
        stream.set_nodelay(true).unwrap();
        for byte in [header("192.0.2.1:1", is_v2), request("").into_bytes()].concat() {
            stream.write_all(&[byte]).await.unwrap();
            support::taken(&stream).await;
        }
        assert!(read_all(&mut stream).await.ends_with("\r\n\r\nknown"));
    }
    let unknown = format!("PROXY UNKNOWN\r\n{}", request(""));
    assert!(send_from(PROXY, &node, unknown).await.ends_with("\r\n\r\nunknown"));
}

#[tokio::test]
async fn where_a_header_is_required_nothing_else_gets_in() {
    let node = behind_proxy("required", json!({ "header_time": "200ms" })).await;
    let good = [header("192.0.2.1:1", true), request("").into_bytes()].concat();
    assert_eq!(send_from(STRANGER, &node, &good).await, "");
    assert_eq!(send_from(PROXY, &node, request("")).await, "");
    assert_eq!(send_from(PROXY, &node, "PROXY TCP4 what\r\n").await, "");
    assert_eq!(send_from(PROXY, &node, "PROXY TCP4 192.").await, "", "it waits no longer than for a head");
    assert_eq!(send_from(PROXY, &node, "").await, "");
    // The second header is nonsense.
    let twice = [header("192.0.2.1:1", true), good.clone()].concat();
    assert!(send_from(PROXY, &node, twice).await.starts_with("HTTP/1.1 400"));
    assert!(send_from(PROXY, &node, good).await.ends_with("known"));
    node.until_counted(|counts| {
        let of = |code: &str| counts.refusals.get(code).copied().unwrap_or(0);
        of("proxy-protocol-unwanted-peer") == 1
            && of("proxy-protocol-missing") == 1
            && of("proxy-protocol-malformed") == 1
            && of("proxy-protocol-timeout") == 2
    })
    .await;
}

#[tokio::test]
async fn where_a_header_is_optional_only_the_proxy_may_send_one() {
    let node = behind_proxy("optional", json!({})).await;
    let good = [header("192.0.2.1:1", false), request("").into_bytes()].concat();
    assert!(send_from(PROXY, &node, &good).await.ends_with("\r\n\r\nknown"));
    assert!(send_from(STRANGER, &node, &good).await.starts_with("HTTP/1.1 400"));
    for last in [PROXY, STRANGER] {
        assert!(send_from(last, &node, request("")).await.ends_with("\r\n\r\nunknown"));
    }
    // What begins like a header and is none, byte by byte.
    let mut stream = connect_from(PROXY, node.address).await;
    for byte in "PROPFIND / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".bytes() {
        stream.write_all(&[byte]).await.unwrap();
        support::taken(&stream).await;
    }
    assert!(read_all(&mut stream).await.ends_with("\r\n\r\nunknown"));
}

#[tokio::test]
async fn http_2_follows_a_header_as_well() {
    let node = behind_proxy("required", json!({})).await;
    let mut stream = connect_from(PROXY, node.address).await;
    stream.write_all(&header("192.0.2.1:1", true)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/").body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "known");
}

#[tokio::test]
async fn tls_follows_a_header_as_well() {
    let mut node = behind_proxy("required", json!({})).await;
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let certificate = json!({ "cert": made.cert.pem(), "key": made.signing_key.serialize_pem() });
    node.change(vec![put(Kind::Certificate, "a", certificate)]).await.unwrap();
    node.change_listener(json!({
        "proxy_protocol": { "from": ["127.0.0.2"] },
        "tls": { "certificates": ["a"] },
    }))
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    for is_v2 in [false, true] {
        let mut stream = connect_from(PROXY, node.address).await;
        stream.write_all(&header("192.0.2.1:1", is_v2)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config.clone()));
        let mut stream = within(connector.connect("a.test".try_into().unwrap(), stream)).await.unwrap();
        stream.write_all(request("").as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = within(tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)).await;
        assert!(answer.ends_with("\r\n\r\nknown"), "{answer}");
    }
}

#[tokio::test]
async fn places_belong_to_the_clients_behind_the_proxy() {
    let node = behind_proxy("required", json!({ "connections_per_client": 1 })).await;
    let mut first = connect_from(PROXY, node.address).await;
    first
        .write_all(&[header("192.0.2.1:1", true), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()].concat())
        .await
        .unwrap();
    support::read_until(&mut first, "known").await;
    let from = |source| [header(source, true), request("").into_bytes()].concat();
    assert_eq!(send_from(PROXY, &node, from("192.0.2.1:2")).await, "");
    assert!(send_from(PROXY, &node, from("192.0.2.2:1")).await.ends_with("known"));
}

/// A service that answers with the first line of a connection of the first version, or with what the second says.
async fn told() -> SocketAddr {
    backend::sockets(|mut stream| async move {
        let mut held = Vec::new();
        let (length, said) = loop {
            held.push(within(tokio::io::AsyncReadExt::read_u8(&mut stream)).await.unwrap());
            if let Ok(Beginning::Header { length, addresses }) = read(&held) {
                break (length, addresses.unwrap());
            }
        };
        assert_eq!(held.len(), length);
        let mut requests = 0;
        while backend::read_head(&mut stream).await.starts_with("GET") {
            requests += 1;
            let body = format!("{} to {}, request {requests}", said.source, said.destination);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn services_can_be_told_for_whom_a_connection_is() {
    for version in ["v1", "v2"] {
        let service = json!({ "url": format!("http://{}", told().await), "proxy_protocol": version });
        let edits = vec![put(Kind::Service, "told", service), put(Kind::Route, "all", json!({ "service": "told" }))];
        let mut node = Node::start(edits).await;
        for _ in 0..3 {
            let mut stream = connect_from(STRANGER, node.address).await;
            let own = stream.local_addr().unwrap();
            // A connection of the client's may live on, but that to the service is for one request.
            for _ in 0..2 {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                support::read_until(&mut stream, &format!("\r\n\r\n{own} to {}, request 1", node.address)).await;
            }
        }
        // What a proxy in front says goes on, both ways that it can say it.
        node.change_listener(json!({
            "proxy_protocol": { "from": ["127.0.0.2"] },
            "forwarded": { "trusted_proxies": ["192.0.2.0/24"] },
        }))
        .await;
        let bytes = [header("192.0.2.1:7", true), request("").into_bytes()].concat();
        let answer = send_from(PROXY, &node, bytes).await;
        assert!(answer.ends_with("192.0.2.1:7 to 198.51.100.1:443, request 1"), "{answer}");
        let fields = "x-forwarded-for: 2001:db8::9\r\n";
        let bytes = [header("192.0.2.1:7", true), request(fields).into_bytes()].concat();
        let answer = send_from(PROXY, &node, bytes).await;
        assert!(answer.ends_with("[2001:db8::9]:0 to 198.51.100.1:443, request 1"), "{answer}");
    }
}
