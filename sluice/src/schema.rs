//! `sluice schema`: the JSON Schema of the file format.

use clap::Args;

use crate::{Outcome, output};

/// Print the JSON Schema of the file format, for editors that complete and check
#[derive(Args)]
pub struct PrintSchema {}

impl PrintSchema {
    pub fn run(self) -> anyhow::Result<Outcome> {
        output::json(&model::schema::file())?;
        Ok(Outcome::Done)
    }
}
