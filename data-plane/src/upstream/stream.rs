//! One request on an HTTP/2 connection to a target, and what of it is left to send when the response has come.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{Response, StatusCode};
use model::exchange::ResponseHead;
use model::fields::Fields;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Http2;
use super::http1::LINGER;
use super::outgoing::Outgoing;
use super::pool::Pool;
use super::retry::Outcome;
use crate::body::Body;
use crate::clock::Clock;
use crate::http1::{Broken, MAX_INTERIM};
use crate::http2::Pump;
use crate::interim::Interim;

/// A place on an HTTP/2 connection.
pub(super) struct Stream {
    connection: Rc<Http2>,
    /// What sends the body of the request when the response has begun before its end.
    upload: Option<AbortOnDropHandle<()>>,
}

/// A request that is under way, and what is left of it to send.
pub(super) struct Sending {
    response: ResponseFuture,
    pump: Option<Pump>,
    interim: u8,
}

/// Why no response came.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the body of the request broke off")]
    Torn,
    #[error("there are too many interim responses")]
    TooMuchBefore,
    #[error("{0}")]
    Codec(#[from] h2::Error),
}

impl Stream {
    pub(super) fn begin(connection: &Rc<Http2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.requests_left.set(connection.requests_left.get() - 1);
        Self { connection: Rc::clone(connection), upload: None }
    }

    /// Takes a request; a connection that takes none any more gives the body back.
    pub(super) fn send(&self, outgoing: &Outgoing, body: Body, pool: &Pool) -> Result<Sending, (h2::Error, Body)> {
        let is_end = body.is_empty();
        let message = outgoing.http2(&body, pool);
        match self.connection.sender().send_request(message, is_end) {
            Ok((response, stream)) => {
                let pump = (!is_end).then(|| Pump::new(body, stream));
                Ok(Sending { response, pump, interim: 0 })
            }
            Err(error) => Err((error, body)),
        }
    }

    /// The response has come: what is left of the request is sent on the side.
    pub(super) fn answered(&mut self, sending: Sending, now_ns: u64) {
        self.connection.heard_ns.set(now_ns);
        if let Some(mut pump) = sending.pump {
            let upload = tokio::task::spawn_local(async move {
                if let Err(Broken::Source(_)) = poll_fn(|context| pump.poll(context)).await {
                    pump.reset(Reason::CANCEL);
                }
            });
            self.upload = Some(AbortOnDropHandle::new(upload));
        }
    }

    /// No response came in time. If there was none to any other request either since this one was sent, the peer
    /// may be gone without a word, and the connection gets no further requests, long before a PING would tell.
    pub(super) fn timed_out(&self, sent_ns: u64) {
        if self.connection.heard_ns.get() <= sent_ns {
            self.connection.is_silent.set(true);
        }
    }

    pub(super) fn end(self, now_ns: u64) {
        self.connection.idle_since_ns.set(now_ns);
    }

    /// Its response is complete but the request may not be: what is left of it is sent for a moment yet.
    pub(super) fn linger(mut self, clock: &Clock, now_ns: u64) {
        let Some(mut upload) = self.upload.take().filter(|upload| !upload.is_finished()) else {
            return self.end(now_ns);
        };
        let deadline = clock.deadline(LINGER);
        tokio::task::spawn_local(async move {
            tokio::select! {
                _ = &mut upload => {}
                () = deadline => {}
            }
            self.end(now_ns);
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
    }
}

impl Sending {
    /// Sends, and waits for the head of the response, which may come before all was sent.
    pub(super) fn poll_response(
        &mut self,
        interim: Option<&Interim>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response<RecvStream>, Lost>> {
        if let Some(pump) = &mut self.pump {
            match pump.poll(context) {
                // A service that takes no more may have answered; if it has not, that is found when its answer is read.
                Poll::Ready(Ok(()) | Err(Broken::Peer)) => self.pump = None,
                Poll::Ready(Err(Broken::Source(_) | Broken::Length)) => {
                    pump.reset(Reason::CANCEL);
                    return Poll::Ready(Err(Lost::Torn));
                }
                Poll::Pending => {}
            }
        }
        while let Poll::Ready(Some(said)) = self.response.poll_informational(context) {
            let (said, ()) = said?.into_parts();
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(Lost::TooMuchBefore));
            }
            // HTTP/2 knows of no switch of protocols (RFC 9113 section 8.6).
            if let Some(interim) = interim.filter(|_| said.status != StatusCode::SWITCHING_PROTOCOLS) {
                interim.say(ResponseHead { status: said.status, headers: Fields::from(&said.headers) });
            }
        }
        Pin::new(&mut self.response).poll(context).map_err(Lost::Codec)
    }

    /// The client waits for leave that nobody has given: what is left of the request will not come.
    pub(super) fn give_up_body(&mut self) {
        self.pump = None;
    }

    /// Whether something waits to be sent that the target does not take.
    pub(super) fn is_held_up(&self) -> bool {
        self.pump.as_ref().is_some_and(Pump::is_held_up)
    }
}

impl Lost {
    /// What a stream that ended without a response came to.
    pub(super) fn outcome(&self) -> Outcome {
        let error = match self {
            Self::Torn | Self::TooMuchBefore => return Outcome::Final,
            Self::Codec(error) => error,
        };
        match error {
            // Streams that a service may have worked on are not told of its leaving: they end as they end.
            _ if error.is_remote() && error.is_go_away() => Outcome::Refused,
            _ if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) => Outcome::Refused,
            _ if error.is_remote() || error.is_io() => Outcome::Reset,
            // What it sent was no HTTP.
            _ => Outcome::Final,
        }
    }
}
