//! The PROXY protocol towards a listener: who may tell it, ahead of a connection, for whom the connection is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::is_default;
use crate::problem::Fault;
use crate::value::Network;

/// Who tells the listener for whom a connection is, by a header of the PROXY protocol, version 1 or 2, ahead of
/// everything else, TLS too. The header must come within `limits.header_time` and have at most 4096 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The proxies that are believed. A header from anybody else is taken for what it is in HTTP: nonsense.
    pub from: Vec<Network>,
    /// Default: required.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: ProxyProtocolMode,
}

/// What happens to connections without a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocolMode {
    /// Only the listed proxies may connect, and each connection must begin with a header; others are closed.
    #[default]
    Required,
    /// The listed proxies may send a header; whoever sends none speaks for itself.
    Optional,
}

impl ProxyProtocol {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if self.from.is_empty() {
            let message = "without a network nobody may send the header";
            let fault = Fault::new("/proxy_protocol/from", "missing-value", message);
            faults.push(fault.hint("name the networks of the proxies, such as `10.0.0.0/8`"));
        }
    }
}
