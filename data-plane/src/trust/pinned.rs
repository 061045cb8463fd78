//! Whom this node connects to: who shows a certificate for control planes, of the authority with the pin that it knows.

use std::fmt;
use std::sync::Arc;

use model::digest::sha256;
use proto::join::Pin;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

/// See the head of this file.
#[derive(Debug)]
pub struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

/// The authority is another one.
#[derive(Debug)]
pub struct WrongPin {
    wanted: Pin,
    shown: Option<Pin>,
}

impl Pinned {
    pub fn new(pin: Pin) -> Self {
        Self { pin, provider: Arc::new(aws_lc_rs::default_provider()) }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|shown| pin_of(shown) == Some(self.pin));
        let Some(authority) = authority else {
            let wrong = WrongPin { wanted: self.pin, shown: intermediates.last().and_then(|shown| pin_of(shown)) };
            return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        // Among them may be what the authority says of the one that takes its place.
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pin_of(certificate: &CertificateDer<'_>) -> Option<Pin> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(Pin(sha256(parsed.public_key().raw)))
}

impl fmt::Display for WrongPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is not the control plane that this node joined: its authority has ")?;
        match self.shown {
            Some(shown) => write!(f, "the pin {shown}, not {}", self.wanted),
            None => write!(f, "not the pin {}", self.wanted),
        }
    }
}

impl std::error::Error for WrongPin {}
