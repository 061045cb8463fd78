//! Cores whose own loops end by a panic, which nothing from outside can bring about.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use model::config::Edit;
use serde_json::{Value, json};

use super::*;
use crate::address::free_address;

/// Two cores with a listener and an answer.
async fn start(telemetry: &Telemetry) -> (Cores, SocketAddr) {
    let mut settings = Settings::new(PathBuf::new());
    settings.cores = NonZeroUsize::new(2).expect("two");
    let cores = Cores::start(&settings, telemetry).expect("threads");
    let address = free_address();
    let put = |kind, name: &str, spec: Value| Edit::Put { kind, name: name.into(), spec };
    let edits = vec![
        put(Kind::Listener, "main", json!({ "bind": address.to_string() })),
        put(Kind::Route, "all", json!({ "respond": { "status": 200, "body": "ok" } })),
    ];
    let (snapshot, _) = Snapshot::default().apply(1, edits).expect("it is well formed");
    cores.adopt(Arc::new(snapshot)).await.expect("the port is free");
    (cores, address)
}

fn is_served(address: SocketAddr) -> bool {
    let mut answer = String::new();
    TcpStream::connect(address).is_ok_and(|mut stream| {
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        sent.is_ok() && stream.read_to_string(&mut answer).is_ok()
    }) && answer.ends_with("ok")
}

async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it hangs");
}

/// How many sockets listen on the address.
fn sockets(address: SocketAddr) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a list of sockets");
    let IpAddr::V4(ip) = address.ip() else { panic!("it is an IPv4 address") };
    let (ip, port) = (u32::from_le_bytes(ip.octets()), address.port());
    let listening = format!(" {ip:08X}:{port:04X} 00000000:0000 0A ");
    sockets.lines().filter(|line| line.contains(&listening)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_fails_is_replaced_and_serves_again() {
    let telemetry = Telemetry::without_log();
    let (cores, address) = start(&telemetry).await;
    for failures in 1..=2 {
        cores.0.orders[0].send(Order::Fail).expect("the core is there");
        until(|| telemetry.node.core_failures() == failures).await;
        until(|| sockets(address) == 2).await;
        // The kernel shares connections out among both.
        assert!((0..40).all(|_| is_served(address)));
    }
    // What is adopted later reaches the new core as well.
    let edit = Edit::Put {
        kind: Kind::Route,
        name: "all".into(),
        spec: json!({ "respond": { "status": 200, "body": "changed, and ok" } }),
    };
    let (next, _) = cores.current().load().expect("a snapshot").apply(2, vec![edit]).expect("it is well formed");
    cores.adopt(Arc::new(next)).await.expect("nothing new to listen on");
    assert!((0..40).all(|_| is_served(address)));
    cores.drain(Duration::from_secs(20)).await;
    assert_eq!(sockets(address), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cores_that_keep_failing_are_given_up() {
    let telemetry = Telemetry::without_log();
    let (cores, address) = start(&telemetry).await;
    for _ in 0..=3 {
        cores.0.orders[0].send(Order::Fail).expect("the core is there");
    }
    tokio::time::timeout(Duration::from_secs(20), cores.broken()).await.expect("it hangs");
    assert_eq!(telemetry.node.core_failures(), 4);
    until(|| sockets(address) == 1).await;
    assert!((0..10).all(|_| is_served(address)), "the other serves until the node has left");
    cores.drain(Duration::from_secs(20)).await;
}
