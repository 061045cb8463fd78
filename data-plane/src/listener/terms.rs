//! What holds for the connections of a listener: its limits, its TLS, and the codecs set up for them once. A change of
//! the listener makes new terms; connections keep those that they began with.

use model::resource::listener::Limits;
use model::snapshot::{Forwarding, Listener, ProxyHeaders};

use super::tls::ListenerTls;
use super::{http, http2};
use crate::http1::Bounds;

/// What holds for the connections of a listener, on one core.
pub struct Terms {
    pub limits: Limits,
    pub tls: Option<ListenerTls>,
    pub proxy_headers: Option<ProxyHeaders>,
    pub forwarding: Forwarding,
    pub bounds: Bounds,
    pub http2: h2::server::Builder,
}

impl Terms {
    #[must_use]
    pub fn of(listener: &Listener, tls: Option<ListenerTls>) -> Self {
        let limits = listener.limits;
        Self {
            limits,
            tls,
            proxy_headers: listener.proxy_headers.clone(),
            forwarding: listener.forwarding.clone(),
            bounds: http::bounds(&limits),
            http2: http2::codec(&limits),
        }
    }
}
