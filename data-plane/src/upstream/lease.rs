//! What a request holds of its target: a place among those in flight, and its connection until the response was read.

use std::rc::Rc;

use http::HeaderMap;

use super::admission::{Admitted, Seat};
use super::backend::Backend;
use super::call::Call;
use super::http1::Http1;
use super::outgoing::Upload;
use super::pool::{Channel, Pool};
use crate::body::{Body, End, Ending};
use crate::telemetry::ServiceCounts;

/// One attempt that is under way, counted at its target and service until its response was read.
pub(super) struct Flight {
    pub(super) pool: Rc<Pool>,
    pub(super) counts: Rc<ServiceCounts>,
    /// Where requests at the target are limited.
    _seat: Option<Seat>,
}

/// What is held until a response was read.
pub(super) struct Lease {
    pub(super) flight: Flight,
    pub(super) upload: Option<Rc<Upload>>,
    pub(super) channel: Channel,
    /// Where requests at the service are limited.
    pub(super) place: Option<Admitted>,
    /// A call of gRPC, which says what it came to when it ends.
    pub(super) call: Option<Box<Call>>,
}

impl Lease {
    pub(super) fn attach(self, body: Body) -> Body {
        if body.is_empty() {
            Box::new(self).end(Ending::Complete);
            return body;
        }
        body.with_end(Box::new(self))
    }
}

impl End for Lease {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(call) = &mut self.call {
            call.heard(trailers);
        }
    }

    fn end(self: Box<Self>, ending: Ending) {
        let Self { flight, upload, channel, place: _place, call } = *self;
        if let Some(call) = call {
            call.ended(ending);
        }
        let is_taken = upload.is_none_or(|upload| upload.is_complete());
        match (channel, ending) {
            (Channel::Http1(connection), Ending::Complete) if is_taken && connection.is_sent() => {
                flight.pool.give_back(connection);
            }
            (Channel::Http1(connection), Ending::Complete) => connection.linger(&flight.pool.core.clock),
            // It is in the midst of a message, and closed for that.
            (Channel::Http1(connection), Ending::Failed(_) | Ending::Dropped) => drop::<Http1>(connection),
            (Channel::Http2(stream), Ending::Complete) => {
                stream.linger(&flight.pool.core.clock, flight.pool.core.swept_ns.get());
            }
            (Channel::Http2(stream), Ending::Failed(_) | Ending::Dropped) => {
                stream.end(flight.pool.core.swept_ns.get());
            }
        }
    }
}

impl Flight {
    pub(super) fn begin(pool: &Rc<Pool>, backend: &Backend, seat: Option<Seat>) -> Self {
        pool.in_flight.set(pool.in_flight.get() + 1);
        pool.counts.requests.set(pool.counts.requests.get() + 1);
        backend.counts.started();
        Self { pool: Rc::clone(pool), counts: Rc::clone(&backend.counts), _seat: seat }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.pool.in_flight.set(self.pool.in_flight.get() - 1);
        self.counts.ended();
    }
}
