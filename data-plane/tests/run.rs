//! A whole node without a control plane.

mod support;

use std::time::Duration;

use support::{free_address, raw, settings, within};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_node_without_configuration_lives_and_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.data_dir = directory.path().to_owned();
    settings.node_port = free_address();
    settings.drain.delay = Duration::ZERO;
    let (address, shutdown) = (settings.node_port, CancellationToken::new());
    let node = tokio::spawn(data_plane::run(settings, shutdown.clone()));
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    let get = async |path| raw(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
    assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(get("/metrics").await.starts_with("HTTP/1.1 200"));
    shutdown.cancel();
    within(node).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_port_that_is_taken_is_named_with_its_holder() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.data_dir = directory.path().to_owned();
    settings.node_port = taken.local_addr().unwrap();
    let error = within(data_plane::run(settings, CancellationToken::new())).await.unwrap_err().to_string();
    let holder = format!("process {}", std::process::id());
    assert!(error.contains(&taken.local_addr().unwrap().to_string()) && error.contains(&holder), "{error}");
}
