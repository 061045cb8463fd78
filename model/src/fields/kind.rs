//! What a field is to a gateway. It is told by the name once, when the field comes in, and asked for many times.

/// What a field is to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing of the below.
    Other,
    Host,
    Cookie,
    Date,
    Expect,
    ContentLength,
    /// These are about one connection, and go no further (RFC 9110 section 7.6.1).
    Connection,
    TransferEncoding,
    Upgrade,
    Te,
    /// `Keep-Alive`, `Proxy-Connection` and `HTTP2-Settings`.
    Hop,
    /// For a proxy that the client chose (RFC 9110 section 11.7), which a gateway is not.
    ProxyAuthorization,
    /// In it somebody could claim what only the gateway knows.
    Claim,
}

impl Kind {
    /// Of a name in lower case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        // By their lengths first: of most names that is all that is looked at.
        match name.len() {
            2 if name == b"te" => Self::Te,
            4 if name == b"host" => Self::Host,
            4 if name == b"date" => Self::Date,
            6 if name == b"cookie" => Self::Cookie,
            6 if name == b"expect" => Self::Expect,
            7 if name == b"upgrade" => Self::Upgrade,
            9 if name == b"forwarded" || name == b"x-real-ip" => Self::Claim,
            10 if name == b"connection" => Self::Connection,
            10 if name == b"keep-alive" => Self::Hop,
            11 if name == b"client-cert" => Self::Claim,
            14 if name == b"content-length" => Self::ContentLength,
            14 if name == b"http2-settings" => Self::Hop,
            16 if name == b"proxy-connection" => Self::Hop,
            17 if name == b"transfer-encoding" => Self::TransferEncoding,
            17 if name == b"client-cert-chain" => Self::Claim,
            19 if name == b"proxy-authorization" => Self::ProxyAuthorization,
            _ if name.starts_with(b"x-forwarded-") || name.starts_with(b"x-sluice-") => Self::Claim,
            _ => Self::Other,
        }
    }
}
