//! The one binary: it reads the arguments, sets the process up and hands over. A command is one file here and one
//! line in [`Command`].

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod apply;
mod authority;
mod client;
mod completion;
#[cfg(test)]
mod deployment;
mod descriptors;
mod diff;
mod explain;
mod export;
mod files;
mod gateways;
mod health;
mod join_tokens;
mod labels;
mod logging;
mod nodes;
mod output;
mod ports;
mod problems;
mod resources;
mod revisions;
mod roles;
mod rollout;
mod run;
mod schema;
mod signals;
mod status;
mod targets;
mod validate;
mod views;
mod watch;

/// Many small allocations of mixed ages, on many threads: what mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_CODES: &str = "\
Exit codes:
  0  it is done, or there is no difference
  1  an error; the reason stands on stderr
  2  `diff` found differences
  3  the change was made, but the nodes do not serve it: refused, or not in time;
     or `status` found nodes that do not serve the newest revision, or none;
     or a rollout was rolled back or passed over

Data goes to stdout, messages to stderr. SLUICE_LOG says what `run`, `control-plane` and `data-plane` log, \
`debug` or `warn,data_plane=debug` for example.";

/// An API gateway: one front door for many backend services.
#[derive(Parser)]
#[command(name = "sluice", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    ControlPlane(roles::ControlPlane),
    DataPlane(roles::DataPlane),
    Validate(validate::Validate),
    Diff(diff::Diff),
    Apply(apply::Apply),
    Explain(explain::Explain),
    Export(export::Export),
    Get(resources::Get),
    Delete(resources::Delete),
    Gateways(gateways::Gateways),
    Authority(authority::Authority),
    Targets(targets::Targets),
    Nodes(nodes::Nodes),
    Status(status::Status),
    Watch(watch::Watch),
    #[command(name = "join-token")]
    JoinTokens(join_tokens::JoinTokens),
    Health(health::Health),
    Revisions(revisions::Revisions),
    Rollback(revisions::Rollback),
    #[command(name = "rollout")]
    Rollouts(rollout::Rollouts),
    Schema(schema::PrintSchema),
    Completion(completion::Completion),
}

/// How a command ended, when nothing went wrong on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// `diff` found something.
    Different,
    /// The revision is there, and not all nodes that are to serve it do.
    NotServed,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Different => 2,
            Outcome::NotServed => 3,
        })
    }
}

fn main() -> ExitCode {
    // Wrong usage ends with 1 as every error does: 2 means that `diff` found something.
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_wrong = error.use_stderr();
            return match error.print() {
                Ok(()) if is_wrong => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            };
        }
    };
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has chosen another provider before main");
    let outcome = match arguments.command {
        Command::Run(command) => command.run(),
        Command::ControlPlane(command) => command.run(),
        Command::DataPlane(command) => command.run(),
        Command::Validate(command) => command.run(),
        Command::Diff(command) => command.run(),
        Command::Apply(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Get(command) => command.run(),
        Command::Delete(command) => command.run(),
        Command::Gateways(command) => command.run(),
        Command::Authority(command) => command.run(),
        Command::Targets(command) => command.run(),
        Command::Nodes(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Watch(command) => command.run(),
        Command::JoinTokens(command) => command.run(),
        Command::Health(command) => command.run(),
        Command::Revisions(command) => command.run(),
        Command::Rollback(command) => command.run(),
        Command::Rollouts(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Completion(command) => command.run(Arguments::command()),
    };
    match outcome {
        Ok(outcome) => outcome.into(),
        // `sluice get routes | head` has seen enough: nothing went wrong.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::message(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
