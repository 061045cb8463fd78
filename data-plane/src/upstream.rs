//! Where requests go: the connections of one core to the services, and the choice among their targets.
//!
//! Each core has its own [`Upstreams`], made on it and never shared: nothing here takes a lock or is seen by
//! another core. What is bounded here: connections and their age for each endpoint, the size of response heads,
//! the wait for a connection and for the head of a response. Bodies are bounded by whoever reads them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::body::Body;
use crate::clock::Clock;
use crate::telemetry::CoreTelemetry;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use model::exchange::ResponseHead;
use model::slots::Slot;
use model::snapshot::{Endpoint, Snapshot};

pub use error::UpstreamError;

mod error;

/// A request as a service gets it: fields that belong to the client's connection are gone.
pub struct UpstreamRequest {
    pub method: Method,
    pub target: PathAndQuery,
    /// Without `Host`, the address of the target stands in its place. `Upgrade` with `Connection` stay in a
    /// request that may switch protocols.
    pub headers: HeaderMap,
    pub body: Body,
    /// How long the head of the response may take, counted from the last byte of the request.
    pub timeout: Duration,
}

/// What a service answered.
pub struct UpstreamResponse {
    pub head: ResponseHead,
    /// Its connection goes back to the pool when this was read to the end, and is closed when it was not.
    pub body: Body,
    /// Set if the service switched protocols, which it can only when it was asked to: the status is 101.
    pub upgrade: Option<OnUpgrade>,
    /// The target that answered.
    pub endpoint: Arc<Endpoint>,
}

/// The connections of one core to all services.
pub struct Upstreams {}

impl Upstreams {
    #[must_use]
    pub fn new(clock: &Clock, telemetry: &Rc<CoreTelemetry>) -> Self {
        let _ = (clock, telemetry);
        Self {}
    }

    /// Sends a request to a target of the service and returns the head of its response.
    ///
    /// Dropping the future gives the request up and closes its connection.
    pub async fn forward(
        &self,
        snapshot: &Rc<Snapshot>,
        service: Slot,
        request: UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let _ = (snapshot, service, request);
        Err(UpstreamError::NoTarget)
    }

    /// Closes what idled or lived too long, and lets go of endpoints that are not in the snapshot. The core's
    /// ticker calls it every few seconds, which spares every connection a timer of its own.
    pub fn sweep(&self, snapshot: &Rc<Snapshot>) {
        let _ = snapshot;
    }
}
