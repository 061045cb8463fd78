//! `sluice completion`: what a shell needs to complete commands and flags.

use clap::Args;
use clap_complete::Shell;

use crate::{Outcome, output};

/// Print the completion script of a shell
///
/// For bash: `source <(sluice completion bash)`.
#[derive(Args)]
pub struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub fn run(self, mut command: clap::Command) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "sluice", &mut script);
        output::data(&String::from_utf8(script)?)?;
        Ok(Outcome::Done)
    }
}
