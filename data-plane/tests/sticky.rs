//! Clients that come back to the target that they had, by a cookie.

mod support;

use std::net::SocketAddr;

use http_body_util::BodyExt;
use hyper::Response;
use model::resource::Kind;
use serde_json::{Value, json};
use support::backend::{self, full};
use support::{Node, free_address, put};

const SECRET: [u8; 32] = [7; 32];

/// Targets that say their number.
async fn targets() -> Vec<SocketAddr> {
    let mut targets = Vec::new();
    for name in ["0", "1", "2"] {
        targets.push(backend::http(move |_| async move { Response::new(full(name).boxed()) }).await);
    }
    targets
}

fn service(targets: &[SocketAddr], cookie: &Value) -> Value {
    let targets: Vec<Value> = targets.iter().map(|target| json!({"url": format!("http://{target}")})).collect();
    json!({"targets": targets, "load_balancing": {"policy": "round_robin", "sticky_cookie": cookie}})
}

async fn node(targets: &[SocketAddr], cookie: &Value) -> Node {
    let route = put(Kind::Route, "shop", json!({"service": "shop"}));
    let node = Node::start(vec![put(Kind::Service, "shop", service(targets, cookie)), route]).await;
    node.cores.use_cookie_key(&SECRET);
    node
}

/// Which target answers, and the cookie that the client is told to keep.
async fn get(node: &Node, cookie: Option<&str>) -> (usize, Option<String>) {
    let cookie = cookie.map(|cookie| format!("cookie: a=b; {cookie}; c=d\r\n")).unwrap_or_default();
    let answer = node.raw(format!("GET / HTTP/1.1\r\nhost: shop.test\r\n{cookie}connection: close\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    let set = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).map(str::to_owned);
    (body.parse().unwrap_or_else(|_| panic!("{answer}")), set)
}

/// Cookies that lead to the targets, in their order.
async fn cookies(node: &Node) -> Vec<String> {
    let mut cookies = vec![String::new(); 3];
    while cookies.iter().any(String::is_empty) {
        let (target, set) = get(node, None).await;
        let set = set.expect("who has none gets one");
        cookies[target] = set.split_once(';').map_or(&*set, |(pair, _)| pair).to_owned();
    }
    cookies
}

#[tokio::test]
async fn who_has_a_cookie_comes_back_to_its_target_on_any_node() {
    let targets = targets().await;
    let cookie = json!({"name": "at", "max_age": "1h"});
    let nodes = [node(&targets, &cookie).await, node(&targets, &cookie).await];
    let cookies = cookies(&nodes[0]).await;
    for node in &nodes {
        for (target, cookie) in cookies.iter().enumerate() {
            for _ in 0..4 {
                assert_eq!(get(node, Some(cookie)).await, (target, None), "{cookie}");
            }
        }
    }
    let (_, set) = get(&nodes[0], None).await;
    let (pair, attributes) = set.as_deref().and_then(|set| set.split_once(';')).expect("attributes");
    assert_eq!(attributes, " Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
    assert!(
        pair.starts_with("at=") && !targets.iter().any(|target| pair.contains(&target.port().to_string())),
        "{pair}"
    );
    // What nobody has set leads nowhere, and is replaced.
    for made_up in ["at=", "at=AQIDBAUGBwg", "at=!", &format!("at={}", "A".repeat(4000)), "at=127.0.0.1"] {
        assert!(get(&nodes[0], Some(made_up)).await.1.is_some(), "{made_up}");
    }
    // Another gateway has another key.
    nodes[1].cores.use_cookie_key(&[8; 32]);
    for cookie in &cookies {
        assert!(get(&nodes[1], Some(cookie)).await.1.is_some());
    }
}

#[tokio::test]
async fn who_has_lost_its_target_gets_another_and_keeps_that() {
    let targets = targets().await;
    let mut node = node(&targets, &json!({})).await;
    let cookies = cookies(&node).await;
    let moves = async |node: &Node| {
        let (target, set) = get(node, Some(&cookies[0])).await;
        let set = set.expect("another cookie");
        assert_ne!(target, 0);
        assert_eq!(get(node, Some(set.split_once(';').unwrap().0)).await, (target, None));
        assert_eq!(get(node, Some(&cookies[1])).await, (1, None), "others stay");
    };
    // It is not there any more, or drains, which is the same for a node.
    node.change(vec![put(Kind::Service, "shop", service(&targets[1..], &json!({})))]).await.unwrap();
    moves(&node).await;
    // It has no weight: it keeps who it has, and gets no other.
    let mut idle = service(&targets, &json!({}));
    idle["targets"][0]["weight"] = 0.into();
    node.change(vec![put(Kind::Service, "shop", idle)]).await.unwrap();
    for _ in 0..6 {
        assert_eq!(get(&node, Some(&cookies[0])).await, (0, None));
        assert_ne!(get(&node, None).await.0, 0);
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_or_is_unhealthy_loses_its_clients() {
    let mut targets = targets().await;
    let node = node(&targets, &json!({})).await;
    let cookies = cookies(&node).await;
    // The same target on a node that does not reach it.
    let gone = free_address();
    targets[0] = gone;
    let other = self::node(&targets, &json!({})).await;
    let lost = self::cookies_of(&other, gone).await;
    for _ in 0..20 {
        let (target, set) = get(&other, Some(&lost)).await;
        assert!(target != 0 && set.is_some());
    }
    support::until(|| !other.telemetry.health.troubles(9).is_empty()).await;
    assert!(get(&other, Some(&lost)).await.1.is_some(), "nobody waits for it");
    assert_eq!(get(&other, Some(&cookies[1])).await, (1, None));
}

/// The cookie of a target that does not answer: another one stands at its address for a moment.
async fn cookies_of(node: &Node, address: SocketAddr) -> String {
    let listener = tokio::net::TcpListener::bind(address).await.expect("it is free");
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            backend::read_head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n0";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let cookie = cookies(node).await.swap_remove(0);
    serving.abort();
    let _ = serving.await;
    cookie
}
