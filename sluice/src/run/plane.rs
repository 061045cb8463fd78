//! A plane that runs beside the other one in this process.

use std::error::Error;

use anyhow::anyhow;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::output;

/// A plane that runs.
pub struct Plane<E> {
    what: &'static str,
    task: JoinHandle<Result<(), E>>,
    stop: CancellationToken,
    has_ended: bool,
}

impl<E: Error + Send + Sync + 'static> Plane<E> {
    /// Starts it; the token asks it to end.
    pub fn start<F>(what: &'static str, run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        Self { what, task, stop, has_ended: false }
    }

    /// Returns when it ends though nobody asked for that.
    pub async fn ended(&mut self) -> anyhow::Error {
        let ended = (&mut self.task).await;
        self.has_ended = true;
        match failure(self.what, ended) {
            Some(error) => error,
            None => anyhow!("the {} ended", self.what),
        }
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if !self.has_ended
            && let Some(error) = failure(self.what, (&mut self.task).await)
        {
            output::message(&format!("{error:#}"));
        }
    }
}

fn failure<E: Error + Send + Sync + 'static>(
    what: &str,
    ended: Result<Result<(), E>, JoinError>,
) -> Option<anyhow::Error> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(anyhow::Error::new(error).context(format!("the {what} cannot run"))),
        Err(error) => Some(anyhow!("the {what} broke down: {error}")),
    }
}
