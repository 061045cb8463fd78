//! What a node does before it serves anything: a whole configuration compiled from nothing.

use std::time::Instant;

use anyhow::{Result, anyhow};
use model::config::Edit;
use model::resource::{Document, Key, Kind, Name};
use model::snapshot::Snapshot;
use serde_json::json;

use crate::Options;
use crate::report::{Report, spread};

const ROUTES: usize = 100_000;

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let runs = if options.quick { 2 } else { 5 };
    let mut rows = Vec::new();
    for hosts in [10_000, 1] {
        let seconds: Vec<f64> = (0..runs).map(|_| compile(hosts)).collect::<Result<_>>()?;
        rows.push(vec![format!("{ROUTES} routes, {hosts} hosts"), spread(&seconds)]);
    }
    report.add(
        "Compile from cold",
        "From stored documents to a snapshot that serves, on one thread, with the allocator of the system. Wanted: under 2 s.",
        &["configuration", "seconds: median (range; runs)"],
        rows,
    );
    Ok(())
}

/// How many seconds it takes.
fn compile(hosts: usize) -> Result<f64> {
    let service = json!({ "targets": [{ "url": "http://127.0.0.1:9000" }] }).to_string();
    let mut edits = vec![stored(Kind::Service, "bench", &service)?];
    for route in 0..ROUTES {
        let host = format!("h{}.example", route % hosts);
        let spec = json!({ "hosts": [host], "paths": [{ "prefix": format!("/r{route}") }], "backends": [{ "service": "bench" }] });
        edits.push(stored(Kind::Route, &format!("r{route}"), &spec.to_string())?);
    }
    let start = Instant::now();
    let compiled = Snapshot::default().apply(1, edits);
    let seconds = start.elapsed().as_secs_f64();
    compiled.map(|_| seconds).map_err(|problems| anyhow!("the routes do not hold: {}", problems.len()))
}

fn stored(kind: Kind, name: &str, spec: &str) -> Result<Edit> {
    let name: Name = name.parse().map_err(|error| anyhow!("{error}"))?;
    Ok(Edit::Restore { key: Key::new(kind, name), document: Document { created: 1, spec: spec.into() } })
}
