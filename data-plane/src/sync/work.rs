//! One revision on its way from the stream into service.

use std::sync::Arc;

use model::problem::Problems;
use model::snapshot::Snapshot;
use proto::{NodeMessage, Stage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::build::{self, BuildError};
use super::{Adopt, conversation};
use crate::last_good::{Position, Record};

/// A revision being taken into service, in a task of its own: heartbeats go on meanwhile, and so does the
/// work when the connection is lost.
pub struct Work {
    reached: Position,
    task: JoinHandle<Result<(Record, Arc<Snapshot>), BuildError>>,
}

/// How it ended.
pub struct Outcome {
    pub reached: Position,
    pub result: Result<(Record, Arc<Snapshot>), BuildError>,
}

impl Work {
    /// Begins; `acks` hears of the stages before serving.
    pub fn start(
        record: Record,
        held: Option<Arc<Snapshot>>,
        adopt: Arc<impl Adopt>,
        acks: mpsc::Sender<NodeMessage>,
    ) -> Self {
        let reached = record.reached;
        let task = tokio::spawn(async move {
            let built = tokio::task::spawn_blocking(move || {
                let snapshot = build(&held.unwrap_or_default(), &record, &acks)?;
                Ok((record, snapshot))
            });
            let (record, snapshot) = built.await.unwrap_or_else(|error| Err(crashed(&error)))?;
            adopt.adopt(Arc::clone(&snapshot)).await.map_err(BuildError::Refused)?;
            Ok((record, snapshot))
        });
        Self { reached, task }
    }

    /// Waits for the end. Cancelling this does not cancel the work.
    pub async fn ended(&mut self) -> Outcome {
        let result = (&mut self.task).await.unwrap_or_else(|error| Err(crashed(&error)));
        Outcome { reached: self.reached, result }
    }

    pub async fn outcome(mut self) -> Outcome {
        self.ended().await
    }
}

fn build(held: &Arc<Snapshot>, record: &Record, acks: &mpsc::Sender<NodeMessage>) -> Result<Arc<Snapshot>, BuildError> {
    let checked = build::check(held, record)?;
    // An ack that finds no room is made up for by the next heartbeat.
    let _ = acks.try_send(conversation::ack(record.reached, Stage::Received));
    let snapshot = checked.compile()?;
    let _ = acks.try_send(conversation::ack(record.reached, Stage::Compiled));
    Ok(snapshot)
}

/// A crash in the compiler keeps one revision out; the node serves on.
fn crashed(error: &tokio::task::JoinError) -> BuildError {
    tracing::error!("taking a configuration into service crashed: {error}");
    BuildError::Refused(Problems::from([model::problem::Problem {
        kind: None,
        name: None,
        pointer: String::new(),
        code: "internal".into(),
        message: "the node crashed on this configuration; its log says where".to_owned(),
        hint: Some("report this".to_owned()),
        location: None,
        page: None,
    }]))
}
