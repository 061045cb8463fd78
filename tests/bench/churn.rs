//! What it costs a node when targets come, go and change all the time, beside the configuration.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Options;
use crate::load::{Outcome, Plan};
use crate::process::{Process, free_port, wait_for_port};
use crate::report::Report;
use crate::sluice::{Gateway, wait_for_status};

const TARGETS: u64 = 1000;
const CHANGES_PER_SECOND: u64 = 500;
/// Who makes the changes, at the same time.
const WRITERS: u64 = 4;

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let upstream = free_port()?;
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    // On all addresses of loopback, each of which is a target.
    let command = [exe.as_str(), "upstream", &upstream.to_string(), "0.0.0.0"];
    let _upstream = Process::start("upstream", 0, &command, &[], &folder.path().join("upstream.log"))?;
    wait_for_port(upstream, "the upstream")?;
    let gateway = Gateway::start(&options.sluice)?;
    let traffic = gateway.traffic_port;
    let list: Vec<String> = (0..TARGETS).map(|n| format!("{{ url: \"http://{}\" }}", target(n, upstream))).collect();
    gateway.apply(&format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"127.0.0.1:{traffic}\" }}]\nservices: [{{ name: bench, targets: [{}] }}]\n\
         routes: [{{ name: bench, hosts: [bench.example], paths: [/bench], service: bench }}]\n",
        list.join(", ")
    ))?;
    wait_for_status(traffic, "bench.example", "/bench/1", 200)?;

    let millis = if options.quick { 4000 } else { 15_000 };
    let plan = Plan {
        port: traffic,
        host: "bench.example".into(),
        path: "/bench/1".into(),
        connections: 50,
        millis,
        fields: String::new(),
        rate: 1000,
        expect_status: 200,
    };
    // Connections to all targets are made first.
    plan.run()?;
    let quiet = share_of_a_core(&gateway, || plan.run())?;
    let churned = share_of_a_core(&gateway, || {
        let gateway = &gateway;
        std::thread::scope(|scope| {
            let writers: Vec<_> =
                (0..WRITERS).map(|first| scope.spawn(move || change(gateway, upstream, first, millis))).collect();
            let outcome = plan.run()?;
            for writer in writers {
                writer.join().expect("a writer panicked")?;
            }
            Ok(outcome)
        })
    })?;
    report.add(
        "500 changes of targets a second, on a service with 1,000 targets",
        "Weights change through the admin API, one target with each call, while 1,000 requests/s go through the node.",
        &["changes/s", "node CPU, % of a core", "control plane CPU, % of a core", "requests that failed", "p99 us"],
        vec![row(0, &quiet), row(CHANGES_PER_SECOND, &churned)],
    );
    Ok(())
}

fn target(number: u64, port: u16) -> String {
    format!("127.0.{}.{}:{port}", number / 250 + 1, number % 250 + 1)
}

/// One of the writers: its part of the changes, at its pace.
fn change(gateway: &Gateway, port: u16, first: u64, millis: u64) -> Result<()> {
    let mut connection = gateway.connect()?;
    let pause = Duration::from_micros(1_000_000 * WRITERS / CHANGES_PER_SECOND);
    let begin = Instant::now();
    let mut due = begin;
    for round in 0.. {
        if begin.elapsed() >= Duration::from_millis(millis) {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        let number = (first + round * WRITERS) % TARGETS;
        let weight = round % 100 + 1;
        gateway.put_target(&mut connection, "bench", &target(number, port), &format!("{{\"weight\": {weight}}}"))?;
    }
    Ok(())
}

/// What both planes took while something ran, in shares of a core.
fn share_of_a_core(gateway: &Gateway, run: impl FnOnce() -> Result<Outcome>) -> Result<(f64, f64, Outcome)> {
    let (node, control, begin) = (gateway.node.cpu_ns()?, gateway.control.process.cpu_ns()?, Instant::now());
    let outcome = run()?;
    let elapsed_ns = begin.elapsed().as_nanos() as f64;
    let share = |before: u64, after: u64| (after - before) as f64 * 100.0 / elapsed_ns;
    Ok((share(node, gateway.node.cpu_ns()?), share(control, gateway.control.process.cpu_ns()?), outcome))
}

fn row(changes: u64, (node, control, outcome): &(f64, f64, Outcome)) -> Vec<String> {
    vec![
        changes.to_string(),
        format!("{node:.1}"),
        format!("{control:.1}"),
        outcome.failures.to_string(),
        outcome.p99_us.to_string(),
    ]
}
