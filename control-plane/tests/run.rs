//! Starting and stopping a control plane.

use std::net::SocketAddr;
use std::path::Path;

use control_plane::settings::Settings;
use control_plane::store::StoreError;
use control_plane::trust::master_key::MasterKeySource;
use control_plane::{RunError, Running, run};
use tests::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_second_start_finds_what_the_first_one_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let (running, stop, ended) = started(settings(&folder.path().join("data"))).await;
        let token = running.admin_token_file.expect("this control plane made it");
        tokens.push(std::fs::read_to_string(token).expect("it is written"));
        assert!(running.publisher.head("default").is_some());
        assert!(get(running.admin, "/readyz").await.starts_with("HTTP/1.1 200 "));
        stop.cancel();
        ended.await.expect("it does not panic").expect("stopping is no error");
    }
    assert_eq!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("it is bound");
    let error = fails(Settings { admin_bind: address, ..settings(folder.path()) }).await;
    assert!(matches!(&error, RunError::Bind { address: named, .. } if *named == address), "{error}");
    assert!(error.to_string().contains(&address.to_string()));
}

#[tokio::test]
async fn a_folder_belongs_to_one_control_plane_at_a_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_running, stop, ended) = started(settings(folder.path())).await;
    let error = fails(settings(folder.path())).await;
    assert!(matches!(&error, RunError::InUse { path } if path == folder.path()), "{error}");
    stop.cancel();
    ended.await.expect("it does not panic").expect("stopping is no error");
    let (_running, stop, ended) = started(settings(folder.path())).await;
    stop.cancel();
    ended.await.expect("it does not panic").expect("stopping is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_about_to_start_is_waited_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Postgres::start();
    let settings = Settings { database_url: server.url(), ..settings(folder.path()) };
    server.stop();
    let starting = tokio::spawn(started(settings));
    tokio::task::block_in_place(|| server.start_again());
    let (running, stop, ended) = starting.await.expect("it does not panic");
    assert!(running.publisher.head("default").is_some());
    stop.cancel();
    ended.await.expect("it does not panic").expect("stopping is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_exist_is_named_without_the_password() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Postgres::start();
    let url = server.url().replace("postgres@", "postgres:opensesame@").replace("/postgres", "/nowhere");
    let error = fails(Settings { database_url: url, ..settings(folder.path()) }).await;
    assert!(matches!(&error, RunError::Database { source: StoreError::Unavailable(_), .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("nowhere") && !text.contains("opensesame"), "{text}");
}

fn settings(data_dir: &Path) -> Settings {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    Settings {
        admin_bind: any_port,
        stream_bind: any_port,
        master_key: Some(MasterKeySource::Text("51".repeat(32))),
        ..Settings::new(data_dir.to_owned())
    }
}

/// The answer as it comes.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("it answers");
    answer
}

/// Starts a control plane and waits until it serves.
async fn started(settings: Settings) -> (Running, CancellationToken, JoinHandle<Result<(), RunError>>) {
    let stop = CancellationToken::new();
    let (ready, serves) = tokio::sync::oneshot::channel();
    // Nobody waits any more if the test has failed.
    let ended = tokio::spawn(run(settings, stop.clone(), |running| drop(ready.send(running))));
    match serves.await {
        Ok(running) => (running, stop, ended),
        Err(_) => panic!("it does not start: {:?}", ended.await.expect("it does not panic")),
    }
}

async fn fails(settings: Settings) -> RunError {
    run(settings, CancellationToken::new(), |_| panic!("it cannot serve")).await.expect_err("it cannot start")
}
