//! TLS of the port for nodes: the control plane shows a certificate of its authority, which nodes know by its pin, and
//! takes those that the authority gave to nodes.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;

use crate::trust::authorities::{Authorities, Trusted};
use crate::trust::authority::Authority;
use crate::trust::shown::AnyTime;

/// Why no TLS can be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the authority cannot certify this control plane: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot speak TLS with the authority's certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// See the head of this file.
pub struct Tls {
    authorities: Arc<Authorities>,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    made: OffsetDateTime,
    by: Arc<Trusted>,
}

impl Tls {
    pub fn new(authorities: Arc<Authorities>) -> Result<Self, TlsError> {
        let current = Mutex::new(certify(authorities.now(), OffsetDateTime::now_utc())?);
        Ok(Self { authorities, current })
    }

    /// For one connection; with a new certificate when the one of before is old, or another authority certifies.
    pub fn acceptor(&self) -> TlsAcceptor {
        let (now, trusted) = (OffsetDateTime::now_utc(), self.authorities.now());
        let mut current = self.current.lock();
        if Authority::own_certificate_is_old(current.made, now) || !Arc::ptr_eq(&current.by, &trusted) {
            match certify(trusted, now) {
                Ok(next) => *current = next,
                Err(error) => tracing::error!("nodes are shown the certificate of before: {error}"),
            }
        }
        TlsAcceptor::from(current.config.clone())
    }
}

fn certify(by: Arc<Trusted>, now: OffsetDateTime) -> Result<Current, TlsError> {
    let own = by.first().certify_self(by.earlier(), now)?;
    let verifier = AnyTime::of(by.iter().map(|authority| authority.certificate()))?;
    // Both ends are of this program: there is nobody older to get along with.
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(own.chain, own.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Current { config: Arc::new(config), made: now, by })
}
