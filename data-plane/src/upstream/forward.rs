//! The way of one request to a target and of its answer back.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use model::exchange::ResponseHead;
use smallvec::SmallVec;

use super::backend::Backend;
use super::connect::Purpose;
use super::connection::{Http1, Stream};
use super::outgoing::{Outgoing, Upload};
use super::pool::{Channel, Core, Pool};
use super::{UpstreamError, UpstreamRequest, UpstreamResponse};
use crate::body::{Body, End, Ending};
use crate::telemetry::ServiceCounts;

/// Targets that are tried before a request is given up because none can be connected to.
const MAX_TARGETS: usize = 3;

/// One request that is under way, counted at its target and service until its response was read.
struct Flight {
    pool: Rc<Pool>,
    counts: Rc<ServiceCounts>,
}

/// Why an attempt came to nothing.
enum Failed {
    /// Nothing was sent: another target may do.
    Unsent(Box<Outgoing>, UpstreamError),
    Sent(UpstreamError),
}

/// What all attempts for one request have in common.
struct Task<'a> {
    core: &'a Core,
    backend: &'a Backend,
    upload: Option<Rc<Upload>>,
    timeout: Duration,
    purpose: Purpose,
}

pub(super) async fn forward(
    core: &Core,
    backend: &Backend,
    request: UpstreamRequest,
) -> Result<UpstreamResponse, UpstreamError> {
    if !backend.service.enabled {
        backend.counts.failed(UpstreamError::Disabled.code());
        return Err(UpstreamError::Disabled);
    }
    let timeout = request.timeout;
    let (mut outgoing, upload) = Outgoing::new(request, &core.clock);
    let task = Task { core, backend, upload, timeout, purpose: outgoing.purpose() };
    let mut tried: SmallVec<[usize; MAX_TARGETS]> = SmallVec::new();
    let mut failure = UpstreamError::NoTarget;
    while let Some(target) = backend.pick(&tried).filter(|_| tried.len() < MAX_TARGETS) {
        match task.attempt(&backend.pools[target], outgoing).await {
            Ok(response) => return Ok(response),
            Err(Failed::Sent(error)) => {
                tried.push(target);
                failure = error;
                break;
            }
            Err(Failed::Unsent(unsent, error)) => {
                tried.push(target);
                (outgoing, failure) = (*unsent, error);
            }
        }
    }
    let pool = tried.last().map(|target| &*backend.pools[*target]);
    backend.failed(&failure, pool, core.clock.now().monotonic_ns);
    Err(failure)
}

impl Task<'_> {
    /// Sends the request to one target. A connection that was closed while it idled is noticed only now: the
    /// request goes out again, once, on a new one, which is safe because nothing of it was written.
    async fn attempt(&self, pool: &Rc<Pool>, mut outgoing: Outgoing) -> Result<UpstreamResponse, Failed> {
        let flight = Flight::begin(pool, self.backend);
        if let Some(channel) = pool.take(self.purpose) {
            match self.send(channel, &flight, outgoing).await {
                Err(Failed::Unsent(unsent, _)) => outgoing = *unsent,
                done => return self.receive(done?, flight).map_err(Failed::Sent),
            }
        }
        // Making a connection is rare, and its future is large.
        let channel = match Box::pin(pool.open(self.backend.service.timeouts.connect.get(), self.purpose)).await {
            Ok(channel) => channel,
            Err(error) => {
                if matches!(error, UpstreamError::Unreachable(_) | UpstreamError::ConnectTimeout) {
                    self.backend.counts.connect_failed();
                }
                return Err(Failed::Unsent(Box::new(outgoing), error));
            }
        };
        let answer = self.send(channel, &flight, outgoing).await?;
        self.receive(answer, flight).map_err(Failed::Sent)
    }

    async fn send(&self, channel: Channel, flight: &Flight, outgoing: Outgoing) -> Result<Answer, Failed> {
        let sent = self.core.clock.now();
        let pool = &flight.pool;
        let (answer, channel) = match channel {
            Channel::Http1(mut connection) => {
                let sending = connection.sender.try_send_request(outgoing.into_http1(pool));
                (self.wait(sent, sending).await, Channel::Http1(connection))
            }
            Channel::Http2(stream) => {
                let sending = stream.sender().try_send_request(outgoing.into_http2(pool));
                (self.wait(sent, sending).await, Channel::Http2(stream))
            }
        };
        match answer {
            Some(Ok(response)) => {
                let now_ns = self.core.clock.now().monotonic_ns;
                let head_ns = now_ns - sent.monotonic_ns;
                flight.counts.answered(head_ns);
                if let Channel::Http2(stream) = &channel {
                    stream.answered(now_ns);
                }
                Ok(Answer { response, channel, head_ns })
            }
            Some(Err(mut error)) => {
                let reason = UpstreamError::BadResponse(chain(error.error()));
                Err(match (error.take_message(), self.upload.as_ref().and_then(|upload| upload.failure())) {
                    (Some(message), None) => Failed::Unsent(Box::new(Outgoing::recovered(message)), reason),
                    (_, Some(failure)) => Failed::Sent(UpstreamError::RequestBody(failure)),
                    (None, None) => Failed::Sent(reason),
                })
            }
            None => {
                if let Channel::Http2(stream) = &channel {
                    stream.timed_out(sent.monotonic_ns);
                }
                Err(Failed::Sent(UpstreamError::Timeout))
            }
        }
    }

    /// Waits for the head of the response: as long as the request is being sent, and then for the timeout.
    async fn wait<F: Future>(&self, sent: model::exchange::Time, sending: F) -> Option<F::Output> {
        let mut sending = pin!(sending);
        let mut deadline = self.core.clock.deadline_from(sent, self.timeout);
        let mut bytes = 0;
        loop {
            tokio::select! {
                biased;
                answer = &mut sending => return Some(answer),
                () = &mut deadline => {}
            }
            let upload = self.upload.as_ref()?;
            let now = self.core.clock.now();
            let rest = match upload.ended_ns() {
                Some(ended_ns) => {
                    self.timeout.checked_sub(Duration::from_nanos(now.monotonic_ns - ended_ns)).unwrap_or_default()
                }
                // A service that takes nothing more of the request is as good as one that does not answer.
                None if upload.bytes() == bytes => return None,
                None => self.timeout,
            };
            if rest.is_zero() {
                return None;
            }
            bytes = upload.bytes();
            deadline.reset_from(now, rest);
        }
    }

    fn receive(&self, answer: Answer, flight: Flight) -> Result<UpstreamResponse, UpstreamError> {
        let Answer { mut response, channel, head_ns } = answer;
        let target = Rc::clone(&flight.pool.target);
        let upgrade = match (response.status(), self.purpose, &channel) {
            (StatusCode::SWITCHING_PROTOCOLS, Purpose::Upgrade, Channel::Http1(_)) => {
                Some(hyper::upgrade::on(&mut response))
            }
            (StatusCode::SWITCHING_PROTOCOLS, ..) => {
                return Err(UpstreamError::BadResponse("it switched protocols unasked".into()));
            }
            _ => None,
        };
        let (parts, incoming) = response.into_parts();
        let lease = Lease { flight, upload: self.upload.clone(), channel };
        let body = match upgrade {
            Some(_) => lease.hand_over(),
            None => lease.attach(incoming),
        };
        let head = ResponseHead { status: parts.status, headers: parts.headers };
        Ok(UpstreamResponse { head, body, upgrade, target, head_ns })
    }
}

/// The head of a response and where it came from.
struct Answer {
    response: Response<Incoming>,
    channel: Channel,
    head_ns: u64,
}

/// What is held until a response was read.
struct Lease {
    flight: Flight,
    upload: Option<Rc<Upload>>,
    channel: Channel,
}

impl Lease {
    fn attach(self, incoming: Incoming) -> Body {
        let body = Body::incoming(incoming);
        if body.is_empty() {
            Box::new(self).end(Ending::Complete);
            return body;
        }
        body.with_end(Box::new(self))
    }

    /// The connection belongs to whoever speaks the new protocol on it.
    fn hand_over(self) -> Body {
        if let Channel::Http1(connection) = self.channel {
            connection.let_go();
        }
        Body::empty()
    }
}

impl End for Lease {
    fn end(self: Box<Self>, ending: Ending) {
        let Self { flight, upload, channel } = *self;
        let is_sent = upload.is_none_or(|upload| upload.is_complete());
        match (channel, ending) {
            (Channel::Http1(connection), Ending::Complete) if is_sent => flight.pool.give_back(connection),
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
