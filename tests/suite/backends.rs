//! Backends that misbehave, each in its own way: clients of the gateway hardly notice, or are told the truth.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tests::address::free_address;
use tests::gateway::wait_until;
use tests::http;
use tests::traffic::{Backend, Passing, Traffic};

use crate::{Gateway, listener_address};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A backend that does so with each connection.
fn start(serve: fn(TcpStream) -> io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // How a connection ends is what the gateway is to cope with.
            std::thread::spawn(move || drop(serve(stream)));
        }
    });
    address
}

/// Reads the head of a request without a body.
fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(())
}

fn hangs(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn closes(mut stream: TcpStream) -> io::Result<()> {
    read_head(&mut stream)
}

fn closes_on_reuse(mut stream: TcpStream) -> io::Result<()> {
    read_head(&mut stream)?;
    stream.write_all(OK)?;
    read_head(&mut stream)
}

fn answers_garbage(mut stream: TcpStream) -> io::Result<()> {
    read_head(&mut stream)?;
    stream.write_all(b"\x16\x03\x01 what?\r\n\r\n")
}

fn ends_in_the_middle(mut stream: TcpStream) -> io::Result<()> {
    read_head(&mut stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
}

fn drips(mut stream: TcpStream) -> io::Result<()> {
    read_head(&mut stream)?;
    for byte in OK {
        stream.write_all(&[*byte])?;
        stream.flush()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// HTTP/2 that serves 25 requests on a connection, and says then which was the last (RFC 9113 section 6.8).
fn says_goodbye(mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    let mut served = 0;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [_, high, low, kind, flags, id @ ..] = head;
        stream.read_exact(&mut vec![0; usize::from(high) << 8 | usize::from(low)])?;
        match kind {
            1 if served < 25 => {
                served += 1;
                // `:status: 200` alone, and the end of the stream.
                stream.write_all(&[&[0, 0, 1, 1, 5][..], &id, &[0x88]].concat())?;
                if served == 25 {
                    stream.write_all(&[&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &id, &[0; 4]].concat())?;
                }
            }
            4 if flags == 0 => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])?,
            _ => {}
        }
    }
}

/// A service for each backend, at the path of its name.
fn file(listener: SocketAddr, services: &[(&str, Value)]) -> String {
    let named = services.iter().map(|(name, service)| {
        let mut service = service.clone();
        service["name"] = json!(name);
        service
    });
    let route = |name| json!({ "name": name, "paths": [format!("/{name}")], "service": name });
    json!({
        "version": 1,
        "listeners": [{ "name": "web", "bind": listener }],
        "services": named.collect::<Vec<_>>(),
        "routes": services.iter().map(|(name, _)| route(name)).collect::<Vec<_>>(),
    })
    .to_string()
}

#[test]
fn no_request_fails_where_another_attempt_may_succeed() -> Result<()> {
    let gateway = Gateway::start()?;
    let listener = listener_address();
    let good = Backend::start("good");
    let beside_a_good_one = |bad: SocketAddr| {
        let targets = json!([{ "url": good.url() }, { "url": format!("http://{bad}") }]);
        json!({ "targets": targets, "load_balancing": "round_robin" })
    };
    let mut hanging = beside_a_good_one(start(hangs));
    hanging["timeouts"] = json!({ "request": "100ms" });
    hanging["retries"] = json!({ "on": ["timeout"] });
    let services = [
        ("refuses", beside_a_good_one(free_address())),
        ("hangs", hanging),
        ("closes", beside_a_good_one(start(closes))),
        ("closes-on-reuse", json!({ "url": format!("http://{}", start(closes_on_reuse)) })),
        ("drips", json!({ "url": format!("http://{}", start(drips)) })),
        ("says-goodbye", json!({ "url": format!("http://{}", start(says_goodbye)), "protocol": "http2" })),
    ];
    gateway.control.admin.apply(&file(listener, &services))?;
    for path in ["/refuses", "/hangs", "/closes", "/closes-on-reuse", "/drips", "/says-goodbye"] {
        let traffic = Traffic::start(listener, "shop.example", path);
        wait_until("some requests were sent", || traffic.sent() > 100)?;
        let (sent, failures) = traffic.stop();
        assert!(failures.is_empty(), "{path}: {} of {sent}: {:?}", failures.len(), failures.first());
    }
    Ok(())
}

#[test]
fn what_is_broken_is_never_passed_on_as_whole() -> Result<()> {
    let gateway = Gateway::start()?;
    let listener = listener_address();
    let alone = |serve| json!({ "url": format!("http://{}", start(serve)) });
    let services = [("garbage", alone(answers_garbage)), ("middle", alone(ends_in_the_middle))];
    gateway.control.admin.apply(&file(listener, &services))?;
    let answer = http::get(listener, "shop.example", "/garbage")?;
    assert_eq!((answer.status, answer.json()?["code"].as_str()), (502, Some("upstream-bad-response")));
    let answer = http::get(listener, "shop.example", "/middle");
    assert!(answer.is_err(), "it ends where that of the backend ended: {answer:?}");
    Ok(())
}

#[test]
fn a_backend_that_restarts_costs_no_request_if_there_is_another() -> Result<()> {
    let gateway = Gateway::start()?;
    let listener = listener_address();
    let (good, mut restarted) = (Backend::start("good"), Passing::start("restarted")?);
    let targets = json!([{ "url": good.url() }, { "url": format!("http://{}", restarted.address) }]);
    let service = json!({ "targets": targets, "outlier_detection": { "base_ejection_time": "1s" } });
    gateway.control.admin.apply(&file(listener, &[("orders", service)]))?;
    let traffic = Traffic::start(listener, "shop.example", "/orders");
    for _ in 0..2 {
        wait_until("it is used", || restarted.answered() > 10)?;
        restarted.stop();
        let before = traffic.sent();
        wait_until("requests flow without it", || traffic.sent() > before + 100)?;
        restarted.start_again()?;
    }
    wait_until("it is used again", || restarted.answered() > 10)?;
    let (sent, failures) = traffic.stop();
    assert!(failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    Ok(())
}

/// The value of a metric of the node, by the beginning of its line.
fn metric(gateway: &Gateway, begin: &str) -> Option<u64> {
    let text = http::get(gateway.node.port, "node", "/metrics").ok()?.text();
    let line = text.lines().find(|line| line.starts_with(begin))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_service_that_changes_keeps_its_counters_connections_and_health() -> Result<()> {
    let gateway = Gateway::start()?;
    let listener = listener_address();
    let (good, dead) = (Passing::start("good")?, free_address());
    let plain = |timeout| json!({ "url": format!("http://{}", good.address), "timeouts": { "request": timeout } });
    let checked = |timeout| {
        let mut service = plain(timeout);
        service["url"] = json!(format!("http://{dead}"));
        service["health_check"] = json!({ "tcp": {}, "interval": "1s", "unhealthy_threshold": 1 });
        service
    };
    let admin = &gateway.control.admin;
    let apply = |timeout| admin.apply(&file(listener, &[("plain", plain(timeout)), ("checked", checked(timeout))]));
    let since = || -> Option<String> {
        let health = admin.get("services/checked/health").ok()?;
        Some(health["targets"][0]["unhealthy"][0]["since"].as_str()?.to_owned())
    };
    apply("30s")?;
    wait_until("the dead target is known", || since().is_some())?;
    let known_since = since();
    for timeout in ["29s", "28s", "27s"] {
        for _ in 0..20 {
            assert_eq!(http::get(listener, "shop.example", "/plain")?.status, 200);
        }
        apply(timeout)?;
    }
    assert_eq!(good.accepted(), 2, "one connection for each core");
    let counted = r#"sluice_upstream_requests_total{service="plain""#;
    assert_eq!(metric(&gateway, counted), Some(60));
    assert_eq!(since(), known_since);
    Ok(())
}

#[test]
fn a_service_that_is_removed_finishes_what_it_serves_and_keeps_no_connection() -> Result<()> {
    let gateway = Gateway::start()?;
    let listener = listener_address();
    let backend = Passing::start_slow("slow", Duration::from_secs(2))?;
    let service = json!({ "url": format!("http://{}", backend.address) });
    let admin = &gateway.control.admin;
    admin.apply(&file(listener, &[("orders", service)]))?;
    let in_flight = std::thread::spawn(move || http::get(listener, "shop.example", "/orders"));
    wait_until("the request is with the backend", || backend.connections() == 1)?;
    admin.apply(&file(listener, &[]))?;
    assert_eq!(http::get(listener, "shop.example", "/orders")?.status, 404);
    let answer = in_flight.join().expect("the client does not panic")?;
    assert_eq!((answer.status, answer.field("x-backend")), (200, Some("slow")));
    wait_until("its connection is closed", || backend.connections() == 0)
}
