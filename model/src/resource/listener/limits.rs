//! Limits: what a client may ask of a listener, in size, number and time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::value::Span;

const HEADER_FIELDS: u32 = 128;
const HEADER_BYTES: u32 = 32 * 1024;
/// The largest target that any listener takes.
pub const MAX_TARGET_BYTES: u32 = 32 * 1024;

const TARGET_BYTES: u32 = 8 * 1024;
const BODY_BYTES: u64 = 1024 * 1024 * 1024;
const BODY_RATE: u32 = 1024;
const TLS_HANDSHAKE: u64 = 10;
const HEADER_TIME: u64 = 10;
const BODY_TIME: u64 = 3600;
const BODY_GRACE: u64 = 10;
const IDLE_TIME: u64 = 60;
const CONNECTION_AGE: u64 = 3600;
const CONNECTIONS: u32 = 65_536;
const CONNECTIONS_PER_CLIENT: u32 = 16_384;
const STREAMS: u32 = 100;

/// What a client may ask of a listener. All of it holds without being written; a change is for new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Header fields of a request; more are answered with 431. Default: 128. At most 4096.
    #[serde(skip_serializing_if = "is::<HEADER_FIELDS>")]
    pub header_fields: u32,
    /// Sum of names and values of the header fields of a request, each with 32 bytes for its bookkeeping (RFC 9113
    /// section 6.5.2); more is answered with 431. Default: 32768. At most 1048576.
    #[serde(skip_serializing_if = "is::<HEADER_BYTES>")]
    pub header_bytes: u32,
    /// Path and query of a request; more is answered with 414. Default: 8192. At most 32768.
    #[serde(skip_serializing_if = "is::<TARGET_BYTES>")]
    pub target_bytes: u32,
    /// Largest request body; more is answered with 413. Default: 1073741824, which is 1 GiB.
    #[serde(skip_serializing_if = "is_long::<BODY_BYTES>")]
    pub body_bytes: u64,
    /// For the TLS handshake. Default: 10s.
    #[serde(skip_serializing_if = "is_secs::<TLS_HANDSHAKE>")]
    pub tls_handshake: Span,
    /// From the first byte of a request until the end of its head, at least this and at most half as long again; then
    /// the answer is 408. Also for the header of the PROXY protocol. Default: 10s.
    #[serde(skip_serializing_if = "is_secs::<HEADER_TIME>")]
    pub header_time: Span,
    /// How long the gateway waits for a request body in all, not counting while the service takes no more; then the
    /// answer is 408. Calls of gRPC are bound by the idle timeout of the service in its place. Default: 1h.
    #[serde(skip_serializing_if = "is_secs::<BODY_TIME>")]
    pub body_time: Span,
    /// Least bytes per second of a request body that the gateway waits for, and of an answer that a client takes.
    /// 0 waits for any. Calls of gRPC may pause. Default: 1024.
    #[serde(skip_serializing_if = "is::<BODY_RATE>")]
    pub body_rate: u32,
    /// How long a request body may be slower than `body_rate`. Default: 10s.
    #[serde(skip_serializing_if = "is_secs::<BODY_GRACE>")]
    pub body_grace: Span,
    /// Between two requests of a connection, and for an answer that its client does not take. Default: 60s.
    #[serde(skip_serializing_if = "is_secs::<IDLE_TIME>")]
    pub idle_time: Span,
    /// When a connection is asked to go, give or take a tenth, so that clients spread over new nodes; requests that
    /// run are finished. Default: 1h.
    #[serde(skip_serializing_if = "is_secs::<CONNECTION_AGE>")]
    pub connection_age: Span,
    /// Connections of all clients to this listener on one node; further ones are closed at once. Default: 65536.
    #[serde(skip_serializing_if = "is::<CONNECTIONS>")]
    pub connections: u32,
    /// Connections from one IPv4 address, or one IPv6 network of 64 bits, on one node; further ones are closed at
    /// once. Behind a proxy that all clients come through this is the limit for that proxy. Default: 16384.
    #[serde(skip_serializing_if = "is::<CONNECTIONS_PER_CLIENT>")]
    pub connections_per_client: u32,
    /// Requests that an HTTP/2 connection may have open (RFC 9113 section 5.1.2). Default: 100. At most 1000.
    #[serde(skip_serializing_if = "is::<STREAMS>")]
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_fields: HEADER_FIELDS,
            header_bytes: HEADER_BYTES,
            target_bytes: TARGET_BYTES,
            body_bytes: BODY_BYTES,
            tls_handshake: Span::from_secs(TLS_HANDSHAKE),
            header_time: Span::from_secs(HEADER_TIME),
            body_time: Span::from_secs(BODY_TIME),
            body_rate: BODY_RATE,
            body_grace: Span::from_secs(BODY_GRACE),
            idle_time: Span::from_secs(IDLE_TIME),
            connection_age: Span::from_secs(CONNECTION_AGE),
            connections: CONNECTIONS,
            connections_per_client: CONNECTIONS_PER_CLIENT,
            streams: STREAMS,
        }
    }
}

fn is<const DEFAULT: u32>(value: &u32) -> bool {
    *value == DEFAULT
}

fn is_long<const DEFAULT: u64>(value: &u64) -> bool {
    *value == DEFAULT
}

fn is_secs<const DEFAULT: u64>(span: &Span) -> bool {
    *span == Span::from_secs(DEFAULT)
}

impl Limits {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let counts = [
            ("header_fields", self.header_fields, 1..=4096),
            ("header_bytes", self.header_bytes, 256..=1024 * 1024),
            ("target_bytes", self.target_bytes, 16..=MAX_TARGET_BYTES),
            ("connections", self.connections, 1..=u32::MAX),
            ("connections_per_client", self.connections_per_client, 1..=u32::MAX),
            ("streams", self.streams, 1..=1000),
        ];
        for (field, value, range) in counts {
            if !range.contains(&value) {
                let message = format!("a limit of {value} is out of range");
                let fault = Fault::new(format!("/limits/{field}"), "invalid-value", message);
                faults.push(fault.hint(format!("it is {} to {}, or left away", range.start(), range.end())));
            }
        }
        let times = [
            ("tls_handshake", self.tls_handshake),
            ("header_time", self.header_time),
            ("body_time", self.body_time),
            ("body_grace", self.body_grace),
            ("idle_time", self.idle_time),
            ("connection_age", self.connection_age),
        ];
        for (field, _) in times.iter().filter(|(_, span)| span.as_millis() == 0) {
            let message = "a limit of no time lets nothing through";
            let fault = Fault::new(format!("/limits/{field}"), "invalid-value", message);
            faults.push(fault.hint("leave it away for the default"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_has_its_default_and_defaults_are_not_written() {
        let all: Limits = serde_json::from_str("{}").expect("no field is needed");
        assert_eq!((all, serde_json::to_string(&all).expect("JSON")), (Limits::default(), "{}".into()));
        let text = r#"{"body_time":"2m","streams":50}"#;
        let some: Limits = serde_json::from_str(text).expect("two fields");
        assert_eq!((some.streams, some.body_time, some.header_fields), (50, Span::from_secs(120), 128));
        assert_eq!(serde_json::to_string(&some).expect("JSON"), text);
    }

    #[test]
    fn limits_out_of_range_are_named_with_their_range() {
        let mut faults = Vec::new();
        Limits { streams: 0, idle_time: Span::from_secs(0), ..Limits::default() }.check(&mut faults);
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/limits/streams", "/limits/idle_time"]);
    }
}
