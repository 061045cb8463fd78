//! Certificate: key material for listeners, chosen by host name, and for services that ask who calls.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use super::{Kind, Labels, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;
use crate::value::HostPattern;

mod ocsp;

pub use ocsp::Staple;

/// A certificate chain with its private key.
///
/// In a file, `cert_file`, `key_file` and `ocsp_staple_file` may stand for `cert`, `key` and `ocsp_staple`: whoever
/// reads the file puts the content in. The key is never shown: an export has `redacted:sha256:…` in its place, and
/// writing that back keeps the key that is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Server names that it answers. Default: the DNS names in the certificate. Without any it is served only where
    /// it is the first of a listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The chain in PEM, the certificate of the server first.
    pub cert: String,
    /// The private key in PEM.
    pub key: String,
    /// An OCSP response (RFC 6960) for the certificate, which clients get with it (RFC 6066 section 8): DER as base64,
    /// with or without a PEM frame; the file of `ocsp_staple_file` may hold DER as well. When its `nextUpdate` has passed it is left away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp_staple: Option<String>,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false` keeps it from being served. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

impl Certificate {
    /// What the TLS stack serves.
    pub fn certified_key(&self) -> Result<CertifiedKey, Vec<Fault>> {
        let broken = |what: String| vec![Fault::new("/key", "invalid-certificate", what)];
        let chain = chain("/cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| {
            let fault = Fault::new("/key", "invalid-certificate", "there is no readable private key in it");
            vec![fault.hint("it must hold an unencrypted `-----BEGIN PRIVATE KEY-----`")]
        })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let fault = Fault::new("/key", "invalid-certificate", "the key is not that of the certificate");
                vec![fault.hint("the certificate that the key belongs to comes first in `cert`")]
            }
            error => broken(format!("key and certificate cannot be used together: {error}")),
        })
    }

    /// The server names that it answers: as written, else those in the certificate.
    #[must_use]
    pub fn server_names(&self) -> Vec<HostPattern> {
        if !self.hosts.is_empty() {
            return self.hosts.clone();
        }
        let Ok(der) = CertificateDer::from_pem_slice(self.cert.as_bytes()) else { return Vec::new() };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return Vec::new() };
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => name.parse().ok(),
                _ => None,
            })
            .collect()
    }

    /// The OCSP response that goes with it.
    pub fn staple(&self) -> Result<Option<Staple>, Fault> {
        let Some(text) = &self.ocsp_staple else { return Ok(None) };
        let broken = |what: String| Fault::new("/ocsp_staple", "invalid-ocsp-response", what);
        let Ok(der) = CertificateDer::from_pem_slice(self.cert.as_bytes()) else { return Ok(None) };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return Ok(None) };
        let staple = ocsp::read(text, parsed.raw_serial());
        staple.map(Some).map_err(|what| {
            broken(format!("this cannot be stapled: {what}"))
                .hint("ask the responder for this certificate anew, or leave `ocsp_staple` away")
        })
    }
}

/// The certificates of a text in PEM: at least one, and each can be looked into.
pub(crate) fn chain(pointer: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Vec<Fault>> {
    let wrong = |what: String| Fault::new(pointer, "invalid-certificate", what);
    if pem.contains("PRIVATE KEY-----") {
        let fault = wrong("there is a private key in it, which everybody could read here".to_owned());
        return Err(vec![fault.hint("take it out; it belongs into the field `key` of a certificate")]);
    }
    let mut chain = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let der = der.map_err(|error| vec![wrong(format!("it is not readable PEM: {}", unreadable(&error)))])?;
        if !x509_parser::parse_x509_certificate(&der).is_ok_and(|(rest, _)| rest.is_empty()) {
            return Err(vec![wrong(format!("certificate {} is damaged", index + 1))]);
        }
        chain.push(der);
    }
    if chain.is_empty() {
        let fault = wrong("there is no certificate in it".to_owned());
        return Err(vec![fault.hint("it must hold `-----BEGIN CERTIFICATE-----`")]);
    }
    Ok(chain)
}

/// What the library says holds the content as a list of numbers.
fn unreadable(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a `-----BEGIN` has no `-----END` on a line of its own",
        pem::Error::IllegalSectionStart { .. } => "a line with `-----BEGIN` does not end in `-----`",
        pem::Error::Base64Decode(_) => "what is between the lines is no base64",
        _ => "it breaks off",
    }
}

impl Written for Certificate {
    const KIND: Kind = Kind::Certificate;
    const SECRETS: &'static [&'static str] = &["/key"];
    const FILE_FIELDS: &'static [&'static str] = &["cert", "key", "ocsp_staple"];

    fn check(&self, faults: &mut Vec<Fault>) {
        faults.extend(self.certified_key().err().into_iter().flatten());
        faults.extend(self.staple().err());
    }

    fn references(&self, _: &mut dyn FnMut(Reference<'_>)) {}

    fn into_resource(self) -> Resource {
        Resource::Certificate(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn faults(cert: &str, key: &str, ocsp_staple: Option<&str>) -> Vec<(String, String)> {
        let written = Certificate {
            hosts: Vec::new(),
            cert: cert.to_owned(),
            key: key.to_owned(),
            ocsp_staple: ocsp_staple.map(str::to_owned),
            description: String::new(),
            labels: Labels::default(),
            enabled: true,
        };
        let mut faults = Vec::new();
        written.check(&mut faults);
        faults.into_iter().map(|fault| (fault.pointer, fault.message)).collect()
    }

    #[test]
    fn what_cannot_be_served_is_told_with_the_field() {
        let (cert, key) = made("a.test");
        let (other_cert, other_key) = made("b.test");
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(faults(&format!("{cert}{other_cert}"), &key, None), []);
        for (cert, key, pointer, message) in [
            (&*cert, &*other_key, "/key", "the key is not that of the certificate"),
            (&*format!("{other_cert}{cert}"), &*key, "/key", "the key is not that of the certificate"),
            (&*format!("{cert}{damaged}"), &*key, "/cert", "certificate 2 is damaged"),
            (&*format!("{cert}{key}"), &*key, "/cert", "there is a private key in it"),
            (&*key, &*key, "/cert", "there is a private key in it"),
            ("", &*key, "/cert", "there is no certificate in it"),
            (&*cert, "", "/key", "there is no readable private key in it"),
            (&*cert, locked, "/key", "there is no readable private key in it"),
            (&*cert, &*cert, "/key", "there is no readable private key in it"),
        ] {
            let found = faults(cert, key, None);
            assert!(
                matches!(&found[..], [(at, what)] if at == pointer && what.contains(message)),
                "{pointer} {message}: {found:?}"
            );
        }
        let found = faults(&cert, &key, Some("AAAA"));
        assert_eq!(found, [("/ocsp_staple".to_owned(), "this cannot be stapled: it is no OCSP response".to_owned())]);
    }
}
