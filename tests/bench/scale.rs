//! Cost of a change and of a match, by number of routes.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Options;
use crate::dimensions;
use crate::load::Plan;
use crate::process::{Process, free_port, wait_for_port};
use crate::report::{Report, median};
use crate::sluice::{Gateway, status_of, wait_for_status};

const ROUTES_PER_CALL: usize = 100_000;

/// What every configuration begins with: a listener, a service, and the list of its routes.
pub fn beginning(traffic: u16, upstream: u16) -> String {
    format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"127.0.0.1:{traffic}\" }}]\nservices: [{{ name: bench, url: \"http://127.0.0.1:{upstream}\" }}]\nroutes:\n"
    )
}

/// How many routes, and over how many hosts.
pub struct Size {
    pub routes: usize,
    pub hosts: usize,
}

impl Size {
    pub fn host(&self, route: usize) -> String {
        format!("h{}.example", route % self.hosts)
    }

    pub fn path(route: usize) -> String {
        format!("/r{route}")
    }

    /// The configuration in files of which each can be applied in one call.
    pub fn files(&self, traffic: u16, upstream: u16) -> impl Iterator<Item = String> {
        (0..self.routes).step_by(ROUTES_PER_CALL).map(move |first| {
            let mut text = beginning(traffic, upstream);
            for route in first..self.routes.min(first + ROUTES_PER_CALL) {
                let (host, path) = (self.host(route), Self::path(route));
                let _ = writeln!(text, "  - {{ name: r{route}, hosts: [{host}], paths: [{path}], service: bench }}");
            }
            text
        })
    }
}

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let upstream = free_port()?;
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = [exe.as_str(), "upstream", &upstream.to_string()];
    let _upstream = Process::start("upstream", 0, &command, &[], &folder.path().join("upstream.log"))?;
    wait_for_port(upstream, "the upstream")?;
    let mut sizes = vec![
        Size { routes: 10, hosts: 10 },
        Size { routes: 1_000, hosts: 100 },
        Size { routes: 100_000, hosts: 10_000 },
        Size { routes: 100_000, hosts: 1 },
        Size { routes: 1_000_000, hosts: 10_000 },
    ];
    if options.quick {
        sizes.retain(|size| matches!(size.routes, 10 | 100_000));
    }
    let mut changes = Vec::new();
    let mut matches = Vec::new();
    let mut base: Option<f64> = None;
    let mut empty_memory = 0.0;
    for size in &sizes {
        let gateway = Gateway::start(&options.sluice)?;
        let traffic = gateway.traffic_port;
        let start = Instant::now();
        for file in size.files(traffic, upstream) {
            gateway.apply(&file)?;
        }
        let load_seconds = start.elapsed().as_secs_f64();
        wait_for_status(traffic, &size.host(0), &Size::path(0), 200)?;
        // Threads that did the work end after ten idle seconds, and their memory with them.
        std::thread::sleep(Duration::from_secs(12));
        let memory = gateway.node.memory_bytes() as f64;
        if size.routes == 10 {
            empty_memory = memory;
        }
        let per_route = if size.routes > 10 { (memory - empty_memory) / (size.routes - 10) as f64 } else { 0.0 };
        let label = format!("{} routes, {} hosts", size.routes, size.hosts);
        matches.push(match_cost(&gateway, size, &label, &mut base)?);
        changes.push(one_route_changes(
            &gateway,
            size,
            &label,
            if options.quick { 50 } else { 200 },
            memory,
            per_route,
            load_seconds,
        )?);
    }
    let by_dimension = dimensions::measure(options, upstream)?;
    report.add(
        "One-route change",
        "Each change writes a new path for one route and asks for it until it is served. CPU is of the whole process during the change and after it has settled; bytes are what the control plane sent to the node, heartbeats included.",
        &["configuration", "API answer to served, p50 ms", "p99 ms", "API call, p50 ms", "node CPU ms", "control plane CPU ms", "bytes sent", "node memory MiB", "bytes per route", "whole apply s"],
        changes,
    );
    report.add(
        "Match cost: CPU per request, by route that is asked for",
        "Ratio to the first route at 10 routes.",
        &["configuration", "first", "last", "missing (404)"],
        matches,
    );
    report.add(
        "Match cost by header and by query: CPU per request, by route that is asked for",
        "All routes are on one path and differ in the value of one header field or query parameter. Ratio to the first route of the first row.",
        &["configuration", "first", "last", "missing (404)", "explain, p50 ms"],
        by_dimension,
    );
    Ok(())
}

fn one_route_changes(
    gateway: &Gateway,
    size: &Size,
    label: &str,
    count: usize,
    memory: f64,
    per_route: f64,
    load_seconds: f64,
) -> Result<Vec<String>> {
    let mut admin = gateway.connect()?;
    let mut probe = None;
    let (node, control, sent) =
        (gateway.node.cpu_ns()?, gateway.control.process.cpu_ns()?, gateway.sent.load(Ordering::Relaxed));
    let mut latencies = Vec::new();
    let mut calls = Vec::new();
    for change in 0..count {
        let route = change * 7919 % size.routes;
        let (host, path) = (size.host(route), format!("/changed{change}"));
        let body = format!(r#"{{"hosts":["{host}"],"paths":["{path}"],"service":"bench"}}"#);
        let start = Instant::now();
        gateway.put_route(&mut admin, &format!("r{route}"), &body)?;
        let answered = Instant::now();
        while status_of(&mut probe, gateway.traffic_port, &host, &path) != Some(200) {
            if answered.elapsed() > Duration::from_secs(10) {
                anyhow::bail!("a change was not served within 10 s");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        calls.push((answered - start).as_secs_f64() * 1000.0);
        latencies.push(answered.elapsed().as_secs_f64() * 1000.0);
    }
    // What is done after the answer counts too: writing to disk, freeing the old.
    std::thread::sleep(Duration::from_secs(1));
    let each = |before: u64, after: u64| (after - before) as f64 / count as f64;
    latencies.sort_by(f64::total_cmp);
    let p99 = latencies[(latencies.len() * 99 / 100).min(latencies.len() - 1)];
    Ok(vec![
        label.to_owned(),
        format!("{:.2}", median(&latencies)),
        format!("{p99:.2}"),
        format!("{:.2}", median(&calls)),
        format!("{:.2}", each(node, gateway.node.cpu_ns()?) / 1e6),
        format!("{:.2}", each(control, gateway.control.process.cpu_ns()?) / 1e6),
        format!("{:.0}", each(sent, gateway.sent.load(Ordering::Relaxed))),
        format!("{:.1}", memory / 1024.0 / 1024.0),
        format!("{per_route:.0}"),
        format!("{load_seconds:.2}"),
    ])
}

fn match_cost(gateway: &Gateway, size: &Size, label: &str, base: &mut Option<f64>) -> Result<Vec<String>> {
    let last = size.routes - 2;
    let mut row = vec![label.to_owned()];
    for (route, path, status) in
        [(1, Size::path(1), 200), (last, Size::path(last), 200), (1, "/missing".to_owned(), 404)]
    {
        let plan = Plan {
            port: gateway.traffic_port,
            host: size.host(route),
            path,
            fields: String::new(),
            connections: 32,
            millis: 1500,
            rate: 0,
            expect_status: status,
        };
        let cpu_us = gateway.cpu_us(&plan)?;
        let base = *base.get_or_insert(cpu_us);
        row.push(format!("{:.2} ({cpu_us:.2} us)", cpu_us / base));
    }
    Ok(row)
}
