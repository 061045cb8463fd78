//! Services whose targets are found in DNS, through a whole node and a name server of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/name_server.rs"]
#[expect(dead_code, reason = "the tests of lookups use all of it")]
mod name_server;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType::{A, SRV};
use hyper::Response;
use model::resource::Kind;
use name_server::{NameServer, Say, address, service};
use serde_json::{Value, json};
use support::backend::{self, full};
use support::{Node, put, remove, until, within};

const ORDERS: &str = "orders.test.";
const ORDERS_SRV: &str = "_http._tcp.orders.test.";

async fn node_with(dns: &NameServer, mut discovery: Value) -> Node {
    discovery["servers"] = json!([dns.address.to_string()]);
    discovery["min_ttl"] = json!("1s");
    let edits = vec![
        put(Kind::Service, "orders", json!({ "discovery": { "dns": discovery } })),
        put(Kind::Route, "all", json!({ "service": "orders" })),
    ];
    within(Node::start(edits)).await
}

fn targets(node: &Node) -> Vec<String> {
    let snapshot = node.cores.current().load().unwrap();
    let service = snapshot.services.find("orders").unwrap();
    service.targets.iter().map(|target| format!("{} {}", target.endpoint.url, target.weight)).collect()
}

async fn status(node: &Node) -> u16 {
    let answer = node.raw("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await;
    answer[9..12].parse().unwrap_or_else(|_| panic!("no answer: {answer:?}"))
}

/// A service that counts its requests.
async fn counting() -> (SocketAddr, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let address = backend::http(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Response::new(full("ok")) }
    });
    (address.await, count)
}

#[tokio::test]
async fn addresses_of_a_name_are_targets_from_the_first_request_on() {
    let (dns, (backend, _)) = (NameServer::start().await, counting().await);
    dns.say_records(ORDERS, A, vec![address(ORDERS, 60, "127.0.0.1")]);
    let node = node_with(&dns, json!({ "name": "orders.test", "port": backend.port() })).await;
    assert_eq!(status(&node).await, 200, "the revision waited for the answer");
    let metrics = node.telemetry.node.discoveries();
    let (name, tally) = &metrics[0];
    assert_eq!((name.as_str(), tally.read().answers, tally.read().targets), ("orders", 1, 1));
}

#[tokio::test]
async fn targets_change_under_load_without_a_failed_request() {
    let dns = NameServer::start().await;
    let ((one, count_one), (other, count_other)) = (counting().await, counting().await);
    let at = |port| vec![service(ORDERS_SRV, 0, (0, 0, port), "localhost.")];
    dns.say_records(ORDERS_SRV, SRV, at(one.port()));
    let node = node_with(&dns, json!({ "name": ORDERS_SRV, "records": "srv" })).await;
    let node = Arc::new(node);
    let is_over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (node, is_over) = (Arc::clone(&node), Arc::clone(&is_over));
        async move {
            while !is_over.load(Ordering::SeqCst) {
                assert_eq!(status(&node).await, 200);
            }
        }
    });
    let counted = |count: &AtomicU64, more: u64| count.load(Ordering::SeqCst) >= more;
    until(|| counted(&count_one, 5)).await;
    dns.say_records(ORDERS_SRV, SRV, at(other.port()));
    // Core by core the old target gets nothing more.
    within(async {
        loop {
            let (before, goal) = (count_one.load(Ordering::SeqCst), count_other.load(Ordering::SeqCst) + 20);
            until(|| counted(&count_other, goal)).await;
            if count_one.load(Ordering::SeqCst) == before {
                return;
            }
        }
    })
    .await;
    is_over.store(true, Ordering::SeqCst);
    load.await.unwrap();
}

#[tokio::test]
async fn the_next_priority_takes_over_from_one_that_is_dead() {
    let dns = NameServer::start().await;
    let ((first, _), (second, count_second)) = (counting().await, counting().await);
    let say = |first: u16| {
        let record = |priority, port| service(ORDERS_SRV, 0, (priority, 0, port), "localhost.");
        dns.say_records(ORDERS_SRV, SRV, vec![record(20, second.port()), record(10, first)]);
    };
    say(first.port());
    let node = node_with(&dns, json!({ "name": ORDERS_SRV, "records": "srv" })).await;
    for _ in 0..20 {
        assert_eq!(status(&node).await, 200);
    }
    assert_eq!(count_second.load(Ordering::SeqCst), 0);
    say(1);
    within(async {
        while count_second.load(Ordering::SeqCst) == 0 {
            status(&node).await;
        }
    })
    .await;
}

#[tokio::test]
async fn hosts_of_records_are_known_to_the_servers_that_know_the_records() {
    let (dns, (backend, count)) = (NameServer::start().await, counting().await);
    dns.say_records(ORDERS_SRV, SRV, vec![service(ORDERS_SRV, 60, (0, 0, backend.port()), "one.orders.test.")]);
    dns.say_records("one.orders.test.", A, vec![address("one.orders.test.", 60, "127.0.0.1")]);
    let discovery = json!({ "name": ORDERS_SRV, "records": "srv", "servers": [dns.address.to_string()] });
    let check = json!({ "http": { "path": "/" }, "interval": "100ms", "timeout": "100ms" });
    let edits = vec![
        put(Kind::Service, "orders", json!({ "discovery": { "dns": discovery }, "health_check": check })),
        put(Kind::Route, "all", json!({ "service": "orders" })),
    ];
    let node = within(Node::start(edits)).await;
    assert_eq!(status(&node).await, 200);
    // So do checks.
    until(|| count.load(Ordering::SeqCst) >= 3).await;
}

#[tokio::test]
async fn targets_stay_while_name_servers_fail_and_go_when_the_name_is_gone() {
    let (dns, (backend, _)) = (NameServer::start().await, counting().await);
    dns.say_records(ORDERS, A, vec![address(ORDERS, 0, "127.0.0.1")]);
    let node = node_with(&dns, json!({ "name": "orders.test", "records": "a", "port": backend.port() })).await;
    assert_eq!(status(&node).await, 200);
    let discovered = || node.telemetry.node.discoveries()[0].1.read();

    dns.say(ORDERS, A, Say::This(ResponseCode::ServFail, vec![]));
    until(|| discovered().failed >= 1).await;
    assert_eq!((status(&node).await, targets(&node).len()), (200, 1));

    dns.say(ORDERS, A, Say::This(ResponseCode::NXDomain, vec![]));
    until(|| targets(&node).is_empty()).await;
    assert!(discovered().nothing >= 3);
    within(async { while status(&node).await != 503 {} }).await;

    dns.say_records(ORDERS, A, vec![address(ORDERS, 60, "127.0.0.1")]);
    until(|| targets(&node).len() == 1).await;
    within(async { while status(&node).await != 200 {} }).await;
}

#[tokio::test]
async fn what_was_found_stays_with_its_service_and_joins_what_is_written() {
    let dns = NameServer::start().await;
    dns.say_records(ORDERS, A, vec![address(ORDERS, 60, "127.0.0.2"), address(ORDERS, 60, "127.0.0.3")]);
    let discovery = json!({ "dns": { "name": "orders.test", "records": "a", "servers": [dns.address.to_string()] } });
    let with = |targets: Value| put(Kind::Service, "orders", json!({ "targets": targets, "discovery": discovery }));
    let mut node = within(Node::start(vec![with(json!([]))])).await;
    assert_eq!(targets(&node), ["http://127.0.0.2:80 1", "http://127.0.0.3:80 1"]);
    // Another form of the service: the answer is at hand. What is written counts first.
    node.change(vec![with(json!([{ "url": "http://127.0.0.3:80", "weight": 7 }]))]).await.unwrap();
    assert_eq!(targets(&node), ["http://127.0.0.3:80 7", "http://127.0.0.2:80 1"]);
    assert_eq!(dns.asked(), 1);
    node.change(vec![put(Kind::Service, "orders", json!({ "url": "http://127.0.0.9:80" }))]).await.unwrap();
    assert_eq!(targets(&node), ["http://127.0.0.9:80 1"]);
    assert!(node.telemetry.node.discoveries().is_empty());
    node.change(vec![remove(Kind::Service, "orders")]).await.unwrap();
}

#[tokio::test]
async fn a_revision_is_served_though_no_name_server_answers() {
    let dns = NameServer::start().await;
    dns.say(ORDERS, A, Say::Silence);
    let node = node_with(&dns, json!({ "name": "orders.test", "records": "a", "port": 1 })).await;
    assert_eq!(status(&node).await, 503);
    dns.say_records(ORDERS, A, vec![address(ORDERS, 60, "127.0.0.1")]);
    until(|| targets(&node) == ["http://127.0.0.1:1 1"]).await;
}
