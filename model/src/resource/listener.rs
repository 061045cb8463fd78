//! Listener: where requests come in.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;
use crate::value;

mod forwarded;
mod limits;
mod proxy_protocol;

pub use forwarded::{FieldPattern, Forwarded, ForwardedField, ForwardedFields, FromTrusted};
pub use limits::{Limits, MAX_TARGET_BYTES};
pub use proxy_protocol::{ProxyProtocol, ProxyProtocolMode};

/// Where requests come in: an address and how clients speak to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port, `0.0.0.0:8080` or `[::]:8443`. Every node opens it.
    #[serde(deserialize_with = "address")]
    pub bind: SocketAddr,
    /// Present: clients must speak TLS, with HTTP/1.1 or HTTP/2 chosen by ALPN (RFC 7301). Absent: plain
    /// text, with HTTP/1.1 or HTTP/2 by prior knowledge (RFC 9113 section 3.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Proxies in front that tell for whom a connection is. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Proxies in front that tell for whom a request is, and what services are told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forwarded: Forwarded,
    /// What a client may ask of it, in size, number and time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Answers say in `Sluice-Revision` which revision served the request, whoever made the answer; what a service says in
    /// that field is replaced. It tells clients when the configuration changes: for listeners whose clients may know that.
    /// The access log names the revision either way. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision_header: bool,
    /// Policies for all requests that come in here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Name>,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false` closes it without forgetting it. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// How a listener does TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates to choose from by the server name that the client asks for (RFC 6066 section 3).
    /// The first is served to a client that names no host.
    pub certificates: Vec<Name>,
    /// The oldest version that is accepted. Default: what the profile allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// Which versions and ciphers are spoken. Default: intermediate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: Profile,
    /// Whether clients show certificates. Default: they are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificates>,
}

impl Tls {
    /// The oldest version that is accepted.
    #[must_use]
    pub fn oldest_version(&self) -> TlsVersion {
        self.min_version.unwrap_or(match self.profile {
            Profile::Modern => TlsVersion::V1_3,
            Profile::Intermediate => TlsVersion::V1_2,
        })
    }
}

/// A set of versions and ciphers. All have forward secrecy and authenticated encryption; the client's order decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// TLS 1.3 alone, with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305.
    Modern,
    /// The same, and TLS 1.2 with ECDHE and these ciphers.
    #[default]
    Intermediate,
}

/// Whether clients show certificates, and who must have issued them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// Default: required.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: ClientCertificateMode,
    /// The CA bundle with the authorities that are trusted for clients.
    pub ca_bundle: Name,
    /// Services get the certificate that a client has proved to hold, in `Client-Cert` (RFC 9440). What clients say in
    /// that field and in `Client-Cert-Chain` is always taken out, but for what trusted proxies say. The access log names
    /// the subject either way. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forward: bool,
}

/// What happens to clients without a certificate. One that shows a certificate which does not hold is never let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificateMode {
    /// Clients are not asked.
    None,
    /// Clients are asked, and may go on without one.
    Optional,
    /// The handshake fails.
    #[default]
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446
    #[serde(rename = "1.3")]
    V1_3,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text: String = value::deserialize(deserializer, "an IP address and a port, such as `0.0.0.0:8080`")?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "`{text}` is no address: write an IP address and a port, such as `0.0.0.0:8080` or `[::]:8443`"
        ))
    })
}

impl Written for Listener {
    const KIND: Kind = Kind::Listener;

    fn check(&self, faults: &mut Vec<Fault>) {
        if self.bind.port() == 0 {
            let fault = Fault::new("/bind", "invalid-value", format!("`{}` has no port", self.bind));
            faults.push(fault.hint("name a port between 1 and 65535, such as `0.0.0.0:8080`"));
        }
        self.limits.check(faults);
        self.forwarded.check(faults);
        if let Some(proxies) = &self.proxy_protocol {
            proxies.check(faults);
        }
        let Some(tls) = &self.tls else { return };
        if tls.certificates.is_empty() {
            let fault = Fault::new("/tls/certificates", "missing-value", "TLS needs at least one certificate");
            faults.push(fault.hint("name a certificate, or leave `tls` away for plain text"));
        }
        if (tls.profile, tls.min_version) == (Profile::Modern, Some(TlsVersion::V1_2)) {
            let message = "the profile `modern` has no ciphers for TLS 1.2";
            let fault = Fault::new("/tls/min_version", "conflicting-fields", message);
            faults.push(fault.hint("leave `min_version` away, or write `profile: intermediate`"));
        }
    }

    fn references(&self, visit: &mut dyn FnMut(Reference<'_>)) {
        for (index, name) in self.tls.iter().flat_map(|tls| &tls.certificates).enumerate() {
            let pointer = format!("/tls/certificates/{index}");
            visit(Reference { kind: Kind::Certificate, name, pointer });
        }
        if let Some(clients) = self.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref()) {
            let pointer = "/tls/client_certificate/ca_bundle".to_owned();
            visit(Reference { kind: Kind::CaBundle, name: &clients.ca_bundle, pointer });
        }
        super::policy::references(&self.policies, visit);
    }

    fn into_resource(self) -> Resource {
        Resource::Listener(Box::new(self))
    }
}
