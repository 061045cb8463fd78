//! Very many consumers: what they take, what adding one costs, and whether requests notice.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use model::resource::consumer::KeyHash;
use tests::http::Connection;

use crate::Options;
use crate::fleet::quantiles;
use crate::load::Plan;
use crate::process::{Process, free_port, wait_for_port};
use crate::report::Report;
use crate::sluice::{Gateway, wait_for_status};

const PER_CALL: usize = 100_000;
const HOST: &str = "bench.example";

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let (count, additions) = if options.quick { (10_000, 20) } else { (1_000_000, 200) };
    let folder = tempfile::tempdir()?;
    let upstream = free_port()?;
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = [exe.as_str(), "upstream", &upstream.to_string()];
    let _upstream = Process::start("upstream", 0, &command, &[], &folder.path().join("upstream.log"))?;
    wait_for_port(upstream, "the upstream")?;
    let mut gateway = Gateway::start(&options.sluice)?;
    let traffic = gateway.traffic_port;
    gateway.apply(&format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"127.0.0.1:{traffic}\" }}]\nservices: [{{ name: bench, url: \"http://127.0.0.1:{upstream}\" }}]\n\
         policies: [{{ name: keys, type: key-auth }}]\nroutes: [{{ name: bench, hosts: [{HOST}], paths: [/], service: bench, policies: [keys] }}]\n"
    ))?;
    gateway.apply(&consumers(0..1))?;
    wait_for_status(traffic, HOST, "/", 401)?;
    let with_one = gateway.cpu_us(&plan(traffic, 0))?;
    std::thread::sleep(Duration::from_secs(12));
    let (node, control) = (gateway.node.memory_bytes(), gateway.control.process.memory_bytes());

    let start = Instant::now();
    for first in (1..count).step_by(PER_CALL) {
        gateway.apply(&consumers(first..count.min(first + PER_CALL)))?;
    }
    let loaded = start.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(12));
    let each = |before: u64, after: u64| (after.saturating_sub(before)) as f64 / count as f64;
    let memory = (each(node, gateway.node.memory_bytes()), each(control, gateway.control.process.memory_bytes()));
    let with_all = gateway.cpu_us(&plan(traffic, count - 1))?;
    let added = add(&gateway, additions)?;
    let node_memory = gateway.node.memory_bytes();
    let from_disk = gateway.restart_node("node")?;
    wait_until_known(traffic, count - 1)?;
    let anew = gateway.restart_node("another")?;
    wait_until_known(traffic, count - 1)?;
    report.add(
        &format!("{count} consumers with one key each"),
        &format!("Applied in calls of {PER_CALL}, until the node serves them. A node starts until it is ready: from what it has on its disk, and a new one that gets everything from the control plane."),
        &["apply s", "node: bytes per consumer", "control plane: bytes per consumer", "node MiB", "node starts from disk s", "a new node starts s", "CPU us per request with 1 consumer", "with all"],
        vec![vec![
            format!("{loaded:.1}"),
            format!("{:.0}", memory.0),
            format!("{:.0}", memory.1),
            format!("{:.0}", node_memory as f64 / 1024.0 / 1024.0),
            format!("{from_disk:.1}"),
            format!("{anew:.1}"),
            format!("{with_one:.2}"),
            format!("{with_all:.2}"),
        ]],
    );
    report.add(
        &format!("One more consumer beside {count}"),
        "Each call makes a consumer with a key, which is shown to the node until it counts. CPU is of the whole process during the additions and after they have settled.",
        &["additions", "node CPU ms", "control plane CPU ms", "API call: p50 ms", "API answer to served: p50 ms", "p99 ms"],
        vec![added],
    );
    Ok(())
}

fn key(number: usize) -> String {
    format!("key-of-consumer-{number:012}")
}

fn consumers(numbers: std::ops::Range<usize>) -> String {
    let mut text = "version: 1\nconsumers:\n".to_owned();
    for number in numbers {
        let hash = KeyHash::of(key(number).as_bytes());
        let _ = writeln!(
            text,
            "  - {{ name: c{number}, credentials: [{{ type: key-auth, name: main, key_sha256: \"{hash}\" }}] }}"
        );
    }
    text
}

fn plan(port: u16, number: usize) -> Plan {
    Plan {
        port,
        host: HOST.to_owned(),
        path: "/".to_owned(),
        fields: format!("X-API-Key: {}\r\n", key(number)),
        connections: 32,
        millis: 1500,
        rate: 0,
        expect_status: 200,
    }
}

fn add(gateway: &Gateway, additions: usize) -> Result<Vec<String>> {
    let mut admin = gateway.connect()?;
    let (node, control) = (gateway.node.cpu_ns()?, gateway.control.process.cpu_ns()?);
    let (mut calls, mut latencies) = (Vec::new(), Vec::new());
    for addition in 0..additions {
        let number = 1_000_000_000 + addition;
        let hash = KeyHash::of(key(number).as_bytes());
        let path = format!("/v1/gateways/default/consumers/added{addition}");
        let body = format!(r#"{{"credentials":[{{"type":"key-auth","name":"main","key_sha256":"{hash}"}}]}}"#);
        let start = Instant::now();
        gateway.call(&mut admin, "PUT", &path, "application/json", &body)?;
        let answered = Instant::now();
        wait_until_known(gateway.traffic_port, number)?;
        calls.push((answered - start).as_secs_f64() * 1000.0);
        latencies.push(answered.elapsed().as_secs_f64() * 1000.0);
    }
    // What is done after the answer counts too: writing to disk, freeing the old.
    std::thread::sleep(Duration::from_secs(1));
    let each = |before: u64, after: u64| format!("{:.2}", (after - before) as f64 / additions as f64 / 1e6);
    let (node, control) = (each(node, gateway.node.cpu_ns()?), each(control, gateway.control.process.cpu_ns()?));
    let of_calls = format!("{:.2}", quantiles(&mut calls)(50));
    let of = quantiles(&mut latencies);
    Ok(vec![additions.to_string(), node, control, of_calls, format!("{:.2}", of(50)), format!("{:.2}", of(99))])
}

/// Shows the key of a consumer until the node knows it.
fn wait_until_known(port: u16, number: usize) -> Result<()> {
    let key = key(number);
    let fields = [("Host", HOST), ("X-API-Key", key.as_str())];
    let end = Instant::now() + Duration::from_secs(60);
    let mut connection: Option<Connection> = None;
    while Instant::now() < end {
        let mut kept = match connection.take() {
            Some(kept) => kept,
            None => match Connection::open(([127, 0, 0, 1], port).into()) {
                Ok(opened) => opened,
                Err(_) => continue,
            },
        };
        match kept.send("GET", "/", &fields, b"") {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(_) => connection = Some(kept),
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    bail!("the node does not know consumer {number} within 60 s")
}
