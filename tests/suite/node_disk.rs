//! The disk of a node has no room, or holds something else than it did: the node serves on, and what it starts with is one
//! whole revision or nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tests::gateway::wait_until;
use tests::http;
use tests::traffic::{Backend, Traffic};

use crate::{Gateway, listener_address, simple_file};

fn last_good(gateway: &Gateway) -> PathBuf {
    gateway.node.data.join("last-good/default")
}

fn put(gateway: &Gateway, host: &str) -> Result<()> {
    let body = format!(r#"{{"hosts":["{host}"],"service":"orders"}}"#);
    gateway.control.admin.succeed("PUT", &format!("routes/{}?wait=serving&timeout=20s", &host[..1]), &body)?;
    Ok(())
}

fn is_served(listener: std::net::SocketAddr, host: &str) -> bool {
    http::get(listener, host, "/").is_ok_and(|answer| answer.status == 200)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    Ok(files.into_iter().map(|file| file.path()).filter(|path| path.is_file()).collect())
}

/// A folder that is gone takes as little as a disk that is full, and the node sees of both that it cannot write.
#[test]
fn a_node_that_cannot_write_serves_the_newest_and_says_so() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");
    wait_until("last-good is on disk", || files(&last_good(&gateway)).is_ok_and(|files| !files.is_empty()))?;
    let aside = gateway.node.data.join("aside");
    std::fs::rename(last_good(&gateway), &aside)?;
    std::fs::write(last_good(&gateway), "in the way")?;

    put(&gateway, "a.example")?;
    assert!(is_served(listener, "a.example"));
    let says = "to disk, will keep trying";
    wait_until("it says so", || gateway.node.process.output().lines().any(|line| line.contains(says)))
        .with_context(|| gateway.node.process.output())?;

    std::fs::remove_file(last_good(&gateway))?;
    std::fs::rename(&aside, last_good(&gateway))?;
    put(&gateway, "b.example")?;
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    // What it wrote since is whole: it starts with it.
    gateway.node.process.signal("TERM")?;
    gateway.node.process.wait()?;
    gateway.control.process.kill();
    gateway.node.process.start_again()?;
    gateway.node.wait_until_ready()?;
    assert!(is_served(listener, "a.example") && is_served(listener, "b.example"));
    Ok(())
}

#[test]
fn a_node_whose_files_are_damaged_serves_nothing_of_them_and_gets_everything_again() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    put(&gateway, "a.example")?;
    gateway.node.process.signal("TERM")?;
    gateway.node.process.wait()?;
    gateway.control.process.kill();
    for path in files(&last_good(&gateway))? {
        let mut bytes = std::fs::read(&path)?;
        let middle = bytes.len() / 2;
        bytes.iter_mut().skip(middle).for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes)?;
    }
    gateway.node.process.start_again()?;
    let readiness = || http::get(gateway.node.port, "node", "/readyz").map_or(0, |answer| answer.status);
    wait_until("it runs", || readiness() == 503)?;
    assert!(!is_served(listener, "a.example"), "nothing can be served");
    let log = gateway.node.process.output();
    assert!(log.contains("cannot use"), "it says so: {log}");

    gateway.control.start_again()?;
    gateway.node.wait_until_ready()?;
    assert!(is_served(listener, "a.example"));
    assert_eq!(http::get(listener, "shop.example", "/orders/7")?.status, 200);
    Ok(())
}
