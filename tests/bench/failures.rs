//! What clients notice of a target that fails, and how well requests are shared out: Sluice, nginx and HAProxy in front
//! of the same targets.

use std::path::Path;

use anyhow::Result;

use crate::Options;
use crate::load::{Outcome, Plan};
use crate::process::{Process, free_port, wait_for_port};
use crate::proxies::{self, Proxy};
use crate::report::Report;
use crate::targets::{Mode, Targets};

/// Each in turn befalls the last of three targets.
const FAULTS: [(Mode, &str); 5] = [
    (Mode::Refuse, "refuses connections"),
    (Mode::BlackHole, "swallows packets"),
    (Mode::Reset, "resets connections"),
    (Mode::Error, "answers 500"),
    (Mode::Slow, "takes 2 s"),
];

/// Targets for the quality of balancing, and how long their answers take: one is five times slower.
const MANY: usize = 64;
const TAKES_US: u64 = 20_000;
const SLOW_TAKES_US: u64 = 100_000;

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    faults(options, report)?;
    balancing(options, report)
}

/// Targets in a process of their own, and the port that they are told on.
fn start_targets(folder: &Path, count: usize, micros: &str) -> Result<(Process, u16, Vec<u16>)> {
    let ports = (0..=count).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    let exe = std::env::current_exe()?;
    let command = [&exe.to_string_lossy(), "targets", &list.join(","), micros];
    let process = Process::start("targets", 0, &command, &[], &folder.join("targets.log"))?;
    wait_for_port(ports[0], "the targets")?;
    Ok((process, ports[0], ports[1..].to_vec()))
}

fn plan(proxy: &Proxy, rate: u64, millis: u64) -> Plan {
    Plan {
        port: proxy.port,
        host: "bench.example".into(),
        path: "/bench/1".into(),
        connections: 100,
        millis,
        fields: String::new(),
        rate,
        expect_status: 200,
    }
}

fn faults(options: &Options, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_process, control, ports) = start_targets(folder.path(), 3, "0")?;
    let mut targets = Targets::connect(control)?;
    let proxies = [sluice(options, &ports, "")?, nginx(folder.path(), &ports)?, haproxy(folder.path(), &ports)?];
    let after_ms = if options.quick { 3000 } else { 8000 };
    let mut rows = Vec::new();
    for (mode, what) in FAULTS {
        for proxy in &proxies {
            let healthy = plan(proxy, 1000, 2000).run()?;
            targets.set(2, mode)?;
            let first = plan(proxy, 1000, 1000).run()?;
            let after = plan(proxy, 1000, after_ms).run()?;
            targets.set(2, Mode::Healthy)?;
            // Whoever has put the target aside takes it back.
            std::thread::sleep(std::time::Duration::from_millis(if options.quick { 3000 } else { 12_000 }));
            rows.push(vec![
                what.to_owned(),
                proxy.name.to_owned(),
                share(&first),
                share(&after),
                format!("{} / {}", healthy.p50_us, healthy.p99_us),
                format!("{} / {}", after.p50_us, after.p99_us),
                format!("{:.1}", after.p99_us as f64 / healthy.p99_us as f64),
            ]);
        }
    }
    report.add(
        "One of three targets fails, at 1,000 requests/s over 100 connections",
        "Failed: any answer but 200. Sluice as it comes; nginx with proxy_next_upstream for errors, timeouts and 500, a \
         connect timeout of 1 s and a read timeout of 1 s; HAProxy with three retries on all retryable errors, \
         redispatch, observe layer7 and the same timeouts.",
        &[
            "the target",
            "proxy",
            "failed in the first second",
            "failed after it",
            "before: p50 / p99 us",
            "after the first second: p50 / p99 us",
            "p99, ratio to before",
        ],
        rows,
    );
    Ok(())
}

fn share(outcome: &Outcome) -> String {
    let all = outcome.requests.max(1) as f64;
    format!("{:.2} % ({})", outcome.failures as f64 * 100.0 / all, outcome.failures)
}

fn balancing(options: &Options, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let micros = format!("{SLOW_TAKES_US}{}", format!(",{TAKES_US}").repeat(MANY - 1));
    let (_process, _, ports) = start_targets(folder.path(), MANY, &micros)?;
    let mut rows = Vec::new();
    for policy in ["round_robin", "least_request", "peak_ewma"] {
        let proxy = sluice(options, &ports, &format!("load_balancing: {policy}, "))?;
        plan(&proxy, 1500, 1000).run()?;
        let outcome = plan(&proxy, 1500, if options.quick { 3000 } else { 10_000 }).run()?;
        rows.push(vec![
            policy.to_owned(),
            outcome.p50_us.to_string(),
            outcome.p99_us.to_string(),
            outcome.p999_us.to_string(),
            share(&outcome),
        ]);
    }
    report.add(
        "64 targets of one worker each, one of them five times slower, at 1,500 requests/s",
        "An answer takes 20 ms, and 100 ms from the slow one, which can give 10 a second.",
        &["load_balancing", "p50 us", "p99 us", "p99.9 us", "failed"],
        rows,
    );
    Ok(())
}

fn sluice(options: &Options, targets: &[u16], settings: &str) -> Result<Proxy> {
    let list: Vec<String> = targets.iter().map(|port| format!("{{ url: \"http://127.0.0.1:{port}\" }}")).collect();
    proxies::sluice(options, &format!("{settings}targets: [{}]", list.join(", ")))
}

fn nginx(folder: &Path, targets: &[u16]) -> Result<Proxy> {
    let servers: String = targets.iter().map(|port| format!("server 127.0.0.1:{port}; ")).collect();
    let location = "proxy_next_upstream error timeout http_500 http_502 http_503; proxy_connect_timeout 1s; proxy_read_timeout 1s;";
    proxies::nginx(folder, &format!("least_conn; {servers}"), location)
}

fn haproxy(folder: &Path, targets: &[u16]) -> Result<Proxy> {
    let servers: String = (0..).zip(targets).map(|(n, port)| format!("  server s{n} 127.0.0.1:{port}\n")).collect();
    let backend = format!(
        "  timeout connect 1s\n  timeout server 1s\n  balance leastconn\n  retries 3\n  option redispatch 1\n  \
         retry-on all-retryable-errors 500\n  default-server check inter 1s observe layer7 error-limit 10 on-error mark-down\n{servers}"
    );
    proxies::haproxy(folder, &backend)
}
