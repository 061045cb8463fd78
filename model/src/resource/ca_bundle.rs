//! CA bundle: whose word counts when the other side shows a certificate.

use rustls::RootCertStore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, Labels, Reference, Resource, Written, certificate, is_default};
use crate::problem::Fault;

/// Certificate authorities that listeners trust for their clients, or services for their targets.
///
/// In a file, `certs_file` may stand for `certs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaBundle {
    /// The certificates of the authorities in PEM, in any order. One that is no authority must have signed itself:
    /// then it is trusted as it stands.
    pub certs: String,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
}

impl CaBundle {
    /// What the TLS stack trusts, or everything that is wrong with it.
    pub fn roots(&self) -> Result<RootCertStore, Vec<Fault>> {
        let wrong = |what: String| Fault::new("/certs", "invalid-certificate", what);
        let mut roots = RootCertStore::empty();
        let mut faults = Vec::new();
        for (index, der) in certificate::chain("/certs", &self.certs)?.into_iter().enumerate() {
            let number = index + 1;
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("it was looked into before");
            if !parsed.is_ca() && parsed.subject() != parsed.issuer() {
                let message = format!("certificate {number}, of `{}`, is none of an authority", parsed.subject());
                let hint = format!("put the certificate of its issuer here, `{}`", parsed.issuer());
                faults.push(wrong(message).hint(hint));
            } else if let Err(error) = roots.add(der.clone()) {
                faults.push(wrong(format!("certificate {number} cannot be used: {error}")));
            }
        }
        if faults.is_empty() { Ok(roots) } else { Err(faults) }
    }
}

impl Written for CaBundle {
    const KIND: Kind = Kind::CaBundle;
    const FILE_FIELDS: &'static [&'static str] = &["certs"];

    fn check(&self, faults: &mut Vec<Fault>) {
        faults.extend(self.roots().err().into_iter().flatten());
    }

    fn references(&self, _: &mut dyn FnMut(Reference<'_>)) {}

    fn into_resource(self) -> Resource {
        Resource::CaBundle(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> (rcgen::Issuer<'static, rcgen::KeyPair>, String) {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        (rcgen::Issuer::new(params, key), pem)
    }

    fn messages(certs: String) -> Vec<String> {
        let bundle = CaBundle { certs, description: String::new(), labels: Labels::default() };
        let faults = bundle.roots().err().into_iter().flatten();
        faults
            .map(|fault| format!("{} {} ({})", fault.pointer, fault.message, fault.hint.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn every_certificate_that_cannot_be_trusted_is_named() {
        let (issuer, first) = authority("First");
        let (_, second) = authority("Second");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, "Leaf");
        let leaf = params.signed_by(&key, &issuer).expect("a certificate").pem();
        let alone = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate").cert.pem();

        assert_eq!(messages(format!("{first}some words between\n{second}{alone}")), Vec::<String>::new());
        let found = messages(format!("{first}{leaf}{leaf}"));
        let [one, another] = &found[..] else { panic!("{found:?}") };
        assert!(one.contains("/certs certificate 2, of `CN=Leaf`, is none of an authority"), "{one}");
        assert!(another.contains("certificate 3") && another.contains("its issuer here, `CN=First`"), "{another}");
    }

    #[test]
    fn what_is_no_bundle_is_told_with_the_reason() {
        let (_, good) = authority("Good");
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        for (certs, expected) in [
            (String::new(), "there is no certificate in it"),
            ("words".to_owned(), "there is no certificate in it"),
            (format!("{good}{key}"), "there is a private key in it"),
            (good.replace('\n', ""), "no `-----END` on a line of its own"),
            (good.replace("-----END", "-----AND"), "not readable PEM"),
            (good.replace("MII", "M*I"), "no base64"),
            (
                format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                "certificate 2 is damaged",
            ),
        ] {
            let found = messages(certs);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }
}
