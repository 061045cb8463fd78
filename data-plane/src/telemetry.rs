//! What the node tells about itself: metrics, the access log, and the port where both planes of operation ask.
//!
//! A core counts in plain cells of its own and formats log lines into a buffer of its own. Others get at them by
//! asking the core; no request waits for a reader.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Method, StatusCode};
use model::resource::Name;
use model::slots::Slot;

/// One request that has ended: what the access log and the metrics are made from.
pub struct RequestRecord<'a> {
    /// Milliseconds since 1970, when the request came in.
    pub time_unix_ms: u64,
    pub request_id: &'a [u8],
    pub method: &'a Method,
    pub host: &'a str,
    /// The canonical path, without query.
    pub path: &'a str,
    pub protocol: http::Version,
    pub client: SocketAddr,
    pub user_agent: Option<&'a [u8]>,
    pub route: Option<(Slot, &'a Name)>,
    pub service: Option<(Slot, &'a Name)>,
    /// `host:port` of the target that answered or was tried last.
    pub target: Option<&'a str>,
    pub consumer: Option<&'a Name>,
    /// What the client got; absent if it left before there was a head.
    pub status: Option<StatusCode>,
    /// The code of the rejection or failure, if the gateway answered itself.
    pub code: Option<&'a str>,
    /// The policy that rejected.
    pub policy: Option<&'a Name>,
    pub revision: u64,
    pub duration_ns: u64,
    /// From sending the request to a target until the head of its response.
    pub upstream_ns: Option<u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// The telemetry of one core.
pub struct CoreTelemetry {}

impl CoreTelemetry {
    /// Counts a request and writes its line.
    pub fn ended(self: &Rc<Self>, record: &RequestRecord<'_>) {
        let _ = record;
    }
}
