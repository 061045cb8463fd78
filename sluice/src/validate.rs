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
        if self.output == Shown::Json {
            let (found, warnings) = match &checked {
                Ok((_, warnings)) => (&[][..], &**warnings),
                Err(found) => (&**found, &[][..]),
            };
            output::json(&json!({ "valid": checked.is_ok(), "problems": found, "warnings": warnings }))?;
        }
        match checked {
            Ok((snapshot, warnings)) => {
                problems::warn(&warnings);
                output::message(&format!("valid: {} resources", snapshot.config.len()));
                Ok(Outcome::Done)
            }
            Err(found) => bail!("the configuration does not hold\n{}", problems::list(&found)),
        }
    }
}
