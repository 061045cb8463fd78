//! How the certificates of `https` targets are checked, and what is shown to them.

use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::{Name, is_default};

/// How the certificates of `https` targets are checked, and what is shown to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// `false` accepts any certificate. Default: true.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verify: Verify,
    /// The CA bundle with the authorities to trust. Default: those of the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<Name>,
    /// The name to ask for and to check. Default: the host of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The certificate to show to targets that ask for one. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<Name>,
}

impl UpstreamTls {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if let Some(name) = self.server_name.as_ref().filter(|name| ServerName::try_from(name.as_str()).is_err()) {
            let message = format!("`{name}` is no name that a certificate can be for");
            let fault = Fault::new("/tls/server_name", "invalid-value", message);
            faults.push(fault.hint("write a host name or an IP address without port, such as `orders.internal`"));
        }
        if self.verify == Verify::Off && self.ca_bundle.is_some() {
            let message = "with `verify: false` any certificate is accepted, whoever issued it";
            let fault = Fault::new("/tls/ca_bundle", "conflicting-fields", message);
            faults.push(fault.hint("leave `verify` away to have certificates checked against the bundle"));
        }
    }
}

/// Whether certificates are checked; written as a boolean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(from = "bool", into = "bool")]
#[schemars(with = "bool")]
pub enum Verify {
    #[default]
    Full,
    Off,
}

impl From<bool> for Verify {
    fn from(verify: bool) -> Self {
        if verify { Self::Full } else { Self::Off }
    }
}

impl From<Verify> for bool {
    fn from(verify: Verify) -> Self {
        verify == Verify::Full
    }
}
