//! An HTTP/1.1 connection to a target, and what happens to it when a request on it is over.
//!
//! It runs in the task of its request. It serves one request after the other, and only one that was left in a perfect
//! state serves another: whole request sent, whole response read, nothing behind it. In every other case it is closed.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use model::fields::Fields;
use tokio_util::task::AbortOnDropHandle;

use super::connect::Life;
use super::connection::Open;
use super::outgoing::Outgoing;
use super::pool::{Pool, SWEEP_NS};
use crate::body::Body;
use crate::clock::Clock;
use crate::http1::{Bounds, Broken, Incoming, Length, Lost, Pump, ResponseHead, SharedWire, Stream, Switched, Wire};
use crate::interim::Interim;

/// Bounds of the head of a response.
const BOUNDS: Bounds = Bounds { head_bytes: 64 * 1024, target_bytes: 64 * 1024, fields: 256 };

/// A service may answer before it has read the request: the client gets this long to finish sending.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// How far ahead of a target its connections are closed: a request is on its way for a while.
const AHEAD_NS: u64 = 1_000_000_000;

/// An HTTP/1.1 connection. Dropping it closes it.
pub(super) struct Http1 {
    wire: SharedWire,
    /// When it is too old for another request.
    pub(super) expires_ns: u64,
    /// Requests that it may serve yet.
    requests_left: u32,
    /// How long it may wait for a request.
    pub(super) idle_ns: u64,
    pub(super) idle_since_ns: u64,
    /// It has served a request before: the target may be closing it for idling when the next one is sent.
    pub(super) has_served: bool,
    /// The target keeps it for another request.
    is_persistent: bool,
    /// What sends the body of the request when the response has begun before its end.
    upload: Option<AbortOnDropHandle<()>>,
    open: Open,
}

/// A connection on which the service has switched to another protocol.
pub struct Upgraded {
    pub stream: Switched,
    _open: Open,
}

/// A request that is under way on a connection, and what is left of it to send.
pub(super) struct Sending {
    pump: Option<Pump>,
    method: Method,
}

impl Sending {
    /// The client waits for leave that nobody has given: what is left of the request will not come.
    pub(super) fn give_up_body(&mut self) {
        self.pump = None;
    }
}

impl Http1 {
    pub(super) fn new(stream: Stream, open: Open, life: Life) -> Self {
        let Life { expires_ns, idle_ns, requests_left } = life;
        let wire = Wire::new(stream, BytesMut::new(), BOUNDS, Rc::default());
        let wire = Rc::new(RefCell::new(wire));
        Self {
            wire,
            expires_ns,
            requests_left,
            idle_ns,
            idle_since_ns: 0,
            has_served: false,
            is_persistent: true,
            upload: None,
            open,
        }
    }

    /// Whether it can take a request. A service that has closed it is noticed here, if the word of it has come.
    pub(super) fn is_ready(&self) -> bool {
        self.wire.borrow_mut().is_at_rest()
    }

    /// Whether its last request left it in a perfect state.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_persistent
            && self.requests_left > 0
            && self.upload.is_none()
            && self.wire.borrow().is_between_messages()
    }

    /// Whether the target has closed it, or speaks unasked, by the word of the kernel and not by what the runtime was last
    /// told.
    pub(super) fn is_left(&self) -> bool {
        self.wire.borrow().is_left()
    }

    /// Takes a request.
    pub(super) fn begin(&mut self, outgoing: &Outgoing, body: Body, pool: &Pool) -> Sending {
        let length = http_body::Body::size_hint(&body).exact().map_or(Length::Chunked, Length::Exact);
        self.requests_left -= 1;
        outgoing.write_http1(self.wire.borrow_mut().output(), pool, length);
        let pump = (length != Length::Exact(0)).then(|| Pump::new(body, length, true));
        Sending { pump, method: outgoing.method.clone() }
    }

    /// Sends, and waits for the head of the response, which may come before all was sent.
    pub(super) fn poll_response(
        &self,
        sending: &mut Sending,
        interim: Option<&Interim>,
        context: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Lost>> {
        if let Some(pump) = &mut sending.pump {
            match pump.poll(&self.wire, context) {
                // A service that reads no more may have answered; if it has not, that is found when its answer is read.
                Poll::Ready(Ok(()) | Err(Broken::Peer)) => sending.pump = None,
                Poll::Ready(Err(Broken::Source(_) | Broken::Length)) => return Poll::Ready(Err(Lost::Torn)),
                Poll::Pending => {}
            }
        } else {
            // As above.
            let _ = self.wire.borrow_mut().poll_flush(context);
        }
        loop {
            let head = ready!(self.wire.borrow_mut().poll_response(context, &sending.method))?;
            if !head.is_interim() {
                return Poll::Ready(Ok(head));
            }
            if let Some(interim) = interim {
                interim.say(model::exchange::ResponseHead { status: head.status, headers: head.fields });
            }
        }
    }

    /// The response has come: what is left of the request is sent on the side.
    pub(super) fn answered(&mut self, sending: Sending, head: &ResponseHead) {
        if !self.has_served {
            self.has_served = true;
            self.learn_patience(&head.fields);
        }
        self.is_persistent = head.is_persistent;
        if let Some(mut pump) = sending.pump {
            let wire = Rc::clone(&self.wire);
            let upload = tokio::task::spawn_local(async move {
                // A service that has answered may take no more.
                let _ = std::future::poll_fn(|context| pump.poll(&wire, context)).await;
            });
            self.upload = Some(AbortOnDropHandle::new(upload));
        }
    }

    /// How long the target says that it waits for the next request, which it says the first time as well as ever.
    fn learn_patience(&mut self, fields: &Fields) {
        let Some(patience_ns) = fields.get_str("keep-alive").and_then(timeout_of) else { return };
        self.idle_ns = self.idle_ns.min(patience_ns.saturating_sub(AHEAD_NS));
        if self.idle_ns < SWEEP_NS {
            self.requests_left = 0;
        }
    }

    /// The body of the response.
    pub(super) fn body(&self, length: Length) -> Body {
        if length == Length::Exact(0) { Body::empty() } else { Body::http1(Incoming::new(&self.wire)) }
    }

    /// The connection as it is, for whoever speaks another protocol on it.
    pub(super) fn switch(self) -> Upgraded {
        Upgraded { stream: Switched(self.wire), _open: self.open }
    }

    /// Whether something waits to be sent that the target does not take.
    pub(super) fn is_held_up(&self) -> bool {
        !self.wire.borrow().is_flushed()
    }

    /// Whether the request was sent to its end.
    pub(super) fn is_sent(&self) -> bool {
        self.upload.as_ref().is_none_or(AbortOnDropHandle::is_finished)
    }

    /// Its response is complete but the request is not: it is closed when that was sent, or after a moment.
    pub(super) fn linger(mut self, clock: &Clock) {
        let deadline = clock.deadline(LINGER);
        tokio::task::spawn_local(async move {
            let Some(upload) = &mut self.upload else { return };
            tokio::select! {
                _ = upload => {}
                () = deadline => {}
            }
        });
    }
}

/// The time in `timeout=5, max=100` (RFC 2068 section 19.7.1.1).
fn timeout_of(keep_alive: &str) -> Option<u64> {
    let parameters = keep_alive.split(',').filter_map(|parameter| parameter.split_once('='));
    let mut named = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    named.next()?.1.trim().parse::<u64>().ok().map(|seconds| seconds.saturating_mul(1_000_000_000))
}
