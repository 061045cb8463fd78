//! The way of one request to a target and of its answer back.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use model::exchange::{ResponseHead, Time};
use model::fields::Fields;
use smallvec::SmallVec;

use super::backend::Backend;
use super::connect::Purpose;
use super::connection::Stream;
use super::http1::Http1;
use super::outgoing::{Outgoing, Upload};
use super::pool::{Channel, Core, Pool};
use super::{Interim, TimeLimits, Unanswered, UpstreamError, UpstreamRequest, UpstreamResponse};
use crate::body::{Body, End, Ending, Failure};
use crate::http1::Lost;
use crate::proxy_protocol::Addresses;
use crate::telemetry::ServiceCounts;

/// Targets that are tried before a request is given up because none can be connected to.
const MAX_TARGETS: usize = 3;

/// The targets that a request was tried with.
type Tried = SmallVec<[usize; MAX_TARGETS]>;

/// One request that is under way, counted at its target and service until its response was read.
struct Flight {
    pool: Rc<Pool>,
    counts: Rc<ServiceCounts>,
}

/// Why an attempt came to nothing.
struct Failed {
    error: UpstreamError,
    /// The request is back in its task, and it does no harm to send it: nothing of it was sent, or it may be sent
    /// twice.
    is_unsent: bool,
}

/// One request and what all attempts for it have in common. The future that holds it is moved once for each
/// request: what is seldom needed is boxed, and the request itself lies only here.
pub(super) struct Task {
    core: Rc<Core>,
    backend: Rc<Backend>,
    /// Taken while it is being sent.
    outgoing: Option<Outgoing>,
    interim: Option<Interim>,
    upload: Option<Rc<Upload>>,
    ends: Option<Box<Addresses>>,
    time: TimeLimits,
    purpose: Purpose,
    /// It may be sent once more if a connection ends without an answer to it.
    is_repeatable: bool,
}

impl Task {
    pub(super) fn new(core: &Rc<Core>, backend: Rc<Backend>, request: UpstreamRequest) -> Self {
        let (time, interim) = (request.time, request.interim.clone());
        let ends = request.ends.clone();
        let (outgoing, upload) = Outgoing::new(request, &core.clock);
        let purpose = outgoing.purpose();
        let is_repeatable = outgoing.is_repeatable();
        Self {
            core: Rc::clone(core),
            backend,
            outgoing: Some(outgoing),
            interim,
            upload,
            ends,
            time,
            purpose,
            is_repeatable,
        }
    }

    pub(super) async fn run(&mut self) -> Result<UpstreamResponse, Unanswered> {
        let backend = Rc::clone(&self.backend);
        if !backend.service.enabled {
            backend.counts.failed(UpstreamError::Disabled.code());
            return Err(UpstreamError::Disabled.into());
        }
        let mut tried = Tried::new();
        let answer = match self.time.whole {
            None => self.try_targets(&backend, &mut tried).await,
            Some(end) => {
                let (core, time) = (Rc::clone(&self.core), self.time);
                let deadline = core.clock.deadline_at(end.at_ns);
                let answer = Box::pin(self.try_targets(&backend, &mut tried));
                tokio::select! {
                    biased;
                    answer = answer => answer,
                    () = deadline => Err(time.error(core.clock.now())),
                }
            }
        };
        answer.map_err(|error| {
            let pool = tried.last().map(|target| &*backend.pools[*target]);
            backend.failed(&error, pool, self.core.clock.now().monotonic_ns);
            Unanswered { error, target: pool.map(|pool| Rc::clone(&pool.target)) }
        })
    }

    async fn try_targets(&mut self, backend: &Backend, tried: &mut Tried) -> Result<UpstreamResponse, UpstreamError> {
        let mut failure = UpstreamError::NoTarget;
        while let Some(target) = backend.pick(tried).filter(|_| tried.len() < MAX_TARGETS) {
            tried.push(target);
            match self.attempt(&backend.pools[target]).await {
                Ok(response) => return Ok(response),
                Err(Failed { error, is_unsent }) => {
                    failure = error;
                    if !is_unsent {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Sends the request to one target. A connection that was closed while it idled is noticed only now: the
    /// request goes out again, once, on a new one, which is safe because nothing of it was written, or because it
    /// may be repeated.
    async fn attempt(&mut self, pool: &Rc<Pool>) -> Result<UpstreamResponse, Failed> {
        let flight = Flight::begin(pool, &self.backend);
        if let Some(channel) = pool.take(self.purpose) {
            match self.send(channel, &flight).await {
                Err(Failed { is_unsent: true, .. }) => {}
                answer => return self.receive(answer?, flight),
            }
        }
        let answer = Box::pin(self.send_on_new(&flight)).await?;
        self.receive(answer, flight)
    }

    async fn send_on_new(&mut self, flight: &Flight) -> Result<Answer, Failed> {
        let timeout = self.backend.service.timeouts.connect.get();
        match flight.pool.open(timeout, self.purpose, self.ends.as_deref()).await {
            Ok(channel) => self.send(channel, flight).await,
            Err(error) => {
                if matches!(error, UpstreamError::Unreachable(_) | UpstreamError::ConnectTimeout) {
                    self.backend.counts.connect_failed();
                }
                Err(Failed { error, is_unsent: true })
            }
        }
    }

    async fn send(&mut self, channel: Channel, flight: &Flight) -> Result<Answer, Failed> {
        match channel {
            Channel::Http1(connection) => self.send_http1(connection, flight).await,
            Channel::Http2(stream) => Box::pin(self.send_http2(stream, flight)).await,
        }
    }

    async fn send_http1(&mut self, mut connection: Http1, flight: &Flight) -> Result<Answer, Failed> {
        let sent = self.core.clock.now();
        let outgoing = self.outgoing.as_mut().expect("a request that was not sent is put back");
        let mut sending = connection.begin(outgoing, &flight.pool);
        let answer = {
            let response =
                pin!(poll_fn(|context| connection.poll_response(&mut sending, self.interim.as_ref(), context)));
            self.wait(sent, response).await
        };
        match answer {
            Some(Ok(head)) => {
                connection.answered(sending, &head);
                let body = connection.body(head.length);
                let head = ResponseHead { status: head.status, headers: head.fields };
                Ok(self.answered(sent, flight, head, body, Channel::Http1(connection)))
            }
            Some(Err(lost)) => {
                // A service that said anything has seen the request, and what it said is not made good by asking again.
                let is_unsent = self.is_repeatable && connection.has_served && matches!(lost, Lost::Closed);
                self.is_repeatable = false;
                Err(self.failed(lost.to_string(), is_unsent))
            }
            None => {
                let is_upload_late = self.upload.as_ref().is_some_and(|upload| upload.ended_ns().is_none());
                // The target has taken all there was: it is the client who keeps it waiting.
                let error = match is_upload_late && !connection.is_held_up() {
                    true => UpstreamError::RequestBody(Failure::TooSlow),
                    false => self.time.error(self.core.clock.now()),
                };
                Err(Failed { error, is_unsent: false })
            }
        }
    }

    async fn send_http2(&mut self, stream: Stream, flight: &Flight) -> Result<Answer, Failed> {
        let outgoing = self.outgoing.take().expect("a request that was not sent is put back");
        let sent = self.core.clock.now();
        let mut sender = stream.sender();
        let mut sending = pin!(sender.try_send_request(outgoing.into_http2(&flight.pool)));
        match self.wait(sent, sending.as_mut()).await {
            Some(Ok(response)) => {
                stream.answered(self.core.clock.now().monotonic_ns);
                let (parts, incoming) = response.into_parts();
                let head = ResponseHead { status: parts.status, headers: Fields::from(&parts.headers) };
                Ok(self.answered(sent, flight, head, Body::incoming(incoming), Channel::Http2(stream)))
            }
            Some(Err(mut failed)) => {
                self.outgoing = failed.take_message().map(Outgoing::recovered);
                let is_unsent = self.outgoing.is_some();
                Err(self.failed(chain(failed.error()), is_unsent))
            }
            None => {
                stream.timed_out(sent.monotonic_ns);
                Err(Failed { error: self.time.error(self.core.clock.now()), is_unsent: false })
            }
        }
    }

    fn answered(&self, sent: Time, flight: &Flight, head: ResponseHead, body: Body, channel: Channel) -> Answer {
        let head_ns = self.core.clock.now().monotonic_ns - sent.monotonic_ns;
        flight.counts.answered(head_ns);
        Answer { head, body, channel, head_ns, end_ns: self.time.end_ns(sent) }
    }

    /// If the client's body broke off, the service is not to blame.
    fn failed(&self, cause: String, is_unsent: bool) -> Failed {
        match self.upload.as_ref().and_then(|upload| upload.failure()) {
            Some(failure) => Failed { error: UpstreamError::RequestBody(failure), is_unsent: false },
            None => Failed { error: UpstreamError::BadResponse(cause), is_unsent },
        }
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
        let mut bytes = 0;
        loop {
            tokio::select! {
                biased;
                answer = sending.as_mut() => return Some(answer),
                () = &mut deadline => {}
            }
            let upload = self.upload.as_ref()?;
            let now = self.core.clock.now();
            let rest = match upload.ended_ns() {
                Some(ended_ns) => {
                    timeout.checked_sub(Duration::from_nanos(now.monotonic_ns - ended_ns)).unwrap_or_default()
                }
                // A service that takes nothing more of the request is as good as one that does not answer.
                None if upload.bytes() == bytes => return None,
                None => timeout,
            };
            let rest = bounded(now, rest);
            if rest.is_zero() {
                return None;
            }
            bytes = upload.bytes();
            deadline.reset_from(now, rest);
        }
    }

    fn receive(&self, answer: Answer, flight: Flight) -> Result<UpstreamResponse, Failed> {
        let Answer { head, body, channel, head_ns, end_ns } = answer;
        let target = Rc::clone(&flight.pool.target);
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            let lease = Lease { flight, upload: self.upload.clone(), channel };
            let mut body = lease.attach(body);
            if let Some(end_ns) = end_ns {
                body = body.with_deadline(self.core.clock.deadline_at(end_ns));
            }
            return Ok(UpstreamResponse { head, body, upgrade: None, target, head_ns });
        }
        let (Channel::Http1(connection), Purpose::Upgrade) = (channel, self.purpose) else {
            let error = UpstreamError::BadResponse("it switched protocols unasked".into());
            return Err(Failed { error, is_unsent: false });
        };
        Ok(UpstreamResponse { head, body: Body::empty(), upgrade: Some(connection.switch()), target, head_ns })
    }
}

/// The head of a response and where it came from.
struct Answer {
    head: ResponseHead,
    body: Body,
    channel: Channel,
    head_ns: u64,
    /// When the body must have come to its end.
    end_ns: Option<u64>,
}

/// What is held until a response was read.
struct Lease {
    flight: Flight,
    upload: Option<Rc<Upload>>,
    channel: Channel,
}

impl Lease {
    fn attach(self, body: Body) -> Body {
        if body.is_empty() {
            Box::new(self).end(Ending::Complete);
            return body;
        }
        body.with_end(Box::new(self))
    }
}

impl End for Lease {
    fn end(self: Box<Self>, ending: Ending) {
        let Self { flight, upload, channel } = *self;
        let is_taken = upload.is_none_or(|upload| upload.is_complete());
        match (channel, ending) {
            (Channel::Http1(connection), Ending::Complete) if is_taken && connection.is_sent() => {
                flight.pool.give_back(connection);
            }
            (Channel::Http1(connection), Ending::Complete) => connection.linger(&flight.pool.core.clock),
            // It is in the midst of a message, and closed for that.
            (Channel::Http1(connection), Ending::Failed(_) | Ending::Dropped) => drop::<Http1>(connection),
            (Channel::Http2(stream), ..) => Stream::end(stream, flight.pool.core.swept_ns.get()),
        }
    }
}

impl Flight {
    fn begin(pool: &Rc<Pool>, backend: &Backend) -> Self {
        pool.in_flight.set(pool.in_flight.get() + 1);
        pool.counts.requests.set(pool.counts.requests.get() + 1);
        backend.counts.started();
        Self { pool: Rc::clone(pool), counts: Rc::clone(&backend.counts) }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.pool.in_flight.set(self.pool.in_flight.get() - 1);
        self.counts.ended();
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
