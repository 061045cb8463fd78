//! Clocks that jump by an hour, of a control plane and of a node: changes flow, and certificates are renewed or made anew.
//!
//! The processes run with libfaketime between them and the C library; the clock that never jumps is left alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use tests::gateway::{Process, wait_until};

use crate::fleet::Fleet;

/// The library, where Debian puts it.
fn library() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let mut found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().context("this test needs libfaketime: apt-get install faketime (tests/run does it)")
}

/// From its next start on, the clock of a process is what the file says.
fn take_clock(process: &mut Process, file: &Path) -> Result<()> {
    set_clock(file, 0)?;
    let (library, file) = (library()?.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    process.environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    process.kill();
    Ok(())
}

fn set_clock(file: &Path, seconds: i32) -> Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{seconds:+}\n"))?;
    Ok(std::fs::rename(next, file)?)
}

#[test]
fn a_clock_that_jumps_by_an_hour_stops_no_change_and_no_traffic() -> Result<()> {
    // Shorter than the jump: what was certified before it has ended after it.
    let mut fleet = Fleet::start_with(1, 1, &["--certificate-lifetime", "40m"])?;
    let clocks = ["of-control-plane", "of-node"].map(|name| fleet.folder.path().join(name));
    take_clock(&mut fleet.controls[0].process, &clocks[0])?;
    take_clock(&mut fleet.nodes[0].process, &clocks[1])?;
    fleet.controls[0].start_again()?;
    fleet.nodes[0].process.start_again()?;
    fleet.nodes[0].wait_until_ready()?;
    let file = json!({ "version": 1, "listeners": [{ "name": "web", "bind": fleet.bind() }] });
    fleet.wait_until_converged()?;
    fleet.admin(0).apply(&file.to_string())?;

    let mut change = 0;
    for (clock, hours) in [(0, 1), (0, -1), (0, 0), (1, 1), (1, -1), (1, 0)] {
        set_clock(&clocks[clock], hours * 3600)?;
        for comes_anew in [false, true] {
            if comes_anew {
                fleet.nodes[0].process.kill();
                fleet.nodes[0].process.start_again()?;
                fleet.nodes[0].wait_until_ready()?;
                wait_until("the node follows", || fleet.wait_until_converged().is_ok())
                    .with_context(|| fleet.nodes[0].process.output())?;
            }
            change += 1;
            let body = json!({ "paths": ["/word"], "respond": { "body": change.to_string() } });
            let told = fleet.admin(0).succeed("PUT", "routes/word?wait=serving&timeout=20s", &body.to_string())?;
            assert_ne!(told.status, 202, "{hours} hours at {clock}: {}", told.text());
            assert_eq!(fleet.get(0, "any", "/word")?.text(), change.to_string());
        }
    }
    let revisions = fleet.admin(0).get("revisions?limit=1000")?;
    let revisions = revisions["items"].as_array().context("a list")?;
    assert!(revisions.is_sorted_by(|a, b| a["number"].as_u64() > b["number"].as_u64()), "{revisions:#?}");
    // RFC 3339 in UTC sorts as time does: or no clock has jumped.
    assert!(!revisions.is_sorted_by(|a, b| a["created_at"].as_str() >= b["created_at"].as_str()), "{revisions:#?}");
    let joined = fleet.nodes[0].process.output().matches("this node has joined").count();
    assert!(joined > 1, "a certificate that has ended is made anew with the join token");
    Ok(())
}
