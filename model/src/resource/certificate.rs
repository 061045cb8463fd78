//! Certificate: key material for listeners, chosen by host name.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use super::{Kind, Labels, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;
use crate::value::HostPattern;

/// Fields whose value may be in another file: in a file, `cert_file` may stand for `cert`.
pub const FILE_FIELDS: [&str; 2] = ["cert", "key"];

/// A certificate chain with its private key.
///
/// In a file, `cert_file` and `key_file` may stand for `cert` and `key`: whoever reads the file puts the
/// content in. The key is never shown: an export has `redacted:sha256:…` in its place, and writing that
/// back keeps the key that is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Server names that it answers. Default: the DNS names in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The chain in PEM, the certificate of the server first.
    pub cert: String,
    /// The private key in PEM.
    pub key: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false` keeps it from being served. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

impl Certificate {
    /// What the TLS stack serves.
    pub fn certified_key(&self) -> Result<CertifiedKey, Fault> {
        let broken = |pointer, what: String| Fault::new(pointer, "invalid-certificate", what);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(self.cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| broken("/cert", format!("the chain is not readable PEM: {error}")))?;
        if chain.is_empty() {
            return Err(broken("/cert", "there is no certificate in it".into())
                .hint("it must hold `-----BEGIN CERTIFICATE-----`"));
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| {
            broken("/key", "there is no readable private key in it".into())
                .hint("it must hold an unencrypted `-----BEGIN PRIVATE KEY-----`")
        })?;
        CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| broken("/key", format!("key and certificate cannot be used together: {error}")))
    }

    /// The server names that it answers: as written, else those in the certificate.
    pub fn server_names(&self) -> Result<Vec<HostPattern>, Fault> {
        if !self.hosts.is_empty() {
            return Ok(self.hosts.clone());
        }
        let unreadable = || Fault::new("/cert", "invalid-certificate", "the certificate cannot be read");
        let der = CertificateDer::from_pem_slice(self.cert.as_bytes()).map_err(|_| unreadable())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| unreadable())?;
        let names: Vec<HostPattern> = parsed
            .subject_alternative_name()
            .ok()
            .flatten()
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => name.parse().ok(),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            return Err(Fault::new("/hosts", "missing-value", "the certificate names no DNS host")
                .hint("list the hosts that it is for"));
        }
        Ok(names)
    }
}

impl Written for Certificate {
    const KIND: Kind = Kind::Certificate;
    const SECRETS: &'static [&'static str] = &["/key"];

    fn check(&self, faults: &mut Vec<Fault>) {
        match self.certified_key() {
            Ok(_) => faults.extend(self.server_names().err()),
            Err(fault) => faults.push(fault),
        }
    }

    fn references(&self, _: &mut dyn FnMut(Reference<'_>)) {}

    fn into_resource(self) -> Resource {
        Resource::Certificate(self)
    }
}
