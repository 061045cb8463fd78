//! Who is believed about the clients of a listener.

use crate::networks::Networks;
use crate::resource::listener::{
    FieldPattern, Forwarded, ForwardedField, ForwardedFields, FromTrusted, ProxyProtocol, ProxyProtocolMode,
};

/// Whom a listener believes about the client of a request, and what services are told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forwarding {
    pub trusted: Networks,
    pub read: ForwardedField,
    pub send: ForwardedFields,
    pub from_trusted: FromTrusted,
    pub reserved: Box<[FieldPattern]>,
}

/// Whom a listener believes about the client of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyHeaders {
    pub from: Networks,
    pub mode: ProxyProtocolMode,
}

impl Forwarding {
    pub(super) fn compile(written: &Forwarded) -> Self {
        let Forwarded { trusted_proxies, read, send, from_trusted, reserved } = written;
        Self {
            trusted: Networks::of(trusted_proxies),
            read: *read,
            send: *send,
            from_trusted: *from_trusted,
            reserved: reserved.as_slice().into(),
        }
    }
}

impl ProxyHeaders {
    pub(super) fn compile(written: &ProxyProtocol) -> Self {
        let ProxyProtocol { from, mode } = written;
        Self { from: Networks::of(from), mode: *mode }
    }
}
