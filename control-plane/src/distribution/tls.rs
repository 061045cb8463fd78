//! TLS of the port for nodes: a certificate with its key from files. It decides nothing about who a node is; that is
//! the token's part.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::settings::StreamTls;

/// Why no TLS can be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot use the certificate in {path}: {reason}")]
    Certificate { path: String, reason: String },
    #[error("cannot use the private key in {path}: {reason}")]
    Key { path: String, reason: String },
    #[error("the certificate in {certificate} and the private key in {key} cannot be used together: {reason}")]
    Pair { certificate: String, key: String, reason: rustls::Error },
}

/// What nodes are shown.
pub struct Tls {
    files: StreamTls,
    current: Mutex<Arc<ServerConfig>>,
}

impl Tls {
    pub fn load(files: StreamTls) -> Result<Self, TlsError> {
        let current = Mutex::new(Arc::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// For one connection. The files are read again for each, so that a renewed certificate needs no restart: nodes
    /// connect rarely. While they cannot be used, between the change of one and of the other for example, what they
    /// held before goes on.
    pub async fn acceptor(&self) -> TlsAcceptor {
        let files = self.files.clone();
        match tokio::task::spawn_blocking(move || read(&files)).await {
            Ok(Ok(config)) => *self.current.lock() = Arc::new(config),
            Ok(Err(error)) => tracing::warn!("nodes are shown the certificate of before: {error}"),
            Err(error) => tracing::error!("nodes are shown the certificate of before: {error}"),
        }
        TlsAcceptor::from(self.current.lock().clone())
    }
}

fn read(files: &StreamTls) -> Result<ServerConfig, TlsError> {
    let shown = |path: &Path| path.display().to_string();
    let bad_certificate = |reason: String| TlsError::Certificate { path: shown(&files.certificate), reason };
    let bad_key = |reason: String| TlsError::Key { path: shown(&files.key), reason };

    let pem = std::fs::read(&files.certificate).map_err(|error| bad_certificate(error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| bad_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_certificate("there is no certificate in PEM form".to_owned()));
    }
    let pem = std::fs::read(&files.key).map_err(|error| bad_key(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| bad_key("there is no private key in PEM form without a passphrase".to_owned()))?;

    // Both ends are of this program: there is nobody older to get along with.
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the suites of TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|reason| TlsError::Pair { certificate: shown(&files.certificate), key: shown(&files.key), reason })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
