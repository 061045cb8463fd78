//! The policies that act on one exchange, in running order.
//!
//! Attachments are compiled to short lists of slots, sorted by running order; a request merges the lists of
//! its listener, service and route with those for everything. Nothing is compiled per combination, so
//! changing a policy replaces one slot, however many routes name it.

use smallvec::SmallVec;

use super::Outcome;
use crate::exchange::{Exchange, ResponseHead};
use crate::rejection::Rejection;
use crate::slots::Slot;
use crate::snapshot::Snapshot;

/// One policy at one attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Place in the table of policy types; at most one step of a type stands in a list.
    pub order: u8,
    pub policy: Slot,
}

/// The policies of one exchange, and how far it has come.
#[derive(Debug, Default)]
pub struct Chain {
    steps: SmallVec<[Step; 8]>,
    ran: usize,
}

impl Chain {
    /// Merges attachments; of two steps of one type the one from the later, more specific list stays. What is
    /// disabled counts as not attached: switching a policy off must not switch off the one behind it.
    #[must_use]
    pub fn merge(snapshot: &Snapshot, attachments: [&[Step]; 4]) -> Self {
        let mut chain = Self::default();
        for attachment in attachments {
            for step in attachment {
                chain.put(snapshot, *step);
            }
        }
        chain
    }

    fn put(&mut self, snapshot: &Snapshot, step: Step) {
        if !snapshot.policies.get(step.policy).is_some_and(|compiled| compiled.enabled) {
            return;
        }
        match self.steps[self.ran..].binary_search_by_key(&step.order, |other| other.order) {
            Ok(place) => self.steps[self.ran + place] = step,
            Err(place) => self.steps.insert(self.ran + place, step),
        }
    }

    /// Runs the policies until one rejects. What the consumer has of its own joins as soon as it is known,
    /// for the types that have not run yet.
    pub async fn on_request(&mut self, exchange: &mut Exchange) -> Result<(), Rejection> {
        // Holding the snapshot of this core costs nothing that other cores notice; cloning each policy would.
        let snapshot = exchange.snapshot.clone();
        while let Some(step) = self.steps.get(self.ran).copied() {
            self.ran += 1;
            let was_anonymous = exchange.consumer.is_none();
            if let Some(compiled) = snapshot.policies.get(step.policy) {
                match compiled.policy.on_request(exchange) {
                    Outcome::Continue => {}
                    Outcome::Reject(rejection) => return Err(rejection),
                    Outcome::Wait(decision) => decision.await?,
                }
            }
            let consumer = exchange.consumer.filter(|_| was_anonymous);
            if let Some(consumer) = consumer.and_then(|slot| snapshot.consumers.get(slot)) {
                for own in consumer.policies.iter().filter(|own| own.order > step.order) {
                    self.put(&snapshot, *own);
                }
            }
        }
        Ok(())
    }

    /// Lets the policies that ran see the response, in reverse.
    pub fn on_response(&self, exchange: &mut Exchange, head: &mut ResponseHead) {
        let snapshot = exchange.snapshot.clone();
        for step in self.steps[..self.ran].iter().rev() {
            if let Some(compiled) = snapshot.policies.get(step.policy) {
                compiled.policy.on_response(exchange, head);
            }
        }
    }

    /// The policy that acted last: the one that rejected, if one did.
    #[must_use]
    pub fn last(&self) -> Option<Step> {
        self.steps.get(self.ran.checked_sub(1)?).copied()
    }
}
