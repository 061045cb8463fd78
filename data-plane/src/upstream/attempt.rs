//! One attempt at one target: a connection, the request on it, and the wait for the head of the response.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use http::StatusCode;
use http_body::Body as _;
use model::exchange::{ResponseHead, Time};
use model::fields::Fields;

use super::admission::{Admitted, Seat};
use super::call::{Call, code_of};
use super::connect::{Purpose, Terms};
use super::forward::Task;
use super::http1::Http1;
use super::lease::{Flight, Lease};
use super::outgoing::{Outgoing, Upload};
use super::pool::Channel;
use super::retry::Outcome;
use super::stream::Stream;
use super::{UpstreamError, UpstreamResponse};
use crate::body::{Body, Failure};
use crate::http1::Lost;
use crate::http2::Incoming;
use crate::interim::Interim;

/// A connection that takes longer speaks against its target before it has failed.
const SLOW_CONNECT: Duration = Duration::from_millis(500);

/// Where one attempt goes, and with what.
pub(super) struct Try<'t> {
    pub(super) target: usize,
    /// On no connection that was there before.
    pub(super) is_fresh: bool,
    pub(super) outgoing: &'t Outgoing,
    pub(super) interim: Option<&'t Interim>,
    /// It has been counted as a failure of its target before it ended.
    pub(super) is_suspected: &'t Cell<bool>,
}

/// The head of a response and where it came from. It passes through many hands, in a box.
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    channel: Channel,
    flight: Flight,
    pub(super) head_ns: u64,
    /// When the body must have come to its end.
    end_ns: Option<u64>,
}

/// Why an attempt came to nothing.
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    pub(super) outcome: Outcome,
    /// The body, if nothing of it was taken.
    pub(super) unsent: Option<Body>,
}

impl Task {
    /// Sends the request to one target, on a connection that is there or on a new one.
    pub(super) async fn attempt(&self, this: &Try<'_>, body: Body, seat: Option<Seat>) -> Result<Box<Answer>, Failed> {
        let pool = &self.backend.pools[this.target];
        let flight = Flight::begin(pool, &self.backend, seat);
        let pooled = if this.is_fresh { None } else { pool.take(self.purpose) };
        match pooled {
            // What must not be sent twice is not sent where nobody may be: that costs a call of the kernel.
            Some(Channel::Http1(connection)) if !self.is_repeatable && connection.is_left() => {}
            Some(channel) => return self.send(this, channel, flight, body).await,
            None => {}
        }
        Box::pin(self.send_on_new(this, flight, body)).await
    }

    async fn send_on_new(&self, this: &Try<'_>, flight: Flight, body: Body) -> Result<Box<Answer>, Failed> {
        let timeout = self.backend.service.timeouts.connect.get();
        let terms = Terms::of(&self.backend.service);
        let opened = {
            let ends = self.ends.as_deref();
            let mut open = pin!(flight.pool.open(timeout, terms, self.purpose, ends, this.is_fresh));
            tokio::select! {
                biased;
                opened = open.as_mut() => opened,
                () = self.core.clock.deadline(SLOW_CONNECT) => {
                    // Whoever waits goes on waiting, but nobody else needs to begin.
                    this.is_suspected.set(true);
                    self.backend.fell_short(this.target);
                    open.await
                }
            }
        };
        match opened {
            Ok(channel) => self.send(this, channel, flight, body).await,
            Err(error) => {
                if matches!(error, UpstreamError::Unreachable(_) | UpstreamError::ConnectTimeout) {
                    self.backend.counts.connect_failed();
                }
                Err(Failed { error, outcome: Outcome::Unconnected, unsent: Some(body) })
            }
        }
    }

    async fn send(&self, this: &Try<'_>, channel: Channel, flight: Flight, body: Body) -> Result<Box<Answer>, Failed> {
        match channel {
            Channel::Http1(connection) => self.send_http1(this, connection, flight, body).await,
            Channel::Http2(stream) => Box::pin(self.send_http2(this, stream, flight, body)).await,
        }
    }

    async fn send_http1(
        &self,
        this: &Try<'_>,
        mut connection: Http1,
        flight: Flight,
        body: Body,
    ) -> Result<Box<Answer>, Failed> {
        let sent = self.core.clock.recent();
        let mut sending = connection.begin(this.outgoing, body, &flight.pool);
        let answer = {
            let response = pin!(poll_fn(|context| connection.poll_response(&mut sending, this.interim, context)));
            self.wait(sent, response).await
        };
        match answer {
            Some(Ok(head)) => {
                if self.awaits_leave() {
                    sending.give_up_body();
                }
                connection.answered(sending, &head);
                let body = connection.body(head.length);
                let head = ResponseHead { status: head.status, headers: head.fields };
                Ok(self.answered(sent, flight, head, body, Channel::Http1(connection)))
            }
            Some(Err(lost)) => {
                let outcome = match lost {
                    Lost::Closed if connection.has_served => Outcome::Stale,
                    Lost::Closed | Lost::Torn | Lost::Io(_) => Outcome::Reset,
                    Lost::Fault(_) => Outcome::Final,
                };
                Err(self.lost(lost.to_string(), outcome, None))
            }
            None => Err(self.unheard(connection.is_held_up())),
        }
    }

    async fn send_http2(
        &self,
        this: &Try<'_>,
        mut stream: Stream,
        flight: Flight,
        body: Body,
    ) -> Result<Box<Answer>, Failed> {
        let sent = self.core.clock.now();
        let mut sending = match stream.send(this.outgoing, body, &flight.pool) {
            Ok(sending) => sending,
            Err((error, body)) => return Err(self.lost(error.to_string(), Outcome::Unsent, Some(body))),
        };
        let answer = {
            let response = pin!(poll_fn(|context| sending.poll_response(this.interim, context)));
            self.wait(sent, response).await
        };
        match answer {
            Some(Ok(response)) => {
                if self.awaits_leave() {
                    sending.give_up_body();
                }
                stream.answered(sending, self.core.clock.now().monotonic_ns);
                let (parts, incoming) = response.into_parts();
                let body = Body::http2(Incoming::new(incoming, &parts.headers));
                let head = ResponseHead { status: parts.status, headers: Fields::from(&parts.headers) };
                Ok(self.answered(sent, flight, head, body, Channel::Http2(stream)))
            }
            Some(Err(lost)) => Err(self.lost(lost.to_string(), lost.outcome(), None)),
            None => {
                let failed = self.unheard(sending.is_held_up());
                if failed.error.is_of_target() {
                    stream.timed_out(sent.monotonic_ns);
                }
                Err(failed)
            }
        }
    }

    /// Whether the client still waits for leave to send the body.
    pub(super) fn awaits_leave(&self) -> bool {
        self.interim.as_ref().is_some_and(|interim| interim.awaits_leave())
    }

    /// There was no answer in time.
    fn unheard(&self, is_held_up: bool) -> Failed {
        let is_upload_late = self.upload.as_ref().is_some_and(|upload| upload.ended_ns().is_none());
        // The target has taken all there was: it is the client who keeps it waiting.
        match is_upload_late && !is_held_up && !self.awaits_leave() {
            true => Failed::last(UpstreamError::RequestBody(Failure::TooSlow)),
            false => self.late(),
        }
    }

    fn answered(&self, sent: Time, flight: Flight, head: ResponseHead, body: Body, channel: Channel) -> Box<Answer> {
        let head_ns = self.core.clock.now().monotonic_ns - sent.monotonic_ns;
        flight.counts.answered(head_ns);
        Box::new(Answer { head, body, channel, flight, head_ns, end_ns: self.time.end_ns(sent) })
    }

    /// If the client's body broke off, the service is not to blame.
    fn lost(&self, cause: String, outcome: Outcome, unsent: Option<Body>) -> Failed {
        match self.upload.as_ref().and_then(|upload| upload.failure()) {
            Some(failure) => Failed::last(UpstreamError::RequestBody(failure)),
            None => Failed { error: UpstreamError::BadResponse(cause), outcome, unsent },
        }
    }

    fn late(&self) -> Failed {
        Failed { error: self.time.error(self.core.clock.now()), outcome: Outcome::Late, unsent: None }
    }

    /// Waits for the head of the response: as long as the request is being sent, and then for its timeout; in any case no
    /// longer than the exchange may take.
    async fn wait<F: Future>(&self, sent: Time, mut sending: Pin<&mut F>) -> Option<F::Output> {
        let (timeout, end_ns) = (self.time.head, self.time.end_ns(sent));
        let bounded = |now: Time, rest: Duration| {
            let left = |end_ns: u64| Duration::from_nanos(end_ns.saturating_sub(now.monotonic_ns));
            end_ns.map_or(rest, |end_ns| rest.min(left(end_ns)))
        };
        let mut deadline = self.core.clock.deadline_from(sent, bounded(sent, timeout));
        let taken = |upload: &Upload| (upload.bytes(), self.awaits_leave());
        let mut before = (0, self.awaits_leave());
        loop {
            tokio::select! {
                biased;
                answer = sending.as_mut() => return Some(answer),
                () = &mut deadline => {}
            }
            let upload = self.upload.as_ref()?;
            let now = self.core.clock.now();
            let rest = match upload.ended_ns() {
                // It may have ended in an attempt before this one.
                Some(ended_ns) => {
                    let since_ns = now.monotonic_ns - ended_ns.max(sent.monotonic_ns);
                    timeout.saturating_sub(Duration::from_nanos(since_ns))
                }
                // A service that takes nothing more of the request is as good as one that does not answer.
                None if taken(upload) == before => return None,
                None => timeout,
            };
            let rest = bounded(now, rest);
            if rest.is_zero() {
                return None;
            }
            before = taken(upload);
            deadline.reset_from(now, rest);
        }
    }

    /// Makes the response of an answer, with its connection held until it was read.
    pub(super) fn receive(
        &self,
        answer: Box<Answer>,
        place: Option<Admitted>,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let Answer { head, body, channel, flight, head_ns, end_ns } = *answer;
        let (target, attempts) = (Rc::clone(&flight.pool.target), self.attempts.get());
        let is_unknown = self.backend.service.sticky.is_some() && self.choice.own != Some(self.target);
        let tag = is_unknown.then(|| self.backend.tags().of_targets[self.target]);
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            let is_open = self.time.is_call && !body.is_empty() && awaits_code(&head);
            let call = is_open.then(|| Box::new(self.call(head_ns)));
            let mut body = Lease { flight, upload: self.upload.clone(), channel, place, call }.attach(body);
            if let Some(end_ns) = end_ns {
                body = body.with_deadline(self.core.clock.deadline_at(end_ns));
            }
            return Ok(UpstreamResponse { head, body, upgrade: None, target, head_ns, attempts, tag });
        }
        let (Channel::Http1(connection), Purpose::Upgrade) = (channel, self.purpose) else {
            return Err(UpstreamError::BadResponse("it switched protocols unasked".into()));
        };
        let upgrade = Some(connection.switch());
        Ok(UpstreamResponse { head, body: Body::empty(), upgrade, target, head_ns, attempts, tag })
    }

    /// The call that the request is, of which the end is yet to come.
    fn call(&self, head_ns: u64) -> Call {
        let backend = Rc::clone(&self.backend);
        Call { backend, target: self.target, head_ns, is_deadline_of_client: self.has_deadline_of_client(), code: None }
    }

    fn has_deadline_of_client(&self) -> bool {
        self.time.whole.is_some_and(|end| end.is_of_client)
    }

    /// What a call that has begun to be answered says about its target, if it says it already.
    pub(super) fn tell_of_call(&self, target: usize, answer: &Answer) {
        match code_of(&answer.head) {
            _ if answer.head.status != StatusCode::OK => {
                self.backend.answered(target, answer.head.status, answer.head_ns);
            }
            Some(code) => self.backend.called(target, code, answer.head_ns, self.has_deadline_of_client()),
            // An answer without anything is none.
            None if answer.body.is_empty() => self.backend.fell_short(target),
            None => {}
        }
    }

    /// Gives up an answer for a better one. Its connection stays good if all of it is there already.
    pub(super) fn put_aside(&self, answer: Box<Answer>) {
        let Ok(UpstreamResponse { mut body, .. }) = self.receive(answer, None) else { return };
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some(Ok(_))) = Pin::new(&mut body).poll_frame(&mut context) {}
    }
}

/// Whether a call of gRPC says in its trailers what it came to.
fn awaits_code(head: &ResponseHead) -> bool {
    head.status == StatusCode::OK && code_of(head).is_none()
}

impl Failed {
    /// Another attempt would come to the same.
    fn last(error: UpstreamError) -> Self {
        Self { error, outcome: Outcome::Final, unsent: None }
    }
}
