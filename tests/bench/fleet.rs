//! Very many nodes on one control plane: what a change costs and how long it takes to be everywhere, and what happens
//! when all of them come at once.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Options;
use crate::nodes::{Nodes, Plan, State, unix_ms};
use crate::process::Process;
use crate::report::Report;
use crate::scale::Size;
use crate::sluice::Control;

const LONG: Duration = Duration::from_secs(120);

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let (count, size, changes) = match options.quick {
        true => (200, Size { routes: 1_000, hosts: 100 }, 20),
        false => (2_000, Size { routes: 100_000, hosts: 10_000 }, 200),
    };
    let folder = tempfile::tempdir()?;
    let mut control = Control::start(&options.sluice)?;
    for file in size.files(1, 2) {
        control.load(&file)?;
    }
    // Threads that did the work end after ten idle seconds, and their memory with them.
    std::thread::sleep(Duration::from_secs(12));
    let before = control.process.memory_bytes();

    let start = unix_ms();
    let mut nodes = Nodes::start(&plan(&control, count, folder.path())?)?;
    let revision = control.head()?;
    let everywhere = |state: &State| state.connected == count && state.oldest >= revision;
    let mut rows = Vec::new();
    let came = nodes.wait_until("all nodes have joined", LONG, everywhere)?;
    rows.push(coming("join, and get everything", start, &came, &came.served_at, &control.process));
    std::thread::sleep(Duration::from_secs(12));
    let connected = control.process.memory_bytes();

    let changed = change(&control, &size, count, changes)?;
    std::thread::sleep(Duration::from_secs(12));
    let after = control.process.memory_bytes();
    let per_node = |bytes: u64| format!("{:.1}", bytes.saturating_sub(before) as f64 / 1024.0 / count as f64);
    report.add(
        &format!("One-route change on {count} nodes, {} routes", size.routes),
        "From the call of the admin API to the answer that all nodes serve the change. The nodes are light ones, all in one process on the other core: they join, connect by mutual TLS and acknowledge as real ones do, but compile nothing. Bytes are those that loopback carried in both directions with the headers of TCP and IP, heartbeats included. Memory is that of the control plane beyond what it takes with the configuration alone.",
        &["changes", "all serve: p50 ms", "p99 ms", "worst ms", "bytes per change and node", "control plane CPU ms", "KiB per node, connected", "KiB per node, after the changes"],
        vec![[changed, vec![per_node(connected), per_node(after)]].concat()],
    );

    let revision = control.head()?;
    let back = |state: &State| state.connected == count && state.oldest >= revision;
    control.restart()?;
    let start = unix_ms();
    let came = nodes.wait_until("all nodes are back", LONG, |state| {
        back(state) && state.connected_at.iter().all(|at| *at > start.saturating_sub(5_000))
    })?;
    rows.push(coming(
        "come back after the control plane was killed",
        start,
        &came,
        &came.connected_at,
        &control.process,
    ));

    // The same identities, but nothing that they hold.
    drop(nodes);
    std::thread::sleep(Duration::from_secs(2));
    let start = unix_ms();
    let mut nodes = Nodes::start(&plan(&control, count, folder.path())?)?;
    let came = nodes.wait_until("all nodes have everything", LONG, back)?;
    rows.push(coming("come back without what they held", start, &came, &came.served_at, &control.process));
    report.add(
        &format!("{count} nodes at once, {} routes", size.routes),
        "Seconds until a node is connected, and where it holds nothing, until it has the whole configuration; counted from when the control plane listens, or from when the nodes start. Failures are attempts to connect that ended before the stream began. The peak is the most memory that the control plane ever took in its life, that of loading the configuration included.",
        &["the nodes", "p50 s", "p99 s", "the last s", "failures", "control plane: peak MiB", "open files"],
        rows,
    );
    Ok(())
}

fn plan(control: &Control, count: usize, folder: &Path) -> Result<Plan> {
    Ok(Plan {
        count,
        stream_port: control.stream_port,
        join_token: control.join_token(10_000)?,
        folder: folder.to_path_buf(),
    })
}

fn coming(what: &str, start: u64, state: &State, at: &[u64], control: &Process) -> Vec<String> {
    let mut seconds: Vec<f64> = at.iter().map(|at| at.saturating_sub(start) as f64 / 1000.0).collect();
    let of = quantiles(&mut seconds);
    vec![
        what.to_owned(),
        format!("{:.2}", of(50)),
        format!("{:.2}", of(99)),
        format!("{:.2}", of(100)),
        state.failures.to_string(),
        format!("{:.0}", control.peak_bytes() as f64 / 1024.0 / 1024.0),
        control.open_files().to_string(),
    ]
}

/// Changes one route after the other, each when the one before is everywhere.
fn change(control: &Control, size: &Size, count: usize, changes: usize) -> Result<Vec<String>> {
    let mut admin = control.connect()?;
    let (carried, cpu) = (loopback_bytes()?, control.process.cpu_ns()?);
    let mut millis = Vec::new();
    for change in 0..changes {
        let route = change * 7919 % size.routes;
        let path = format!("/v1/gateways/default/routes/r{route}?wait=serving&timeout=60s");
        let body = format!(r#"{{"hosts":["{}"],"paths":["/changed{change}"],"service":"bench"}}"#, size.host(route));
        let start = Instant::now();
        control.call(&mut admin, "PUT", &path, "application/json", &body)?;
        millis.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let (carried, cpu) = (loopback_bytes()? - carried, control.process.cpu_ns()? - cpu);
    let of = quantiles(&mut millis);
    Ok(vec![
        changes.to_string(),
        format!("{:.0}", of(50)),
        format!("{:.0}", of(99)),
        format!("{:.0}", of(100)),
        format!("{:.0}", carried as f64 / changes as f64 / count as f64),
        format!("{:.1}", cpu as f64 / changes as f64 / 1e6),
    ])
}

/// By the percent.
pub fn quantiles(values: &mut [f64]) -> impl Fn(usize) -> f64 + use<'_> {
    values.sort_by(f64::total_cmp);
    |percent| {
        values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// What the loopback interface has carried.
fn loopback_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("there is no loopback")?;
    line.split_whitespace().next().context("no bytes")?.parse().context("no number")
}
