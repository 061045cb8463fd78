//! The key of this node, and the certificate that it has for it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use bytes::Bytes;
use model::digest::sha256;
use model::sealing::{KEY_BYTES, SealingKey};
use proto::join::{NodeName, Pin};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::files::Files;

/// ECDSA on P-256.
pub struct NodeKey(KeyPair);

/// What the control plane gave to this node.
pub struct NodeCertificate {
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    pub node: NodeName,
    /// Of the authority.
    pub pin: Pin,
    pub issued: SystemTime,
    pub expires: SystemTime,
}

/// The gateway that the node of a data folder has joined.
#[must_use]
pub fn gateway_of(data_dir: &Path) -> Option<String> {
    Some(Files::at(data_dir).certificate().ok()??.node.gateway)
}

impl NodeKey {
    pub fn make() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system has random numbers"))
    }

    /// Nothing if it is no such key.
    pub fn from_pem(pem: &str) -> Option<Self> {
        KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).ok().map(Self)
    }

    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// HKDF with SHA-256 (RFC 5869) of the private key.
    pub fn sealing_key(&self) -> SealingKey {
        let mut secret = [0; KEY_BYTES];
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(self.0.serialized_der());
        let derived = extracted.expand(&[b"sluice last good"], HKDF_SHA256).and_then(|key| key.fill(&mut secret));
        derived.expect("a key is as long as SHA-256");
        SealingKey::new(&secret)
    }

    /// PKCS #10: says nothing but the key, and proves that we have it.
    pub fn signing_request(&self) -> Vec<u8> {
        let request = CertificateParams::default().serialize_request(&self.0);
        request.expect("the key signs").der().to_vec()
    }
}

impl NodeCertificate {
    /// Says what is wrong with it.
    pub fn new(certificate: Vec<u8>, authority: Vec<u8>) -> Result<Self, &'static str> {
        let (certificate, authority) = (CertificateDer::from(certificate), CertificateDer::from(authority));
        let (_, issuer) =
            x509_parser::parse_x509_certificate(&authority).map_err(|_| "an authority without a certificate")?;
        let pin = Pin(sha256(issuer.public_key().raw));
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| "a certificate that is none")?;
        let names = parsed.subject_alternative_name().ok().flatten().ok_or("a certificate without a name")?;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else {
            return Err("a certificate that is not for a node");
        };
        let node = NodeName::from_uri(uri).ok_or("a certificate that is not for a node")?;
        let time = |seconds: i64| {
            u64::try_from(seconds).ok().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        };
        let validity = parsed.validity();
        let issued = time(validity.not_before.timestamp()).ok_or("a certificate of another age")?;
        let expires = time(validity.not_after.timestamp()).ok_or("a certificate of another age")?;
        Ok(Self { certificate, authority, node, pin, issued, expires })
    }

    /// Whether the key is the one that was certified.
    pub fn is_for(&self, key: &NodeKey) -> bool {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate).expect("it was looked into before");
        *parsed.public_key().subject_public_key.data == *key.0.public_key_raw()
    }

    pub fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match &chain.map_err(|_| "it is not in PEM form")?[..] {
            [certificate, authority] => Self::new(certificate.to_vec(), authority.to_vec()),
            _ => Err("it does not hold a certificate and that of its authority"),
        }
    }

    pub fn to_pem(&self) -> String {
        [&self.certificate, &self.authority].map(|der| pem("CERTIFICATE", der)).concat()
    }

    /// The public key of the authority, without what says that it is one on P-256.
    pub fn authority_key(&self) -> Bytes {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.authority).expect("it was looked into before");
        Bytes::copy_from_slice(&parsed.public_key().subject_public_key.data)
    }

    /// When it ends, as people read it.
    pub fn end(&self) -> String {
        let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
        OffsetDateTime::from(self.expires).format(format).unwrap_or_default()
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
