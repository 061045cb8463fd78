//! The lane of targets to one node: all of it first, and then what changed since it last said that it has everything.
//!
//! At most one batch is under way. What changes meanwhile is in the next one, of each target the newest: a node that is
//! slow is not behind by more.

use std::sync::Arc;

use model::membership::Change;
use model::wire::target_change_to_wire;
use prost::Message;
use proto::Targets;
use tokio::sync::watch;

use crate::targets::State;

/// Bytes of changes in one message, before the last of them: a heartbeat never waits behind more.
const MESSAGE: usize = 256 * 1024;

/// How far a node is with the lane of its gateway.
pub struct Lane {
    states: watch::Receiver<Arc<State>>,
    /// The version that the node has; nothing before it said so.
    held: Option<u64>,
    under_way: Option<u64>,
}

impl Lane {
    pub fn new(mut states: watch::Receiver<Arc<State>>) -> Self {
        states.mark_changed();
        Self { states, held: None, under_way: None }
    }

    /// Waits until there is something to send and nothing is under way; an error if the lane is gone.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        if self.under_way.is_some() {
            return std::future::pending().await;
        }
        self.states.wait_for(|state| self.held != Some(state.membership.version())).await.map(drop)
    }

    /// What to send now: nothing while a batch is under way, or if the node has everything.
    pub fn next(&mut self) -> Option<Vec<Targets>> {
        let state = Arc::clone(&self.states.borrow_and_update());
        let version = state.membership.version();
        if self.under_way.is_some() || self.held == Some(version) {
            return None;
        }
        self.under_way = Some(version);
        Some(match self.held.and_then(|held| state.since(held)) {
            Some(changes) => messages(version, false, &changes),
            None => messages(version, true, &state.membership.changes().collect::<Vec<_>>()),
        })
    }

    /// The node has everything up to a version.
    pub fn acknowledged(&mut self, version: u64) {
        if self.under_way.take_if(|under_way| *under_way == version).is_some() {
            self.held = Some(version);
        }
    }
}

/// A batch in as many messages as it takes, and in one at least.
fn messages(version: u64, whole: bool, changes: &[Change]) -> Vec<Targets> {
    let mut messages = vec![Targets { version, whole, more: false, changes: Vec::new() }];
    let mut bytes = 0;
    for change in changes.iter().map(target_change_to_wire) {
        if bytes > MESSAGE {
            bytes = 0;
            messages.last_mut().expect("there is one").more = true;
            messages.push(Targets { version, whole, more: false, changes: Vec::new() });
        }
        bytes += change.encoded_len();
        messages.last_mut().expect("there is one").changes.push(change);
    }
    messages
}

#[cfg(test)]
mod tests {
    use model::membership::Member;

    use super::*;

    fn after(state: &State, targets: std::ops::Range<u64>) -> Arc<State> {
        let version = state.membership.version();
        let change = |(version, target)| Change {
            service: "shop".parse().expect("a name"),
            target: format!("http://{}.test:{target}", "long".repeat(15)).parse().expect("a URL"),
            version,
            member: Some(Member::default()),
        };
        Arc::new(state.after((version + 1..).zip(targets).map(change).collect()))
    }

    #[test]
    fn while_a_batch_is_under_way_changes_replace_each_other() {
        let (states, receiver) = watch::channel(Arc::new(State::default()));
        let mut lane = Lane::new(receiver);
        let sent = lane.next().expect("the whole at first, though it is empty");
        assert_eq!((sent.len(), sent[0].whole, sent[0].version), (1, true, 0));
        for _ in 0..3 {
            states.send_modify(|state| *state = after(state, 1..3));
            assert_eq!(lane.next(), None, "one is under way");
        }
        lane.acknowledged(7);
        assert_eq!(lane.next(), None, "that was something else");
        lane.acknowledged(0);
        let sent = lane.next().expect("what has changed");
        let versions: Vec<u64> = sent[0].changes.iter().map(|change| change.version).collect();
        assert!(!sent[0].whole && versions.len() == 2 && versions.iter().sum::<u64>() == 11, "{sent:?}");
        lane.acknowledged(6);
        assert_eq!(lane.next(), None);

        // More than is remembered.
        for _ in 0..2 {
            states.send_modify(|state| *state = after(state, 1..9_000));
        }
        let sent = lane.next().expect("all of it");
        assert!(sent.iter().all(|message| message.whole && message.encoded_len() < 300 * 1024));
        assert_eq!(sent.iter().map(|message| message.changes.len()).sum::<usize>(), 8_999);
        assert_eq!(sent.iter().filter(|message| !message.more).count(), 1);
    }
}
