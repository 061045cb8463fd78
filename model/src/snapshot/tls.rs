//! Key material and trust, ready to be used by the TLS stack.
//!
//! Listeners point at it by slot. Services hold it, because it decides which connections they can use: a service
//! is compiled again when what it holds is replaced.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use imbl::OrdSet;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};

use super::Snapshot;
use crate::config::Changed;
use crate::digest::sha256;
use crate::problem::Fault;
use crate::resource::certificate::Staple;
use crate::resource::listener::{ClientCertificateMode, Profile, TlsVersion};
use crate::resource::service::{UpstreamTls, Verify};
use crate::resource::{self, Key, Kind, Name, Reference, Resource};
use crate::slots::Slot;
use crate::value::HostPattern;

/// TLS of a listener: key material by slot, so that renewing it touches no listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// The first is for clients that name no host.
    pub certificates: Vec<Slot>,
    pub profile: Profile,
    pub min_version: TlsVersion,
    /// Nothing if clients are not asked.
    pub client_certificates: Option<ClientCertificates>,
}

/// What a listener wants of certificates of clients.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCertificates {
    pub mode: ClientCertificateMode,
    pub ca_bundle: Slot,
    /// Services get to see them.
    pub forward: bool,
}

/// TLS towards a target. What it holds is part of what tells connections apart, and so is changed with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointTls {
    pub verify: Verify,
    /// Whom to trust; nothing stands for whom the operating system trusts.
    pub ca_bundle: Option<Arc<CaBundle>>,
    pub server_name: Option<String>,
    pub client_certificate: Option<Arc<Certificate>>,
    pub configs: ClientConfigs,
}

/// What a node makes of it, once for all cores: one for each list of protocols that it offers, with the sessions that are
/// resumed by it. It is no part of what it hangs on: all are equal, and a copy begins with nothing.
#[derive(Default)]
pub struct ClientConfigs([OnceLock<Arc<ClientConfig>>; 3]);

impl ClientConfigs {
    #[must_use]
    pub fn offering(&self, list: usize) -> &OnceLock<Arc<ClientConfig>> {
        &self.0[list]
    }
}

impl Clone for ClientConfigs {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for ClientConfigs {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ClientConfigs {}

impl Hash for ClientConfigs {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for ClientConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientConfigs")
    }
}

/// A certificate chain with its key. Two with the same content are the same.
pub struct Certificate {
    pub name: Name,
    pub hosts: Vec<HostPattern>,
    pub key: Arc<CertifiedKey>,
    pub staple: Option<Staple>,
    pub enabled: bool,
    content: [u8; 32],
}

/// Authorities that are trusted. Two with the same content are the same.
pub struct CaBundle {
    pub name: Name,
    pub roots: Arc<RootCertStore>,
    content: [u8; 32],
}

impl Certificate {
    pub(super) fn compile(name: &Name, written: &resource::Certificate) -> Result<Self, Vec<Fault>> {
        Ok(Self {
            name: name.clone(),
            hosts: written.server_names(),
            key: Arc::new(written.certified_key()?),
            staple: written.staple().map_err(|fault| vec![fault])?,
            enabled: written.enabled,
            content: sha256(format!("{}\0{}", written.cert, written.key).as_bytes()),
        })
    }
}

impl CaBundle {
    pub(super) fn compile(name: &Name, written: &resource::CaBundle) -> Result<Self, Vec<Fault>> {
        Ok(Self { name: name.clone(), roots: Arc::new(written.roots()?), content: sha256(written.certs.as_bytes()) })
    }

    /// SHA-256 of what was written.
    #[must_use]
    pub fn content(&self) -> &[u8; 32] {
        &self.content
    }
}

/// Whether a service has key material in its compiled form.
#[derive(Clone, Copy)]
pub(super) enum Holding {
    Begins,
    Ends,
}

impl Snapshot {
    /// The changes, with the services that hold a certificate or a CA bundle which is replaced.
    pub(super) fn with_holders<'c>(&self, changes: Cow<'c, [Changed]>) -> Cow<'c, [Changed]> {
        let replaced = changes.iter().filter(|change| change.before.is_some() && change.after.is_some());
        let mut holders: BTreeSet<Key> = replaced
            .filter_map(|change| self.holders.get(&change.key))
            .flatten()
            .map(|name| Key::new(Kind::Service, name.clone()))
            .collect();
        if holders.is_empty() {
            return changes;
        }
        for change in changes.iter() {
            holders.remove(&change.key);
        }
        let same = |key: Key| {
            let document = self.config.get(&key).cloned();
            Changed { key, before: document.clone(), after: document }
        };
        let mut all = changes.into_owned();
        all.extend(holders.into_iter().map(same));
        Cow::Owned(all)
    }

    pub(super) fn learn_certificate(&mut self, name: &Name, written: &resource::Certificate) -> Result<(), Vec<Fault>> {
        self.certificates.put(Arc::new(Certificate::compile(name, written)?));
        Ok(())
    }

    pub(super) fn learn_ca_bundle(&mut self, name: &Name, written: &resource::CaBundle) -> Result<(), Vec<Fault>> {
        self.ca_bundles.put(Arc::new(CaBundle::compile(name, written)?));
        Ok(())
    }

    pub(super) fn listener_tls(&self, written: &resource::listener::Tls) -> ListenerTls {
        let clients = written.client_certificate.as_ref().filter(|clients| clients.mode != ClientCertificateMode::None);
        ListenerTls {
            certificates: written.certificates.iter().filter_map(|name| self.certificates.slot(name)).collect(),
            profile: written.profile,
            min_version: written.oldest_version(),
            client_certificates: clients.and_then(|clients| {
                // A bundle that is missing was reported with the references.
                let ca_bundle = self.ca_bundles.slot(&clients.ca_bundle)?;
                Some(ClientCertificates { mode: clients.mode, ca_bundle, forward: clients.forward })
            }),
        }
    }

    /// Notes which key material the service has in its compiled form, or that it has not any more.
    pub(super) fn hold(&mut self, service: &Name, resource: &Resource, holding: Holding) {
        resource.references(&mut |Reference { kind, name, .. }| {
            if !matches!(kind, Kind::Certificate | Kind::CaBundle) {
                return;
            }
            let Ok(name) = name.parse() else { return };
            let key = Key::new(kind, name);
            let mut holders: OrdSet<Name> = self.holders.get(&key).cloned().unwrap_or_default();
            match holding {
                Holding::Begins => drop(holders.insert(service.clone())),
                Holding::Ends => drop(holders.remove(service)),
            }
            if holders.is_empty() {
                self.holders.remove(&key);
            } else {
                self.holders.insert(key, holders);
            }
        });
    }

    pub(super) fn endpoint_tls(&self, written: &UpstreamTls) -> EndpointTls {
        let certificate = written.client_certificate.as_ref().and_then(|name| self.certificates.find(name));
        EndpointTls {
            verify: written.verify,
            ca_bundle: written.ca_bundle.as_ref().and_then(|name| self.ca_bundles.find(name)).cloned(),
            server_name: written.server_name.clone(),
            client_certificate: certificate.filter(|certificate| certificate.enabled).cloned(),
            configs: ClientConfigs::default(),
        }
    }
}

/// Equality and the rest by content.
macro_rules! by_content {
    ($($compiled:ty),*) => {$(
        impl PartialEq for $compiled {
            fn eq(&self, other: &Self) -> bool {
                self.content == other.content
            }
        }

        impl Eq for $compiled {}

        impl Hash for $compiled {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.content.hash(state);
            }
        }

        impl fmt::Debug for $compiled {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Like equality: which of two that are the same it is, is left to chance.
                write!(f, "{:02x?}", &self.content[..8])
            }
        }
    )*};
}
by_content!(Certificate, CaBundle);
