//! What a node shows of itself when it connects over TLS: a certificate of our authority, or none yet.
//!
//! That a certificate is over is not for TLS to say: an alert has no words. It is let through the handshake and refused
//! on the stream, with what to do.

use std::sync::Arc;
use std::time::Duration;

use proto::join::NodeName;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

/// A node by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub node: NodeName,
    pub expires_at: OffsetDateTime,
}

impl Shown {
    /// Nothing if it is no certificate of a node.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
        let expires_at = OffsetDateTime::from_unix_timestamp(parsed.validity().not_after.timestamp()).ok()?;
        Some(Self { node: NodeName::from_uri(uri)?, expires_at })
    }
}

/// Takes certificates of some authorities, whatever the time, and clients without any.
#[derive(Debug)]
pub struct AnyTime(Arc<dyn ClientCertVerifier>);

impl AnyTime {
    pub fn of<'a>(authorities: impl Iterator<Item = &'a CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self(verifier))
    }
}

impl ClientCertVerifier for AnyTime {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (_, parsed) = x509_parser::parse_x509_certificate(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let issued = u64::try_from(parsed.validity().not_before.timestamp())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let then = UnixTime::since_unix_epoch(Duration::from_secs(issued));
        self.0.verify_client_cert(end_entity, intermediates, then)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
