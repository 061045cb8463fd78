//! TLS of listeners: one configuration per listener, shared by all cores, with the certificate chosen by name.
//!
//! A change of the listener or its key material makes a new configuration; connections keep the one they began with.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use model::digest::sha256;
use model::exchange::ClientCertificate;
use model::resource::listener::{ClientCertificateMode, Profile, TlsVersion};
use model::snapshot::{CaBundle, Certificate, Listener, Snapshot};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedCipherSuite};

use super::names::ByServerName;
use super::tickets::TicketKeys;

/// Without CBC, without static RSA: the sets that Mozilla's guide calls so, as far as the TLS stack has them.
const MODERN: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];
const INTERMEDIATE: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The TLS of a listener.
#[derive(Clone)]
pub struct ListenerTls {
    pub config: Arc<ServerConfig>,
    names: Arc<ByServerName>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    parts: Arc<Parts>,
}

/// What came out of a handshake.
pub struct Negotiated {
    pub client_certificate: Option<Rc<ClientCertificate>>,
    /// The same as services get to see it (RFC 9440 section 2.2).
    pub client_cert: Option<HeaderValue>,
    /// The name that the client asked for.
    server_name: Option<Box<str>>,
    names: Arc<ByServerName>,
}

impl Negotiated {
    /// Whether a client that asks for this host gets another certificate, which names it. A host that none names is
    /// for the routes to judge.
    #[must_use]
    pub fn is_misdirected(&self, host: &str) -> bool {
        self.server_name.as_deref().is_some_and(|name| name != host && self.names.would_differ(name, host))
    }
}

/// What the TLS of a listener is made from.
struct Parts {
    listener: String,
    profile: Profile,
    min_version: TlsVersion,
    certificates: Vec<Arc<Certificate>>,
    /// What is wanted of their certificates, who must have issued them, and whether services get to see them.
    clients: Option<(ClientCertificateMode, Arc<CaBundle>, bool)>,
}

impl ListenerTls {
    /// The TLS that the snapshot wants. `previous` is kept if it is still right.
    #[must_use]
    pub fn of(listener: &Listener, snapshot: &Snapshot, previous: Option<&Self>, tickets: &TicketKeys) -> Option<Self> {
        let parts = Parts::of(listener, snapshot)?;
        if let Some(previous) = previous.filter(|previous| previous.parts.are_same(&parts)) {
            return Some(previous.clone());
        }
        let names = Arc::new(ByServerName::new(&parts.certificates));
        let clients = parts.clients.as_ref().map(|(mode, bundle, _)| client_verifier(*mode, bundle));
        let config = Arc::new(parts.config(names.clone(), clients.clone(), tickets));
        Some(Self { config, names, clients, parts: Arc::new(parts) })
    }

    /// What came out of a handshake that has just finished.
    pub fn negotiated(&self, session: &ServerConnection, now: UnixTime) -> io::Result<Negotiated> {
        let der = self.client_certificate(session, now)?;
        let client_certificate = match der {
            Some(der) => Some(Rc::new(ClientCertificate::from_der(der).ok_or(io::ErrorKind::InvalidData)?)),
            None => None,
        };
        let is_forwarded = self.parts.clients.as_ref().is_some_and(|(.., forward)| *forward);
        let client_cert = der
            .filter(|_| is_forwarded)
            .map(|der| HeaderValue::try_from(format!(":{}:", STANDARD.encode(der))).expect("base64 is a field value"));
        let server_name = session.server_name().map(Box::from);
        Ok(Negotiated { client_certificate, client_cert, server_name, names: self.names.clone() })
    }

    /// The certificate that the client has proved to hold. In a session that was resumed it is one from before, so it
    /// is checked again: it may have expired.
    fn client_certificate<'s>(
        &self,
        session: &'s ServerConnection,
        now: UnixTime,
    ) -> io::Result<Option<&'s CertificateDer<'static>>> {
        let (Some(clients), Some([certificate, rest @ ..])) = (&self.clients, session.peer_certificates()) else {
            return Ok(None);
        };
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            let verified = clients.verify_client_cert(certificate, rest, now);
            verified.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(Some(certificate))
    }
}

impl Parts {
    fn of(listener: &Listener, snapshot: &Snapshot) -> Option<Self> {
        let written = listener.tls.as_ref()?;
        let certificates = written.certificates.iter().filter_map(|slot| snapshot.certificates.get(*slot)).cloned();
        let clients = written.client_certificates.as_ref().map(|clients| {
            let bundle = snapshot.ca_bundles.get(clients.ca_bundle).expect("a listener points at a CA bundle");
            (clients.mode, Arc::clone(bundle), clients.forward)
        });
        Some(Self {
            listener: listener.name.to_string(),
            profile: written.profile,
            min_version: written.min_version,
            certificates: certificates.collect(),
            clients,
        })
    }

    fn are_same(&self, other: &Self) -> bool {
        let Self { listener, profile, min_version, certificates, clients } = self;
        (listener, profile, min_version, clients)
            == (&other.listener, &other.profile, &other.min_version, &other.clients)
            && certificates.len() == other.certificates.len()
            && certificates.iter().zip(&other.certificates).all(|(one, another)| Arc::ptr_eq(one, another))
    }

    fn config(
        &self,
        names: Arc<ByServerName>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
        tickets: &TicketKeys,
    ) -> ServerConfig {
        let versions: &[&rustls::SupportedProtocolVersion] = match self.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let suites = match self.profile {
            Profile::Modern => MODERN,
            Profile::Intermediate => INTERMEDIATE,
        };
        let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..aws_lc_rs::default_provider() };
        let builder = ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(versions)
            .expect("every profile has suites for its versions");
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(names);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Tickets hold the session themselves: the next connection may come to another core, or another node.
        config.ticketer = tickets.for_purpose(self.purpose());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
    }

    /// What a ticket is bound to: this listener, and what it demands of clients. A certificate may be renewed meanwhile;
    /// the name that the client asked for is in the session itself.
    fn purpose(&self) -> [u8; 32] {
        let clients = self.clients.as_ref().map(|(mode, bundle, _)| (mode, bundle.content()));
        sha256(format!("{}/{clients:?}", self.listener).as_bytes())
    }
}

fn client_verifier(mode: ClientCertificateMode, bundle: &CaBundle) -> Arc<dyn ClientCertVerifier> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(bundle.roots.clone(), provider);
    if mode == ClientCertificateMode::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().expect("a bundle is not empty, and there are no revocation lists")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::config::Edit;
    use model::resource::Kind;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
    use serde_json::json;

    use super::*;

    /// The client's part is not what is looked at here.
    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    fn shake_hands(client: &Arc<ClientConfig>, tls: &ListenerTls) -> ServerConnection {
        let name = ServerName::try_from("a.test").expect("a name");
        let mut client = ClientConnection::new(client.clone(), name).expect("a client");
        let mut server = ServerConnection::new(tls.config.clone()).expect("a server");
        while client.wants_write() || server.wants_write() {
            let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut from_client).expect("memory takes all");
            }
            let mut rest = &*from_client;
            while server.read_tls(&mut rest).expect("it is open") > 0 {
                server.process_new_packets().expect("a good client");
            }
            while server.wants_write() {
                server.write_tls(&mut from_server).expect("memory takes all");
            }
            let mut rest = &*from_server;
            while client.read_tls(&mut rest).expect("it is open") > 0 {
                client.process_new_packets().expect("a good server");
            }
        }
        server
    }

    #[test]
    fn a_session_holds_no_longer_than_the_certificate_of_its_client() {
        let until = UnixTime::now().as_secs() + 3600;
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["a.test".to_owned()]).expect("a name");
        params.not_after = time::OffsetDateTime::from_unix_timestamp(until.cast_signed()).expect("a time");
        let cert = params.self_signed(&key).expect("a certificate");
        let put = |kind, name: &str, spec| Edit::Put { kind, name: name.into(), spec };
        let demand = json!({"certificates": ["a"], "client_certificate": {"ca_bundle": "a"}});
        let edits = vec![
            put(Kind::Certificate, "a", json!({"cert": cert.pem(), "key": key.serialize_pem()})),
            put(Kind::CaBundle, "a", json!({"certs": cert.pem()})),
            put(Kind::Listener, "a", json!({"bind": "127.0.0.1:1", "tls": demand})),
        ];
        let (snapshot, _) = Snapshot::default().apply(1, edits).expect("a good listener");
        let listener = snapshot.listeners.find("a").expect("it is there");
        let tls = ListenerTls::of(listener, &snapshot, None, &TicketKeys::alone()).expect("it has TLS");
        let client = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_auth_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a certificate with its key");
        let client = Arc::new(client);

        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let first = shake_hands(&client, &tls);
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
        let known = tls.negotiated(&first, at(until - 1)).expect("it is good").client_certificate.expect("it is known");
        let second = shake_hands(&client, &tls);
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
        let still = tls.negotiated(&second, at(until - 1)).expect("it is good").client_certificate;
        assert_eq!(still.as_deref(), Some(&*known));
        assert!(tls.negotiated(&second, at(until + 1)).is_err());
    }
}
