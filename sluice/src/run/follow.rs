//! `--file`: changes of the files become changes of the gateway.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::apply::{self, Awaited, Change, Share, Verdict};
use crate::client::Client;
use crate::files::{FileArguments, Files};
use crate::output;

/// Looking is what sees every sort of change, also the exchange of whole folders that containers do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Applies the files whenever their content changed. What cannot be applied is reported, and what was there stays.
pub async fn follow(
    client: &Client,
    paths: &[PathBuf],
    mut files: Files,
    complete: impl Fn(Value) -> Value,
) -> anyhow::Result<()> {
    let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let mut seen = files.fingerprint();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let found = files.fingerprint();
        if found == seen {
            continue;
        }
        seen = found;
        let outcome = match FileArguments::new(paths.to_vec()).read() {
            Ok(read) => {
                files = read;
                seen = files.fingerprint();
                update(client, &files.map_body(&complete)).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(said) => output::message(&format!("{names}: {said}")),
            Err(error) => output::message(&format!("{names}: what was there stays: {error:#}")),
        }
    }
}

async fn update(client: &Client, files: &Files) -> anyhow::Result<String> {
    let change =
        Change { prune: true, allow_mass_delete: true, base: None, message: Some("sluice run --file"), rollout: None };
    let applied = apply::send(client, files, &change).await?;
    if !applied.is_new {
        return Ok("nothing is different".into());
    }
    let revision = applied.revision;
    Ok(match apply::watch(client, Awaited { revision, share: Share::ALL, labels: &[] }, PATIENCE, |_| {}).await? {
        Verdict::Served => format!("revision {revision} is served, with {} changes", applied.changes.len()),
        Verdict::Refused(nodes) => apply::refused(&nodes, files),
        Verdict::TooLate { .. } => format!("revision {revision} is not served yet"),
    })
}
