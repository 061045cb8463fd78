//! The load: as fast as a number of connections can (closed loop), or at a fixed rate with latencies
//! counted from when a request was due (open loop, so that a stall is not hidden).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What to send where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub port: u16,
    pub host: String,
    pub path: String,
    /// Further fields, each with the end of its line.
    pub fields: String,
    pub connections: usize,
    pub millis: u64,
    /// Requests per second in all; 0 is as fast as can be.
    pub rate: u64,
    pub expect_status: u16,
}

/// What came back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub requests: u64,
    pub failures: u64,
    pub seconds: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
}

impl Plan {
    /// Runs the plan in a process of its own on core 0.
    pub fn run(&self) -> Result<Outcome> {
        let plan = serde_json::to_string(self)?;
        let output =
            Command::new("taskset").args(["-c", "0"]).arg(std::env::current_exe()?).args(["load", &plan]).output()?;
        if !output.status.success() {
            bail!("the load failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("the load printed no outcome")
    }

    fn request(&self) -> Vec<u8> {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nAccept-Language: en\r\nX-Trace: 0123456789abcdef\r\n{}\r\n",
            self.path, self.host, self.fields
        )
        .into_bytes()
    }
}

pub fn run_as_process(arguments: &[String]) -> Result<()> {
    let plan: Plan = serde_json::from_str(arguments.first().context("a plan is missing")?)?;
    let outcome = if plan.rate == 0 { closed(&plan)? } else { open(&plan)? };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn closed(plan: &Plan) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let start = Instant::now();
        let end = start + Duration::from_millis(plan.millis);
        let request: Arc<[u8]> = plan.request().into();
        let tasks: Vec<_> = (0..plan.connections)
            .map(|_| tokio::task::spawn_local(closed_connection(plan.clone(), request.clone(), end)))
            .collect();
        let mut latencies = Histogram::<u64>::new(3)?;
        let mut outcome = Outcome::default();
        for task in tasks {
            let (own, failures) = task.await??;
            latencies.add(&own)?;
            outcome.failures += failures;
        }
        outcome.seconds = start.elapsed().as_secs_f64();
        Ok(finish(outcome, &latencies))
    })
}

async fn closed_connection(plan: Plan, request: Arc<[u8]>, end: Instant) -> Result<(Histogram<u64>, u64)> {
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut failures = 0;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", plan.port)).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    while Instant::now() < end {
        let start = Instant::now();
        stream.write_all(&request).await?;
        let mut held = 0;
        let status = loop {
            let count = stream.read(&mut buffer[held..]).await?;
            if count == 0 {
                bail!("the proxy closed the connection");
            }
            held += count;
            if let Some(status) = whole_answer(&buffer[..held])? {
                break status;
            }
        };
        failures += u64::from(status != plan.expect_status);
        latencies.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok((latencies, failures))
}

/// The status, once the answer is there to its end.
fn whole_answer(bytes: &[u8]) -> Result<Option<u16>> {
    let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_end])?;
    let status = head.get(9..12).context("no status line")?.parse()?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse::<usize>())?;
    Ok((bytes.len() >= head_end + 4 + length).then_some(status))
}

/// A thread per connection: sleeping threads wake more exactly than any event loop's timers.
fn open(plan: &Plan) -> Result<Outcome> {
    let latencies = Arc::new(Mutex::new(Histogram::<u64>::new(3)?));
    let failures = Arc::new(AtomicU64::new(0));
    let start = Instant::now() + Duration::from_millis(50);
    let interval = Duration::from_nanos(1_000_000_000 * plan.connections as u64 / plan.rate);
    std::thread::scope(|scope| {
        for index in 0..plan.connections {
            let first = start + interval.mul_f64(index as f64 / plan.connections as f64);
            let (latencies, failures) = (latencies.clone(), failures.clone());
            scope.spawn(move || {
                let own = open_connection(plan, first, interval);
                match own {
                    Ok((own, failed)) => {
                        failures.fetch_add(failed, Ordering::Relaxed);
                        let mut all = latencies.lock().expect("no thread panics with it");
                        all.add(&own).expect("same bounds");
                    }
                    Err(_) => {
                        failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let outcome = Outcome {
        failures: failures.load(Ordering::Relaxed),
        seconds: start.elapsed().as_secs_f64(),
        ..Outcome::default()
    };
    let latencies = latencies.lock().expect("no thread panics with it");
    Ok(finish(outcome, &latencies))
}

fn open_connection(plan: &Plan, first: Instant, interval: Duration) -> Result<(Histogram<u64>, u64)> {
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut failures = 0;
    let mut stream = TcpStream::connect(("127.0.0.1", plan.port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = plan.request();
    let mut buffer = vec![0; 16 * 1024];
    let mut due = first;
    let end = first + Duration::from_millis(plan.millis);
    while due < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(&request)?;
        let mut held = 0;
        let status = loop {
            let count = stream.read(&mut buffer[held..])?;
            if count == 0 {
                bail!("the proxy closed the connection");
            }
            held += count;
            if let Some(status) = whole_answer(&buffer[..held])? {
                break status;
            }
        };
        failures += u64::from(status != plan.expect_status);
        latencies.record(u64::try_from(due.elapsed().as_micros())?)?;
        due += interval;
    }
    Ok((latencies, failures))
}

fn finish(mut outcome: Outcome, latencies: &Histogram<u64>) -> Outcome {
    outcome.requests = latencies.len();
    outcome.p50_us = latencies.value_at_quantile(0.5);
    outcome.p99_us = latencies.value_at_quantile(0.99);
    outcome.p999_us = latencies.value_at_quantile(0.999);
    outcome
}
