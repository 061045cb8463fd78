//! The way of one request to its service: the first attempt, and the next ones if that does not do.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderValue;
use http::header::EXPECT;
use model::resource::service::{Protocol, Retries};
use smallvec::{SmallVec, smallvec};

use super::admission::Admitted;
use super::attempt::{Answer, Failed, Try};
use super::backend::{Backend, Choice};
use super::connect::Purpose;
use super::outgoing::{Outgoing, Upload};
use super::pool::{Core, Speaks};
use super::retry::{Efforts, Outcome, Verdict, judge, verdict, wait};
use super::time::Told;
use super::{TimeLimits, Unanswered, UpstreamError, UpstreamRequest, UpstreamResponse};
use crate::body::{Body, Replay};
use crate::interim::SharedInterim;
use crate::proxy_protocol::Addresses;

/// One request and what all attempts for it have in common. It is moved on its way to where it is awaited, for each
/// request: what is seldom needed is boxed, and the request itself lies only here.
pub(super) struct Task {
    pub(super) core: Rc<Core>,
    pub(super) backend: Rc<Backend>,
    pub(super) choice: Choice,
    pub(super) outgoing: Outgoing,
    pub(super) interim: Option<SharedInterim>,
    pub(super) upload: Option<Rc<Upload>>,
    pub(super) ends: Option<Box<Addresses>>,
    pub(super) time: TimeLimits,
    pub(super) told: Told,
    pub(super) purpose: Purpose,
    /// The service may get it more than once.
    pub(super) is_repeatable: bool,
    /// For the first attempt.
    body: Body,
    /// For the next ones, if the body may be needed again.
    pub(super) replay: Option<Replay>,
    /// The target of the last attempt.
    pub(super) target: usize,
    /// The last attempt has been counted as a failure of its target before it ended.
    pub(super) is_suspected: Cell<bool>,
    pub(super) attempts: Cell<u8>,
    /// Where requests at the service are limited.
    place: Option<Admitted>,
}

impl Task {
    pub(super) fn new(core: &Rc<Core>, backend: Rc<Backend>, choice: Choice, request: UpstreamRequest) -> Self {
        let UpstreamRequest { method, target, mut headers, body, interim, ends, time, hash: _, tag: _ } = request;
        let terms = choice.retries.as_deref().unwrap_or(&backend.service.retries);
        let is_repeatable = terms.attempts > 0 && terms.may_repeat(&method);
        if interim.as_ref().is_some_and(|interim| interim.awaits_leave()) {
            headers.append(&EXPECT, &HeaderValue::from_static("100-continue"));
        }
        let mut purpose = Purpose::of(&headers);
        // HTTP/2 knows of no switch of protocols (RFC 9113 section 8.6), and whoever is asked for one may pass over it (RFC
        // 9110 section 7.8).
        if purpose == Purpose::Upgrade && backend.service.protocol == Protocol::Http2 {
            headers.retain(|name, _| !matches!(name, b"connection" | b"upgrade"));
            purpose = Purpose::Any;
        }
        let (mut body, upload) = Upload::follow(body, &core.clock);
        let mut replay = None;
        if !body.is_empty() && terms.attempts > 0 && (is_repeatable || may_be_refused(&backend)) {
            match Replay::of(body, terms.buffer_bytes as usize, &core.replay_room) {
                Ok(kept) => {
                    body = kept.body().expect("nothing was taken of it");
                    replay = Some(kept);
                }
                Err(long) => body = long,
            }
        }
        Self {
            core: Rc::clone(core),
            purpose,
            choice,
            outgoing: Outgoing { method, target, headers },
            interim,
            upload,
            ends,
            told: time.told(backend.service.deadline_header.as_ref()),
            time,
            is_repeatable,
            body,
            replay,
            target: 0,
            is_suspected: Cell::new(false),
            attempts: Cell::new(0),
            place: None,
            backend,
        }
    }

    pub(super) fn terms(&self) -> &Retries {
        self.choice.retries.as_deref().unwrap_or(&self.backend.service.retries)
    }

    pub(super) async fn run(&mut self) -> Result<UpstreamResponse, Unanswered> {
        let backend = Rc::clone(&self.backend);
        if !backend.service.enabled {
            backend.counts.failed(UpstreamError::Disabled.code());
            return Err(UpstreamError::Disabled.into());
        }
        let answer = match self.time.whole {
            None => self.attempt_all().await,
            Some(end) => {
                let (core, time) = (Rc::clone(&self.core), self.time);
                let deadline = core.clock.deadline_at(end.at_ns);
                let answer = Box::pin(self.attempt_all());
                tokio::select! {
                    biased;
                    answer = answer => answer,
                    () = deadline => {
                        let error = time.error(core.clock.now());
                        // Without an attempt it is the queue that took the time.
                        if error.is_of_target() && self.attempts.get() > 0 && !self.is_suspected.get() {
                            backend.fell_short(self.target);
                        }
                        Err(error)
                    }
                }
            }
        };
        let place = self.place.take();
        answer.and_then(|answer| self.receive(answer, place)).map_err(|error| {
            let target = (self.attempts.get() > 0).then(|| Rc::clone(&backend.pools[self.target].target));
            self.unanswered(error, target)
        })
    }

    async fn attempt_all(&mut self) -> Result<Box<Answer>, UpstreamError> {
        let (target, seat) = if self.backend.service.limits.count_requests() {
            let (target, admitted, seat) = Box::pin(self.admit()).await?;
            self.place = Some(admitted);
            (target, seat)
        } else {
            (self.backend.pick(&self.choice, &[]).ok_or(UpstreamError::NoTarget)?, None)
        };
        self.backend.history.budget.request();
        self.target = target;
        self.attempts.set(1);
        let body = std::mem::replace(&mut self.body, Body::empty());
        self.tell_time();
        let mut beside = None;
        let mut attempted = match self.hedge_after() {
            None => self.attempt(&self.at_target(false), body, seat).await,
            Some(after) => {
                let hedged = Box::pin(self.attempt_hedged(body, seat, after)).await;
                (self.target, beside) = (hedged.target, hedged.beside);
                hedged.attempted
            }
        };
        self.tell_health(self.target, &attempted, self.is_suspected.replace(false));
        if !self.is_good(&attempted) {
            attempted = Box::pin(self.insist(attempted, beside)).await;
        }
        // What comes now is for the client, and nothing is sent again.
        self.replay = None;
        attempted.map_err(|failed| failed.error)
    }

    /// An attempt at the target that was chosen last.
    pub(super) fn at_target(&self, is_fresh: bool) -> Try<'_> {
        let Self { target, outgoing, interim, is_suspected, .. } = self;
        Try { target: *target, is_fresh, outgoing, interim: interim.as_deref(), is_suspected }
    }

    /// What an attempt says about its target, which it may have said before it ended.
    pub(super) fn tell_health(&self, target: usize, attempted: &Result<Box<Answer>, Failed>, is_suspected: bool) {
        match attempted {
            Ok(answer) if self.time.is_call => self.tell_of_call(target, answer),
            Ok(answer) => self.backend.answered(target, answer.head.status, answer.head_ns),
            // Connections end, which says nothing of the target.
            Err(Failed { outcome: Outcome::Unsent | Outcome::Stale | Outcome::Refused, .. }) => {}
            Err(failed) => {
                if failed.outcome == Outcome::Late {
                    self.backend.took(u64::try_from(self.time.head.as_nanos()).unwrap_or(u64::MAX));
                }
                if failed.error.is_of_target() && !is_suspected {
                    self.backend.fell_short(target);
                }
            }
        }
    }

    /// Whether it is an answer to be content with.
    pub(super) fn is_good(&self, attempted: &Result<Box<Answer>, Failed>) -> bool {
        attempted.as_ref().is_ok_and(|answer| self.judge(answer).is_none())
    }

    fn judge(&self, answer: &Answer) -> Option<Outcome> {
        judge(self.terms(), &answer.head, !answer.body.is_empty())
    }

    /// Goes on after an attempt that did not do, as long as that is of use, and gives what the last one came to. There may
    /// have been another attempt `beside` it.
    async fn insist(
        &mut self,
        mut attempted: Result<Box<Answer>, Failed>,
        beside: Option<usize>,
    ) -> Result<Box<Answer>, Failed> {
        let backend = Rc::clone(&self.backend);
        let mut tried: SmallVec<[usize; 6]> = smallvec![self.target];
        tried.extend(beside);
        let mut is_fresh = false;
        loop {
            let (outcome, unsent) = match &mut attempted {
                Ok(answer) => match self.judge(answer) {
                    Some(outcome) => (outcome, None),
                    None => return attempted,
                },
                Err(failed) => (failed.outcome, failed.unsent.take()),
            };
            let body = unsent.or_else(|| self.body_again());
            let efforts = Efforts { attempts: self.attempts.get(), is_fresh, is_at_hand: body.is_some() };
            let verdict = verdict(self.terms(), &self.outgoing.method, outcome, efforts);
            let Some(body) = body.filter(|_| verdict != Verdict::GiveUp) else { return attempted };
            let seat;
            if let Verdict::Again { costs } = verdict {
                let chosen = backend.choose(&self.choice, &tried);
                let Some((next, new_seat)) = chosen.or_else(|| backend.choose(&self.choice, &[])) else {
                    return attempted;
                };
                let is_new = !tried.contains(&next);
                let is_waste = !is_new
                    && matches!(&attempted, Err(failed) if matches!(failed.error, UpstreamError::ConnectTimeout));
                let wait = wait(self.terms().backoff, outcome, self.attempts.get() - 1, is_new, fastrand::f64());
                // A target that cannot be connected to has had all the time that it may take.
                if is_waste || !self.may_go_on(wait, costs) {
                    return attempted;
                }
                (self.target, seat) = (next, new_seat);
                tried.push(next);
                backend.counts.retried(outcome.name());
                self.attempts.set(self.attempts.get() + 1);
                if let Ok(answer) = attempted {
                    self.put_aside(answer);
                }
                if !wait.is_zero() {
                    self.core.clock.deadline(wait).await;
                }
                is_fresh = false;
            } else {
                if outcome == Outcome::Stale {
                    backend.counts.retried(outcome.name());
                    self.attempts.set(self.attempts.get() + 1);
                }
                seat = backend.seat_again(self.target);
                is_fresh = true;
            }
            self.tell_time();
            // A client that has begun to send does not wait for leave any more.
            if !self.awaits_leave() {
                self.outgoing.headers.remove(EXPECT);
            }
            attempted = self.attempt(&self.at_target(is_fresh), body, seat).await;
            self.tell_health(self.target, &attempted, self.is_suspected.replace(false));
        }
    }

    fn tell_time(&mut self) {
        if !matches!(self.told, Told::Nothing) {
            self.told.put(&mut self.outgoing.headers, &self.time, self.core.clock.now());
        }
    }

    /// Whether there is time for another attempt, and something left in the budget of the service if it costs that.
    pub(super) fn may_go_on(&self, wait: Duration, costs: bool) -> bool {
        let now_ns = self.core.clock.now().monotonic_ns;
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        if self.time.whole.is_some_and(|end| now_ns.saturating_add(wait_ns) >= end.at_ns) {
            return false;
        }
        let is_paid = !costs || self.backend.history.budget.take(self.terms().budget, now_ns);
        if !is_paid {
            self.backend.counts.retry_denied();
        }
        is_paid
    }

    /// The body from its beginning, if all of it is at hand.
    pub(super) fn body_again(&self) -> Option<Body> {
        match (&self.upload, &self.replay) {
            (None, _) => Some(Body::empty()),
            (Some(_), replay) => replay.as_ref().and_then(Replay::body),
        }
    }

    /// Counts a request without an answer.
    fn unanswered(&self, error: UpstreamError, target: Option<Rc<str>>) -> Unanswered {
        self.backend.failed(&error, target.as_deref(), self.core.clock.now().monotonic_ns);
        Unanswered { error, target, attempts: self.attempts.get() }
    }
}

/// Whether a target may say that it did not look at a request, which is then sent again whatever its method: over HTTP/2.
fn may_be_refused(backend: &Backend) -> bool {
    backend.pools.first().is_some_and(|pool| pool.speaks() != Speaks::Http1)
}
