//! A node that is told to stop finishes what it has begun.

use std::time::Duration;

use anyhow::Result;
use tests::gateway::wait_until;
use tests::http::{self, Connection};
use tests::traffic::Backend;

use crate::{Gateway, listener_address, simple_file};

#[test]
fn requests_in_flight_are_answered_and_new_connections_are_not_accepted() -> Result<()> {
    let mut gateway = Gateway::start()?;
    // Longer than the time for which a node says that it is not ready before it stops accepting.
    let backend = Backend::start_slow("slow", Duration::from_secs(8));
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    let in_flight = std::thread::spawn(move || {
        Connection::open(listener)?.send("GET", "/orders/7", &[("Host", "shop.example")], b"")
    });
    let metrics = gateway.node.port;
    wait_until("the request is in flight", || {
        http::get(metrics, "node", "/metrics").is_ok_and(|answer| {
            answer
                .text()
                .lines()
                .any(|line| line.contains("in_flight") && !line.starts_with('#') && !line.ends_with(" 0"))
        })
    })?;
    gateway.node.process.signal("TERM")?;
    wait_until("the node says that it is not ready", || {
        http::get(metrics, "node", "/readyz").is_ok_and(|answer| answer.status == 503)
    })?;
    wait_until("new connections are refused", || Connection::open(listener).is_err())?;
    let answer = in_flight.join().expect("the client does not panic")?;
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert_eq!(gateway.node.process.wait()?, 0);
    Ok(())
}
