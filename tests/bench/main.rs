//! The benchmark: what a request and a change cost, side by side with nginx and HAProxy.
//!
//! Every figure about a request is a ratio to nginx in neighbouring runs, because the machine's own speed
//! changes from minute to minute. The proxies run on core 1, one after the other in the order A B C C B A;
//! the load and the upstream share core 0. Nothing leaves loopback.

mod churn;
mod cold;
mod consumers;
mod dimensions;
mod failures;
mod fleet;
mod load;
mod nodes;
mod peers;
mod process;
mod proxies;
mod rate;
mod report;
mod rollback;
mod scale;
mod sluice;
mod targets;
mod upstream;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Something to measure, on its own.
type Part = (&'static str, fn(&Options, &mut report::Report) -> Result<()>);

const PARTS: [Part; 9] = [
    ("peers", peers::measure),
    ("scale", scale::measure),
    ("cold", cold::measure),
    ("failures", failures::measure),
    ("churn", churn::measure),
    ("fleet", fleet::measure),
    ("rate", rate::measure),
    ("rollback", rollback::measure),
    ("consumers", consumers::measure),
];
const NAMES: &str = "peers|scale|cold|failures|churn|fleet|rate|rollback|consumers";

/// What the command line asks for.
pub struct Options {
    pub sluice: PathBuf,
    pub quick: bool,
    /// The one part that is wanted; all of them otherwise.
    pub only: Option<String>,
    pub json: PathBuf,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("upstream") => {
            let port = port(arguments.next())?;
            upstream::serve(arguments.next().as_deref().unwrap_or("127.0.0.1"), port)
        }
        Some("targets") => {
            let (ports, micros) = (numbers(arguments.next())?, numbers(arguments.next())?);
            let ports = ports.into_iter().map(u16::try_from).collect::<Result<Vec<_>, _>>()?;
            targets::serve(&ports, &micros)
        }
        Some("load") => load::run_as_process(&arguments.collect::<Vec<_>>()),
        Some("nodes") => nodes::run_as_process(&arguments.collect::<Vec<_>>()),
        Some("all") => all(&options(arguments.collect())?),
        _ => bail!("usage: bench all --sluice PATH [--quick] [--only {NAMES}] [--json FILE]"),
    }
}

fn port(argument: Option<String>) -> Result<u16> {
    argument.context("a port is missing")?.parse().context("a port is a number")
}

fn numbers(argument: Option<String>) -> Result<Vec<u64>> {
    let list = argument.context("a list of numbers is missing")?;
    list.split(',').map(|number| number.parse().context("a list of numbers has commas between them")).collect()
}

fn options(arguments: Vec<String>) -> Result<Options> {
    let mut options = Options {
        sluice: PathBuf::from("target/release/sluice"),
        quick: false,
        only: None,
        json: PathBuf::from("target/bench.json"),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--sluice" => options.sluice = value()?.into(),
            "--json" => options.json = value()?.into(),
            "--quick" => options.quick = true,
            "--only" => {
                let part = value()?;
                if !PARTS.iter().any(|(name, _)| *name == part) {
                    bail!("--only {part}: write {NAMES}");
                }
                options.only = Some(part);
            }
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(options)
}

fn all(options: &Options) -> Result<()> {
    let mut report = report::Report::default();
    for (name, measure) in PARTS {
        if options.only.as_ref().is_none_or(|only| only == name) {
            measure(options, &mut report)?;
        }
    }
    report.print();
    report.write(&options.json)?;
    eprintln!("wrote {}", options.json.display());
    Ok(())
}
