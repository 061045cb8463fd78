//! Cost of a request: Sluice, nginx and HAProxy, one after the other, forwards and backwards.

use anyhow::{Result, bail};

use crate::Options;
use crate::load::{Outcome, Plan};
use crate::process::{Process, free_port, wait_for_port};
use crate::proxies::{self, Proxy};
use crate::report::{Report, median, spread};

/// What nginx tells the service of the client, as the others do.
const FORWARDED: &str = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;";

/// One run of one proxy.
struct Sample {
    cpu_us: f64,
    rate: f64,
    outcome: Outcome,
}

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let upstream_port = free_port()?;
    let exe = std::env::current_exe()?;
    let exe = exe.to_string_lossy();
    let command = [&*exe, "upstream", &upstream_port.to_string()];
    let _upstream = Process::start("upstream", 0, &command, &[], &folder.path().join("upstream.log"))?;
    wait_for_port(upstream_port, "the upstream")?;
    let haproxy_backend = format!("  option forwardfor\n  server one 127.0.0.1:{upstream_port}\n");
    let proxies = [
        proxies::sluice(options, &format!("url: \"http://127.0.0.1:{upstream_port}\""))?,
        proxies::nginx(folder.path(), &format!("server 127.0.0.1:{upstream_port};"), FORWARDED)?,
        proxies::haproxy(folder.path(), &haproxy_backend)?,
    ];
    idle_memory(&proxies, report)?;
    let rounds = if options.quick { 1 } else { 4 };
    saturated(&proxies, rounds, if options.quick { 1000 } else { 2000 }, report)?;
    fixed_rate(&proxies, if options.quick { 1 } else { 2 }, report)?;
    connection_memory(&proxies, report)
}

fn plan(proxy: &Proxy) -> Plan {
    Plan {
        port: proxy.port,
        host: "bench.example".into(),
        path: "/bench/1".into(),
        connections: 64,
        millis: 2000,
        fields: String::new(),
        rate: 0,
        expect_status: 200,
    }
}

fn run(proxy: &Proxy, plan: &Plan) -> Result<Sample> {
    let before = proxy.process().cpu_ns()?;
    let outcome = plan.run()?;
    let cpu_ns = proxy.process().cpu_ns()? - before;
    if outcome.failures > 0 {
        bail!("{}: {} of {} answers were wrong", proxy.name, outcome.failures, outcome.requests);
    }
    let requests = outcome.requests as f64;
    Ok(Sample { cpu_us: cpu_ns as f64 / 1000.0 / requests, rate: requests / outcome.seconds, outcome })
}

/// Runs A B C C B A, `rounds` times; samples by proxy. A ratio is that of a sample to nginx's in the same pass.
fn passes(proxies: &[Proxy], rounds: usize, plan_of: impl Fn(&Proxy) -> Plan) -> Result<Vec<Vec<Sample>>> {
    let mut samples: Vec<Vec<Sample>> = proxies.iter().map(|_| Vec::new()).collect();
    for proxy in proxies {
        run(proxy, &Plan { millis: 300, ..plan_of(proxy) })?;
    }
    for pass in 0..rounds * 2 {
        let forwards: Vec<usize> = (0..proxies.len()).collect();
        let order = if pass % 2 == 0 { forwards } else { forwards.into_iter().rev().collect() };
        for index in order {
            samples[index].push(run(&proxies[index], &plan_of(&proxies[index]))?);
        }
    }
    Ok(samples)
}

fn nginx_index(proxies: &[Proxy]) -> usize {
    proxies.iter().position(|proxy| proxy.name == "nginx").unwrap_or(0)
}

fn ratios(samples: &[Vec<Sample>], base: usize, index: usize, value: impl Fn(&Sample) -> f64) -> Vec<f64> {
    samples[index].iter().zip(&samples[base]).map(|(own, base)| value(own) / value(base)).collect()
}

fn saturated(proxies: &[Proxy], rounds: usize, millis: u64, report: &mut Report) -> Result<()> {
    let samples = passes(proxies, rounds, |proxy| Plan { millis, ..plan(proxy) })?;
    let base = nginx_index(proxies);
    let rows = (0..proxies.len())
        .map(|index| {
            let own = &samples[index];
            vec![
                proxies[index].name.to_owned(),
                spread(&ratios(&samples, base, index, |sample| sample.cpu_us)),
                format!("{:.2}", median(&own.iter().map(|sample| sample.cpu_us).collect::<Vec<_>>())),
                format!("{:.0}", median(&own.iter().map(|sample| sample.rate).collect::<Vec<_>>())),
                format!("{:.0}", median(&own.iter().map(|sample| sample.outcome.p99_us as f64).collect::<Vec<_>>())),
            ]
        })
        .collect();
    report.add(
        "GET, 200-byte answer, 64 keep-alive connections, one core, saturated",
        "CPU is of the whole process tree. The ratio is to nginx in the same pass: median (range; passes).",
        &["proxy", "CPU per request, ratio to nginx", "CPU us per request", "requests/s", "p99 us"],
        rows,
    );
    Ok(())
}

fn fixed_rate(proxies: &[Proxy], rounds: usize, report: &mut Report) -> Result<()> {
    let samples = passes(proxies, rounds, |proxy| Plan { rate: 10_000, millis: 3000, ..plan(proxy) })?;
    let base = nginx_index(proxies);
    let rows = (0..proxies.len())
        .map(|index| {
            let of = |value: fn(&Outcome) -> u64| {
                let values: Vec<f64> = samples[index].iter().map(|sample| value(&sample.outcome) as f64).collect();
                format!("{:.0}", median(&values))
            };
            vec![
                proxies[index].name.to_owned(),
                spread(&ratios(&samples, base, index, |sample| sample.cpu_us)),
                of(|outcome| outcome.p50_us),
                of(|outcome| outcome.p99_us),
                of(|outcome| outcome.p999_us),
            ]
        })
        .collect();
    report.add(
        "The same at a fixed rate of 10,000 requests/s",
        "Latency is counted from when a request was due, so that a stall is not hidden.",
        &["proxy", "CPU per request, ratio to nginx", "p50 us", "p99 us", "p99.9 us"],
        rows,
    );
    Ok(())
}

fn idle_memory(proxies: &[Proxy], report: &mut Report) -> Result<()> {
    let rows =
        proxies.iter().map(|proxy| vec![proxy.name.to_owned(), mebibytes(proxy.process().memory_bytes())]).collect();
    report.add("Memory before any request", "Proportional set size of the process tree.", &["proxy", "MiB"], rows);
    Ok(())
}

fn connection_memory(proxies: &[Proxy], report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for proxy in proxies {
        let before = proxy.process().memory_bytes();
        let connections = open_connections(proxy.port, 10_000)?;
        let after = proxy.process().memory_bytes();
        let each = after.saturating_sub(before) as f64 / 1024.0 / connections.len() as f64;
        rows.push(vec![proxy.name.to_owned(), mebibytes(before), mebibytes(after), format!("{each:.1}")]);
    }
    report.add(
        "Memory with 10,000 connections",
        "Each connection has served one request and idles. Before: after the load above.",
        &["proxy", "before, MiB", "with 10,000, MiB", "KiB per connection"],
        rows,
    );
    Ok(())
}

fn open_connections(port: u16, count: usize) -> Result<Vec<std::net::TcpStream>> {
    use std::io::{Read, Write};
    let mut connections = Vec::with_capacity(count);
    let mut buffer = [0; 4096];
    for _ in 0..count {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /bench/1 HTTP/1.1\r\nHost: bench.example\r\n\r\n")?;
        if stream.read(&mut buffer)? == 0 {
            bail!("the proxy on port {port} closed a new connection");
        }
        connections.push(stream);
    }
    Ok(connections)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1024.0 / 1024.0)
}
