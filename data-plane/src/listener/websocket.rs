//! WebSockets over HTTP/2 (RFC 8441), taken for what they are over HTTP/1.1 (RFC 6455): a GET that asks to switch
//! protocols. Routes, policies, logs and services see no difference.

use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::RecvStream;
use h2::ext::Protocol;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Method, StatusCode, request};

use super::connection::Connection;
use super::tunnel::Tunnel;
use crate::body::Body;
use crate::proxy::{Reply, reject};
use crate::upstream::UpstreamError;

/// What a server puts behind the key (RFC 6455 section 1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A WebSocket that waits for the consent of its service.
pub struct Opening {
    incoming: RecvStream,
    /// Between the gateway and the service; over HTTP/2 there is none.
    key: String,
}

impl Opening {
    /// Turns an extended CONNECT for a WebSocket into the request that it is over HTTP/1.1. Fields like `Connection`
    /// are there after this and at no other time: the codec refuses them.
    pub fn of(request: &mut request::Parts, incoming: RecvStream) -> Option<Self> {
        let protocol = request.extensions.get::<Protocol>()?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return None;
        }
        let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
        request.method = Method::GET;
        let headers = &mut request.headers;
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base64 is a field value"));
        Some(Self { incoming, key })
    }

    /// Turns the answer into one of HTTP/2, and gives the tunnel that it opens, with what comes on its stream.
    pub fn answered(self, connection: &Rc<Connection>, mut reply: Reply) -> (Reply, Option<(Tunnel, RecvStream)>) {
        let Some(tunnel) = connection.tunnel.take() else { return (reply, None) };
        let accept = reply.head.headers.get(SEC_WEBSOCKET_ACCEPT);
        if accept != Some(accepted(&self.key).as_bytes()) {
            let error = UpstreamError::BadResponse("it opened a WebSocket with a wrong `Sec-WebSocket-Accept`".into());
            let Tunnel { mut record, .. } = tunnel;
            let reply = reject::reply(&error.rejection(), &mut record);
            return (record.finish(reply), None);
        }
        reply.head.status = StatusCode::OK;
        reply.head.headers.retain(|name, _| !matches!(name, b"connection" | b"upgrade" | b"sec-websocket-accept"));
        reply.body = Body::empty();
        (reply, Some((tunnel, self.incoming)))
    }
}

/// How a service shows that it has understood (RFC 6455 section 4.2.2).
fn accepted(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{SUFFIX}").as_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_is_accepted_as_in_the_rfc() {
        assert_eq!(super::accepted("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
