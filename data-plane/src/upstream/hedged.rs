//! A first attempt with a second beside it, if the first takes long: whichever brings an answer to be content with sooner.
//! What is left of the other is dropped, which closes its connection or resets its stream.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use http::header::EXPECT;

use super::admission::Seat;
use super::attempt::{Answer, Failed, Try};
use super::connect::Purpose;
use super::forward::Task;
use super::outgoing::Outgoing;
use crate::body::{Body, Replay};

/// What a first attempt, or one beside it, came to.
pub(super) struct Hedged {
    pub(super) attempted: Result<Box<Answer>, Failed>,
    /// Where.
    pub(super) target: usize,
    /// The target of the other attempt, if there was one.
    pub(super) beside: Option<usize>,
}

/// A second attempt that may begin.
struct Second {
    target: usize,
    seat: Option<Seat>,
    body: Body,
    outgoing: Outgoing,
}

impl Task {
    /// How long the first attempt is waited for before there is a second; nothing if there is to be none.
    pub(super) fn hedge_after(&self) -> Option<Duration> {
        let terms = self.terms().hedging?;
        let is_at_hand = self.upload.is_none() || self.replay.is_some();
        let may_be_hedged = self.is_repeatable && is_at_hand && self.purpose == Purpose::Any;
        may_be_hedged.then(|| self.backend.history.recent.delay(terms))
    }

    /// Makes the first attempt, and another beside it if nothing has come of it `after` this time. Health is told of all
    /// but what is returned.
    pub(super) async fn attempt_hedged(&self, body: Body, seat: Option<Seat>, after: Duration) -> Hedged {
        let began_ns = self.core.clock.now().monotonic_ns;
        let took_ns = || self.core.clock.now().monotonic_ns - began_ns;
        let here = self.at_target(false);
        let mut first = pin!(self.attempt(&here, body, seat));
        let early = tokio::select! {
            biased;
            attempted = first.as_mut() => Some(attempted),
            () = self.core.clock.deadline(after) => None,
        };
        let second = if early.is_none() { self.second() } else { None };
        let Some(Second { target, seat, body, outgoing }) = second else {
            let attempted = match early {
                Some(attempted) => attempted,
                None => first.await,
            };
            if attempted.is_ok() {
                self.backend.history.recent.took(took_ns());
            }
            return Hedged { attempted, target: self.target, beside: None };
        };
        let is_suspected = Cell::new(false);
        let there = Try { target, is_fresh: false, outgoing: &outgoing, interim: None, is_suspected: &is_suspected };
        let mut second = pin!(self.attempt(&there, body, seat));
        let sides = [(self.target, &self.is_suspected), (target, &is_suspected)];
        let (mut attempted, mut side) = tokio::select! {
            biased;
            attempted = first.as_mut() => (attempted, 0),
            attempted = second.as_mut() => (attempted, 1),
        };
        if self.is_good(&attempted) {
            // If it was the second, the first would have taken longer yet: that much is known of it.
            self.backend.history.recent.took(took_ns());
            if side == 1 {
                self.backend.counts.hedge_won();
                self.backend.gave_up(self.target, took_ns());
            }
        } else {
            let other = if side == 0 { second.await } else { first.await };
            // An answer says more than none, even if it is none to be content with.
            let is_better = other.is_ok() || attempted.is_err();
            let left = if is_better { std::mem::replace(&mut attempted, other) } else { other };
            let (left_at, is_suspected) = sides[if is_better { side } else { 1 - side }];
            side = if is_better { 1 - side } else { side };
            self.tell_health(left_at, &left, is_suspected.replace(false));
            if let Ok(left) = left {
                self.put_aside(left);
            }
        }
        let (target, is_suspected) = sides[side];
        self.is_suspected.set(is_suspected.get());
        Hedged { attempted, target, beside: Some(sides[1 - side].0) }
    }

    /// Another target and what it gets, if the request is at hand and the budget has something left for it.
    fn second(&self) -> Option<Second> {
        if self.replay.as_ref().is_some_and(|replay| !Replay::is_whole(replay)) {
            return None;
        }
        let body = self.body_again()?;
        let (target, seat) = self.backend.choose(&self.choice, &[self.target])?;
        if !self.may_go_on(Duration::ZERO, true) {
            return None;
        }
        self.backend.counts.retried("hedge");
        self.attempts.set(self.attempts.get() + 1);
        let mut outgoing = self.outgoing.clone();
        // All of the body is here, if there is one.
        outgoing.headers.remove(EXPECT);
        self.told.put(&mut outgoing.headers, &self.time, self.core.clock.now());
        Some(Second { target, seat, body, outgoing })
    }
}
