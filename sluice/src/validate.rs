//! `sluice validate`: checks files with the control plane's own code, without a control plane.

use anyhow::bail;
use clap::Args;
use serde_json::json;

use crate::files::FileArguments;
use crate::output::{self, Shown};
use crate::{Outcome, problems};

/// Check files without a server: the same code as in the control plane
#[derive(Args)]
pub struct Validate {
    #[command(flatten)]
    files: FileArguments,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,
}

impl Validate {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let checked = self.files.load().and_then(|files| files.check());
        let found = checked.as_ref().err().cloned().unwrap_or_default();
        if self.output == Shown::Json {
            output::json(&json!({ "valid": found.is_empty(), "problems": found }))?;
        }
        match checked {
            Ok(count) => {
                output::message(&format!("valid: {count} resources"));
                Ok(Outcome::Done)
            }
            Err(found) => bail!("the configuration does not hold\n{}", problems::list(&found)),
        }
    }
}
