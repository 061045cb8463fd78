//! Very many changes in a row: whether each is kept, what they cost a node, and whether its requests notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Options;
use crate::fleet::quantiles;
use crate::load::{Outcome, Plan};
use crate::nodes::{self, Nodes};
use crate::process::{Process, free_port, wait_for_port};
use crate::report::Report;
use crate::scale::Size;
use crate::sluice::{Gateway, wait_for_status};

const CHANGES_PER_SECOND: u64 = 100;
/// Who makes the changes, at the same time.
const WRITERS: u64 = 4;
/// Beside the real node.
const LIGHT_NODES: usize = 20;

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let (size, seconds) = match options.quick {
        true => (Size { routes: 1_000, hosts: 100 }, 5),
        false => (Size { routes: 100_000, hosts: 10_000 }, 60),
    };
    let folder = tempfile::tempdir()?;
    let upstream = free_port()?;
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = [exe.as_str(), "upstream", &upstream.to_string()];
    let _upstream = Process::start("upstream", 0, &command, &[], &folder.path().join("upstream.log"))?;
    wait_for_port(upstream, "the upstream")?;
    let gateway = Gateway::start(&options.sluice)?;
    for file in size.files(gateway.traffic_port, upstream) {
        gateway.apply(&file)?;
    }
    wait_for_status(gateway.traffic_port, &size.host(0), &Size::path(0), 200)?;
    let mut light = Nodes::start(&nodes::Plan {
        count: LIGHT_NODES,
        stream_port: gateway.stream_port,
        join_token: gateway.join_token(LIGHT_NODES)?,
        folder: folder.path().to_path_buf(),
    })?;
    let head = gateway.head()?;
    let minute = Duration::from_secs(60);
    light.wait_until("the light nodes have joined", minute, |state| {
        state.connected == LIGHT_NODES && state.oldest >= head
    })?;

    // The one route that is not changed.
    let plan = Plan {
        port: gateway.traffic_port,
        host: size.host(0),
        path: Size::path(0),
        fields: String::new(),
        connections: 50,
        millis: seconds * 1000,
        rate: 1000,
        expect_status: 200,
    };
    let quiet = share_of_a_core(&gateway, || plan.run())?;
    let mut written = Vec::new();
    let changed = share_of_a_core(&gateway, || {
        let (gateway, size) = (&gateway, &size);
        std::thread::scope(|scope| {
            let write = move |writer| move || change(gateway, size, writer, seconds);
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
            let outcome = plan.run()?;
            for writer in writers {
                written.extend(writer.join().expect("a writer panicked")?);
            }
            Ok(outcome)
        })
    })?;
    let head = gateway.head()?;
    light.wait_until("all light nodes are at the end", minute, |state| {
        state.connected == LIGHT_NODES && state.oldest == head && state.newest == head
    })?;
    until_converged(&gateway)?;
    let missing = missing(&gateway, &written)?;
    let mut millis: Vec<f64> = written.iter().map(|written| written.millis).collect();
    let of = quantiles(&mut millis);
    report.add(
        &format!("{CHANGES_PER_SECOND} changes a second for {seconds} s, {} routes", size.routes),
        &format!("Each call changes one route, while 1,000 requests/s go through the node. {LIGHT_NODES} light nodes follow as well. Missing are changes that were acknowledged and are not in the history under their number. At the end all nodes serve the newest revision. The CPU for the changes is the difference to the same load without them."),
        &["acknowledged", "missing", "API call: p50 ms", "p99 ms", "node CPU for it, % of a core", "control plane CPU, % of a core", "requests that failed", "requests: p99 us without and with changes"],
        vec![vec![
            written.len().to_string(),
            missing.to_string(),
            format!("{:.1}", of(50)),
            format!("{:.1}", of(99)),
            format!("{:.1}", changed.0 - quiet.0),
            format!("{:.1}", changed.1 - quiet.1),
            changed.2.failures.to_string(),
            format!("{} / {}", quiet.2.p99_us, changed.2.p99_us),
        ]],
    );
    Ok(())
}

/// A change that was acknowledged.
struct Written {
    revision: u64,
    message: String,
    millis: f64,
}

/// One of the writers: its part of the changes, at its pace.
fn change(gateway: &Gateway, size: &Size, writer: u64, seconds: u64) -> Result<Vec<Written>> {
    let mut connection = gateway.connect()?;
    let pause = Duration::from_micros(1_000_000 * WRITERS / CHANGES_PER_SECOND);
    let mut written = Vec::new();
    let mut due = Instant::now();
    for round in 0..seconds * CHANGES_PER_SECOND / WRITERS {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        let route = 1 + usize::try_from(round * WRITERS + writer)? * 31 % (size.routes - 1);
        let message = format!("w{writer}-{round}");
        let path = format!("/v1/gateways/default/routes/r{route}?message={message}");
        let body = format!(r#"{{"hosts":["{}"],"paths":["/{message}"],"service":"bench"}}"#, size.host(route));
        let start = Instant::now();
        let answer = gateway.call(&mut connection, "PUT", &path, "application/json", &body)?;
        let millis = start.elapsed().as_secs_f64() * 1000.0;
        let revision = answer.field("sluice-revision").context("no revision")?.parse()?;
        written.push(Written { revision, message, millis });
    }
    Ok(written)
}

/// How many changes are not in the history as they were acknowledged.
fn missing(gateway: &Gateway, written: &[Written]) -> Result<usize> {
    let mut connection = gateway.connect()?;
    let mut kept = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/gateways/default/revisions?limit=1000{cursor}");
        let page = gateway.call(&mut connection, "GET", &path, "", "")?.json()?;
        for item in page["items"].as_array().context("no list")? {
            let number = item["number"].as_u64().context("no number")?;
            kept.insert(number, item["message"].as_str().unwrap_or_default().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    Ok(written.iter().filter(|written| kept.get(&written.revision) != Some(&written.message)).count())
}

fn until_converged(gateway: &Gateway) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let answer = gateway.call(&mut gateway.connect()?, "GET", "/v1/gateways/default/status", "", "")?.json()?;
        if answer["is_converged"] == true {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("not all nodes serve the newest revision")
}

/// What both planes took while something ran, in shares of a core.
fn share_of_a_core(gateway: &Gateway, run: impl FnOnce() -> Result<Outcome>) -> Result<(f64, f64, Outcome)> {
    let (node, control, begin) = (gateway.node.cpu_ns()?, gateway.control.process.cpu_ns()?, Instant::now());
    let outcome = run()?;
    let elapsed_ns = begin.elapsed().as_nanos() as f64;
    let share = |before: u64, after: u64| (after - before) as f64 * 100.0 / elapsed_ns;
    Ok((share(node, gateway.node.cpu_ns()?), share(control, gateway.control.process.cpu_ns()?), outcome))
}
