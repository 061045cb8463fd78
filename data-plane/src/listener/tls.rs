//! TLS of listeners: one configuration per listener, shared by all cores, with the certificate chosen by name.

use std::sync::Arc;

use foldhash::HashMap;
use model::resource::listener::TlsVersion;
use model::snapshot::{Certificate, Listener, Snapshot};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto};

/// The TLS of a listener, and what it was made from.
#[derive(Clone)]
pub struct ListenerTls {
    pub config: Arc<ServerConfig>,
    min_version: TlsVersion,
    certificates: Vec<Arc<Certificate>>,
}

impl ListenerTls {
    /// The TLS that the snapshot wants. `previous` is kept if it is still right, with the sessions that clients hold.
    #[must_use]
    pub fn of(listener: &Listener, snapshot: &Snapshot, previous: Option<&Self>) -> Option<Self> {
        let written = listener.tls.as_ref()?;
        let certificates: Vec<Arc<Certificate>> =
            written.certificates.iter().filter_map(|slot| snapshot.certificates.get(*slot)).cloned().collect();
        let is_same = |previous: &&Self| {
            previous.min_version == written.min_version
                && previous.certificates.len() == certificates.len()
                && previous.certificates.iter().zip(&certificates).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        if let Some(previous) = previous.filter(is_same) {
            return Some(previous.clone());
        }
        let config = Arc::new(server_config(written.min_version, &certificates));
        Some(Self { config, min_version: written.min_version, certificates })
    }
}

fn server_config(min_version: TlsVersion, certificates: &[Arc<Certificate>]) -> ServerConfig {
    let versions: &[&rustls::SupportedProtocolVersion] = match min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(crypto::aws_lc_rs::default_provider().into())
        .with_protocol_versions(versions)
        .expect("the provider has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByServerName::new(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets hold the session themselves: the next connection may come to another core.
    if let Ok(ticketer) = crypto::aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    config
}

/// Picks the certificate: the exact name, then the longest wildcard, then the first.
#[derive(Debug)]
struct ByServerName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the part behind `*.`.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl ByServerName {
    fn new(certificates: &[Arc<Certificate>]) -> Self {
        let enabled = || certificates.iter().filter(|certificate| certificate.enabled);
        let first = enabled().next().map(|certificate| certificate.key.clone());
        let mut names = Self { exact: HashMap::default(), wildcards: HashMap::default(), first };
        for certificate in enabled() {
            for host in &certificate.hosts {
                let (map, name) = match host.wildcard_suffix() {
                    Some(suffix) => (&mut names.wildcards, suffix),
                    None => (&mut names.exact, host.as_str()),
                };
                map.entry(name.to_owned()).or_insert_with(|| certificate.key.clone());
            }
        }
        names
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        if let Some(key) = self.exact.get(name) {
            return Some(key);
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(key) = self.wildcards.get(suffix) {
                return Some(key);
            }
            rest = suffix;
        }
        self.first.as_ref()
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name and put it into lower case.
        hello.server_name().map_or(self.first.as_ref(), |name| self.find(name)).cloned()
    }
}
