//! `sluice export`: the whole configuration as a file; to apply it again changes nothing.

use clap::{Args, ValueEnum};
use http::Method;

use crate::client::{ClientArguments, block_on};
use crate::{Outcome, output};

/// Print the whole configuration as a file
///
/// To apply it again changes nothing. Secrets are not in it: marks stand in their place, and applying a mark keeps
/// the secret that is there.
#[derive(Args)]
pub struct Export {
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: FileFormat,

    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum FileFormat {
    Yaml,
    Json,
}

impl Export {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let accept = match self.output {
            FileFormat::Yaml => "application/yaml",
            FileFormat::Json => "application/json",
        };
        let answer = block_on(client.send(Method::GET, "config", accept, None))?;
        output::data(&String::from_utf8_lossy(&answer.body))?;
        Ok(Outcome::Done)
    }
}
