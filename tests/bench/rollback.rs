//! A bad revision that goes out in steps: how soon its gates notice, how soon all nodes are back, and who met it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::http::Connection;

use crate::Options;
use crate::fleet::quantiles;
use crate::process::{Process, free_port, wait_for_port, wait_until};
use crate::report::Report;
use crate::sluice::Control;

/// Each at an address of its own, 127.0.0.1 and on.
const NODES: u8 = 3;
/// Of each node. A request that fails takes longer than its turn, so there are several clients.
const CLIENTS: u64 = 20;
const REQUESTS_PER_SECOND: u64 = 200;
const STRATEGY: &str = r#"{"steps":[{"nodes":{"count":1},"bake":"1m"},{"nodes":{"percent":100},"bake":"1m"}]}"#;

/// What the clients of one node have seen.
#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    failures: AtomicU64,
}

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = if options.quick { 3 } else { 20 };
    let folder = tempfile::tempdir()?;
    let (upstream, nobody, traffic) = (free_port()?, free_port()?, free_port()?);
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = [exe.as_str(), "upstream", &upstream.to_string()];
    let _upstream = Process::start("upstream", 0, &command, &[], &folder.path().join("upstream.log"))?;
    wait_for_port(upstream, "the upstream")?;
    let control = Control::start(&options.sluice)?;
    control.load(&format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"0.0.0.0:{traffic}\" }}]\nservices: [{{ name: bench, url: \"http://127.0.0.1:{upstream}\" }}]\nroutes: [{{ name: all, paths: [/], service: bench }}]\n"
    ))?;
    let start = |number: u8| {
        let address = [("SLUICE_LISTEN_ADDRESS", Ipv4Addr::new(127, 0, 0, number).to_string())];
        control.start_node(&format!("node{number}"), control.stream_port, &address)
    };
    let _nodes = (1..=NODES).map(start).collect::<Result<Vec<_>>>()?;
    control.call(
        &mut control.connect()?,
        "PUT",
        "/v1/gateways/default/rollout-strategy",
        "application/json",
        STRATEGY,
    )?;

    let (is_over, seen): (AtomicBool, Vec<Seen>) =
        (AtomicBool::new(false), (0..NODES).map(|_| Seen::default()).collect());
    let back = std::thread::scope(|scope| {
        let is_over = &is_over;
        for (address, seen) in
            (1..).map(|number| SocketAddr::from((Ipv4Addr::new(127, 0, 0, number), traffic))).zip(&seen)
        {
            for _ in 0..CLIENTS {
                scope.spawn(move || ask(address, seen, is_over));
            }
        }
        let back: Result<Vec<_>> = (0..rounds).map(|_| roll_back(&control, nobody)).collect();
        is_over.store(true, Ordering::Relaxed);
        back
    })?;
    let mut noticed: Vec<f64> = back.iter().map(|(noticed, _)| *noticed).collect();
    let mut all_back: Vec<f64> = back.iter().map(|(_, back)| *back).collect();
    let noticed = quantiles(&mut noticed)(50);
    let of = quantiles(&mut all_back);
    let met = seen.iter().filter(|seen| seen.failures.load(Ordering::Relaxed) > 0).count();
    let sum = |of: fn(&Seen) -> &AtomicU64| seen.iter().map(|seen| of(seen).load(Ordering::Relaxed)).sum::<u64>();
    report.add(
        "A bad revision, rolled back by its gates",
        &format!("{rounds} times, on {NODES} nodes with {REQUESTS_PER_SECOND} requests/s each: the service gets an address where nobody listens, and the first step gives it to one node. From the answer of the API until the gates have stopped it, and until all nodes serve what was before as a new revision. The gates want 100 requests to judge by."),
        &["noticed after s, p50", "all back after s, p50", "max", "nodes that met it", "requests that failed", "requests in all"],
        vec![vec![
            format!("{noticed:.2}"),
            format!("{:.2}", of(50)),
            format!("{:.2}", of(100)),
            format!("{met} of {NODES}"),
            sum(|seen| &seen.failures).to_string(),
            sum(|seen| &seen.requests).to_string(),
        ]],
    );
    Ok(())
}

/// Publishes a revision that sends requests nowhere; seconds until it is noticed, and until all nodes are back.
fn roll_back(control: &Control, nobody: u16) -> Result<(f64, f64)> {
    let mut connection = control.connect()?;
    let get = |connection: &mut Connection, path: String| {
        control.call(connection, "GET", &format!("/v1/gateways/default/{path}"), "", "")?.json()
    };
    // What nodes count of a revision they have to have counted of the one before.
    std::thread::sleep(Duration::from_secs(3));
    let path = "/v1/gateways/default/services/bench";
    let body = format!(r#"{{"url":"http://127.0.0.1:{nobody}"}}"#);
    let answer = control.call(&mut connection, "PUT", path, "application/json", &body)?;
    let start = Instant::now();
    let bad: u64 = answer.field("sluice-revision").context("no revision")?.parse()?;
    let mut state = String::new();
    wait_until("the gates notice", || {
        state = get(&mut connection, format!("rollouts/{bad}"))
            .ok()
            .and_then(|rollout| Some(rollout["state"].as_str()?.to_owned()))
            .unwrap_or_default();
        state.starts_with("rol")
    })?;
    let noticed = start.elapsed().as_secs_f64();
    wait_until("all nodes are back", || {
        let status = get(&mut connection, "status".to_owned());
        status.is_ok_and(|status| status["is_converged"] == true && status["revision"].as_u64() > Some(bad))
    })?;
    let back = start.elapsed().as_secs_f64();
    wait_until("the rollout is over", || {
        get(&mut connection, format!("rollouts/{bad}")).is_ok_and(|rollout| rollout["state"] == "rolled-back")
    })?;
    if state == "promoted" {
        bail!("revision {bad} was promoted");
    }
    Ok((noticed, back))
}

/// A client of one node that asks again and again.
fn ask(address: SocketAddr, seen: &Seen, is_over: &AtomicBool) {
    let mut kept = None;
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_micros(1_000_000 * CLIENTS / REQUESTS_PER_SECOND));
        if kept.is_none() {
            kept = Connection::open(address).ok();
        }
        let answer = kept.as_mut().and_then(|connection| connection.send("GET", "/", &[("Host", "bench")], b"").ok());
        seen.requests.fetch_add(1, Ordering::Relaxed);
        if answer.as_ref().is_none_or(|answer| answer.status != 200) {
            seen.failures.fetch_add(1, Ordering::Relaxed);
        }
        if answer.is_none() {
            kept = None;
        }
    }
}
