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

    /// In running order, as far as they are known before the caller is.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Edit;
    use crate::fields::Fields;
    use crate::resource::Kind;

    const KEY: &str = "0123456789abcdef";

    fn put(kind: Kind, name: &str, spec: Value) -> Edit {
        Edit::Put { kind, name: name.to_owned(), spec }
    }

    /// A policy that leaves its name on requests and responses.
    fn marker(name: &str, more: &Value) -> Edit {
        let set = json!({"set": {"x-mark": name}});
        let mut spec = json!({"type": "headers", "config": {"request": set, "response": set}});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        put(Kind::Policy, name, spec)
    }

    fn snapshot(more: Vec<Edit>) -> Snapshot {
        let mut edits = vec![
            marker("everywhere", &json!({"apply_to": "everything"})),
            marker("of-service", &json!({})),
            marker("of-route", &json!({})),
            marker("of-consumer", &json!({})),
            put(Kind::Policy, "auth", json!({"type": "key-auth"})),
            put(Kind::Policy, "ids", json!({"type": "request-id", "apply_to": "everything"})),
            put(Kind::Service, "s", json!({"url": "http://a:1", "policies": ["of-service"]})),
            put(Kind::Route, "r", json!({"service": "s", "policies": ["of-route", "auth"]})),
            put(Kind::Route, "plain", json!({"service": "s", "priority": 1})),
            put(
                Kind::Consumer,
                "acme",
                json!({"policies": ["of-consumer"], "credentials": [{"type": "key-auth", "name": "k", "key": KEY}]}),
            ),
        ];
        let replaced = |edit: &Edit| match edit {
            Edit::Put { kind, name, .. } => {
                more.iter().any(|other| matches!(other, Edit::Put { kind: k, name: n, .. } if k == kind && n == name))
            }
            _ => false,
        };
        edits.retain(|edit| !replaced(edit));
        edits.extend(more);
        Snapshot::default().apply(1, edits).unwrap_or_else(|problems| panic!("{problems:?}")).0
    }

    /// Runs the policies of a route; gives the marks on request and response, or the code of the rejection.
    fn run(snapshot: &Snapshot, route: &str, key: Option<&'static str>) -> Result<(String, String), &'static str> {
        let fields: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
        let mut exchange = Exchange::sample(snapshot.clone(), "/", &fields);
        let route = snapshot.routes.find(route).expect("a route");
        let service = snapshot.services.find("s").expect("a service");
        let own = route.policies();
        let mut chain = Chain::merge(snapshot, [&snapshot.everything, &[], &service.policies, own]);
        let decision = match pin!(chain.on_request(&mut exchange)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(decision) => decision,
            Poll::Pending => panic!("nothing here waits"),
        };
        let mut head = ResponseHead { status: StatusCode::OK, headers: Fields::default() };
        chain.on_response(&mut exchange, &mut head);
        exchange.finish_head(&mut head);
        assert!(head.headers.contains_key("x-request-id"), "rejections have an identifier too");
        let mark = |headers: &Fields| headers.get_str("x-mark").unwrap_or_default().to_owned();
        decision.map_err(|rejection| rejection.code)?;
        Ok((mark(&exchange.request.headers), mark(&head.headers)))
    }

    fn both(name: &str) -> Result<(String, String), &'static str> {
        Ok((name.to_owned(), name.to_owned()))
    }

    #[test]
    fn the_closest_attachment_acts() {
        assert_eq!(run(&snapshot(Vec::new()), "plain", None), both("of-service"));
        assert_eq!(run(&snapshot(Vec::new()), "r", Some(KEY)), both("of-consumer"));
        let without =
            put(Kind::Consumer, "acme", json!({"credentials": [{"type": "key-auth", "name": "k", "key": KEY}]}));
        assert_eq!(run(&snapshot(vec![without]), "r", Some(KEY)), both("of-route"));
    }

    #[test]
    fn a_rejection_stops_what_comes_later() {
        assert_eq!(run(&snapshot(Vec::new()), "r", None), Err("credential-missing"));
    }

    #[test]
    fn what_is_disabled_lets_the_next_closest_act() {
        let off = |name: &str| marker(name, &json!({"enabled": false}));
        assert_eq!(run(&snapshot(vec![off("of-consumer")]), "r", Some(KEY)), both("of-route"));
        assert_eq!(run(&snapshot(vec![off("of-service")]), "plain", None), both("everywhere"));
        let open = put(Kind::Policy, "auth", json!({"type": "key-auth", "enabled": false}));
        let everywhere = put(Kind::Policy, "auth-all", json!({"type": "key-auth", "apply_to": "everything"}));
        assert_eq!(run(&snapshot(vec![open, everywhere]), "r", None), Err("credential-missing"));
    }
}
