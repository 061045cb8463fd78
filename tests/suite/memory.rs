//! A node whose memory is used up by clients: it sheds them, and whoever runs it can still ask and change it.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};
use tests::gateway::{Node, wait_until};
use tests::http;
use tests::traffic::Backend;

use crate::{Gateway, listener_address};

/// What clients can make the node hold before nothing new is taken: beyond what it has at rest.
const ROOM_MIB: u64 = 64;

/// A backend that takes requests and never answers.
fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>());
    format!("http://{address}")
}

fn metric(node: &Node, name: &str) -> Result<f64> {
    let text = http::get(node.port, "node", "/metrics")?.text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    Ok(line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("no {name}"))?.parse()?)
}

/// A client whose request is as large as it may be and never answered.
fn large_request(listener: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(listener)?;
    let fields: String = (0..30).map(|number| format!("x-large-{number}: {}\r\n", "x".repeat(1000))).collect();
    // The node may be closing it.
    let _ = write!(stream, "GET /silent HTTP/1.1\r\nhost: shop.example\r\n{fields}\r\n");
    Ok(stream)
}

#[test]
fn clients_that_use_up_the_memory_are_shed_while_the_node_can_be_asked_and_changed() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    let file = |path: &str| {
        format!(
            "version: 1
listeners: [{{ name: web, bind: \"{listener}\" }}]
services: [{{ name: orders, url: \"{}\" }}, {{ name: silent, url: \"{}\", timeouts: {{ request: 5m }} }}]
routes:
  - {{ name: orders, paths: [{path}], service: orders }}
  - {{ name: silent, paths: [/silent], service: silent }}
",
            backend.url(),
            silent()
        )
    };
    gateway.control.admin.apply(&file("/orders"))?;
    // The same node again, with little more than it needs: stage 2 begins at 90% of it.
    let rest = metric(&gateway.node, "process_resident_memory_bytes")? as u64 / (1024 * 1024);
    gateway.node.process.kill();
    let budget = ((rest + ROOM_MIB) * 10 / 9).to_string();
    let (url, token) = (format!("http://{}", gateway.control.stream), gateway.control.node_token());
    gateway.node = Node::start_with(&url, &token, &gateway.folder.path().join("node"), &["--memory-mib", &budget])?;
    gateway.node.wait_until_ready()?;
    assert_eq!(metric(&gateway.node, "sluice_memory_pressure")?, 0.0);

    let mut flood = Vec::new();
    wait_until("nothing new is taken", || {
        for _ in 0..50 {
            flood.extend(large_request(listener));
        }
        metric(&gateway.node, "sluice_memory_pressure").is_ok_and(|pressure| pressure >= 2.0)
    })?;
    // Operators and the control plane do not notice.
    assert_eq!(http::get(gateway.node.port, "node", "/readyz")?.status, 200);
    gateway.control.admin.apply(&file("/changed"))?;
    assert!(http::get(listener, "shop.example", "/changed").map_or(true, |answer| answer.status == 503));
    let held = metric(&gateway.node, "process_resident_memory_bytes")? as u64 / (1024 * 1024);
    assert!(held < rest + 2 * ROOM_MIB, "{held} MiB are held, {rest} MiB at rest");

    drop(flood);
    wait_until("there is memory again", || {
        metric(&gateway.node, "sluice_memory_pressure").is_ok_and(|pressure| pressure == 0.0)
    })?;
    assert_eq!(http::get(listener, "shop.example", "/changed")?.status, 200);
    Ok(())
}
