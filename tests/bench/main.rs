//! The benchmark: what a request and a change cost, side by side with nginx and HAProxy.
//!
//! Every figure about a request is a ratio to nginx in neighbouring runs, because the machine's own speed
//! changes from minute to minute. The proxies run on core 1, one after the other in the order A B C C B A;
//! the load and the upstream share core 0. Nothing leaves loopback.

mod cold;
mod dimensions;
mod load;
mod peers;
mod process;
mod report;
mod scale;
mod sluice;
mod upstream;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What the command line asks for.
pub struct Options {
    pub sluice: PathBuf,
    pub quick: bool,
    pub peers: bool,
    pub scale: bool,
    pub cold: bool,
    pub json: PathBuf,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("upstream") => upstream::serve(port(arguments.next())?),
        Some("load") => load::run_as_process(&arguments.collect::<Vec<_>>()),
        Some("all") => all(&options(arguments.collect())?),
        _ => bail!("usage: bench all --sluice PATH [--quick] [--only peers|scale|cold] [--json FILE]"),
    }
}

fn port(argument: Option<String>) -> Result<u16> {
    argument.context("a port is missing")?.parse().context("a port is a number")
}

fn options(arguments: Vec<String>) -> Result<Options> {
    let mut options = Options {
        sluice: PathBuf::from("target/release/sluice"),
        quick: false,
        peers: true,
        scale: true,
        cold: true,
        json: PathBuf::from("target/bench.json"),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--sluice" => options.sluice = value()?.into(),
            "--json" => options.json = value()?.into(),
            "--quick" => options.quick = true,
            "--only" => match value()?.as_str() {
                "peers" => (options.scale, options.cold) = (false, false),
                "scale" => (options.peers, options.cold) = (false, false),
                "cold" => (options.peers, options.scale) = (false, false),
                other => bail!("--only {other}: write peers, scale or cold"),
            },
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(options)
}

fn all(options: &Options) -> Result<()> {
    let mut report = report::Report::default();
    if options.peers {
        peers::measure(options, &mut report)?;
    }
    if options.scale {
        scale::measure(options, &mut report)?;
    }
    if options.cold {
        cold::measure(options, &mut report)?;
    }
    report.print();
    report.write(&options.json)?;
    eprintln!("wrote {}", options.json.display());
    Ok(())
}
