//! TLS towards services: whom to trust, what to speak.

use std::sync::{Arc, OnceLock};

use model::resource::service::Verify;
use model::snapshot::EndpointTls;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What is offered by ALPN.
#[derive(Clone, Copy)]
pub(crate) enum Offer {
    Http1,
    Http2,
    Either,
}

impl Offer {
    /// Best first.
    fn protocols(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Either => &[b"h2", b"http/1.1"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// What is kept of the sessions with a target: it has one name, for which the library keeps 8 tickets.
const SESSIONS: usize = 8;

/// The settings for connections that offer these protocols, with the sessions that they resume: the same on all cores.
pub(crate) async fn client_config(tls: &EndpointTls, offer: Offer) -> Result<Arc<ClientConfig>, String> {
    let made = tls.configs.offering(offer as usize);
    if let Some(config) = made.get() {
        return Ok(Arc::clone(config));
    }
    let config = make_config(tls, offer).await?;
    Ok(Arc::clone(made.get_or_init(|| config)))
}

async fn make_config(tls: &EndpointTls, offer: Offer) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match (tls.verify, &tls.ca_bundle) {
        (Verify::Off, _) => builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAll(provider))),
        (Verify::Full, Some(bundle)) => builder.with_root_certificates(bundle.roots.clone()),
        (Verify::Full, None) => builder.with_root_certificates(system_authorities().await?),
    };
    let mut config = match &tls.client_certificate {
        Some(certificate) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = offer.protocols();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// The name that the certificate must be for.
pub(crate) fn server_name(tls: &EndpointTls, host: &str) -> Result<ServerName<'static>, String> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| format!("`{name}` is no name that a certificate can be for"))
}

/// Those of the operating system: read once, away from the cores, when first needed.
async fn system_authorities() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || Arc::clone(ROOTS.get_or_init(|| Arc::new(read_system_authorities())));
    let roots = match ROOTS.get() {
        Some(roots) => Arc::clone(roots),
        None => tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?,
    };
    if roots.is_empty() {
        return Err(
            "the operating system has no certificate authorities: install them or name a bundle in `tls.ca_bundle`"
                .into(),
        );
    }
    Ok(roots)
}

fn read_system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "some certificate authorities of the operating system could not be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// For `verify: false`: any certificate will do, but the handshake must be signed with its key.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
