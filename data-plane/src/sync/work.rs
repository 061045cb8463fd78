//! One revision on its way from the stream into service.

use std::sync::Arc;

use bytes::Bytes;
use model::problem::{Problem, Problems};
use model::snapshot::Snapshot;
use proto::{NodeMessage, Stage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::build::{self, BuildError};
use super::{Adopt, conversation};
use crate::last_good::{Position, Record};
use crate::trust::Approver;

/// A revision being taken into service, in a task of its own: heartbeats go on meanwhile, and so does the
/// work when the connection is lost.
pub struct Work {
    reached: Position,
    task: JoinHandle<Result<(Record, Arc<Snapshot>), BuildError>>,
}

/// What must hold before a record is looked into.
pub struct Approval {
    pub approver: Approver,
    pub signatures: Vec<Bytes>,
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
        approval: Option<Approval>,
        held: Option<Arc<Snapshot>>,
        adopt: Arc<impl Adopt>,
        acks: mpsc::Sender<NodeMessage>,
    ) -> Self {
        let reached = record.reached;
        let task = tokio::spawn(async move {
            let built = tokio::task::spawn_blocking(move || {
                if approval.is_some_and(|approval| !approval.approver.approves(&record, &approval.signatures)) {
                    return Err(unapproved());
                }
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

fn unapproved() -> BuildError {
    let message = "it is not signed by the authority of the control plane that this node joined";
    let hint = "find out who answers at the address of the control plane; the node goes on with what it has";
    BuildError::Refused(Problems::from([of_everything("not-signed", message, hint)]))
}

/// A crash in the compiler keeps one revision out; the node serves on.
fn crashed(error: &tokio::task::JoinError) -> BuildError {
    tracing::error!("taking a configuration into service crashed: {error}");
    let message = "the node crashed on this configuration; its log says where";
    BuildError::Refused(Problems::from([of_everything("internal", message, "report this")]))
}

/// A problem of no resource in particular.
fn of_everything(code: &'static str, message: &str, hint: &str) -> Problem {
    Problem {
        kind: None,
        name: None,
        pointer: String::new(),
        code: code.into(),
        message: message.to_owned(),
        hint: Some(hint.to_owned()),
        location: None,
        page: None,
    }
}

#[cfg(test)]
mod tests {
    use model::membership::Membership;
    use model::resource::Name;

    use super::*;
    use crate::sync::TicketSecret;

    /// Takes everything.
    struct Anything;

    impl Adopt for Anything {
        async fn adopt(&self, _: Arc<Snapshot>) -> Result<(), Problems> {
            Ok(())
        }

        fn retarget(&self, _: Membership, _: Vec<Name>) -> impl Future<Output = ()> + Send + 'static {
            std::future::ready(())
        }

        fn use_ticket_keys(&self, _: &[TicketSecret]) {}

        fn use_cookie_key(&self, _: &TicketSecret) {}
    }

    #[tokio::test]
    async fn what_is_not_signed_is_not_looked_into() {
        let (acks, mut heard) = mpsc::channel(4);
        let approver = Approver::new(Bytes::from_static(b"no key"), "edge".to_owned());
        for (signature, is_taken) in [(Some(Bytes::new()), false), (None, true)] {
            let approval =
                signature.map(|signature| Approval { approver: approver.clone(), signatures: vec![signature] });
            let record = Record::whole(&Snapshot::default());
            let work = Work::start(record, approval, None, Arc::new(Anything), acks.clone());
            match work.outcome().await.result {
                Ok(_) => assert!(is_taken),
                Err(BuildError::Refused(problems)) => assert!(!is_taken && problems[0].code == "not-signed"),
                Err(BuildError::Drifted(reason)) => panic!("{reason}"),
            }
            assert_eq!(heard.try_recv().is_ok(), is_taken, "it is acknowledged when it is looked into");
        }
    }
}
