//! What a control plane is told by flags and environment; everything else is in the database.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::publish::history::History;
use crate::trust::CERTIFICATE_LIFETIME;
use crate::trust::master_key::MasterKeySource;

/// What a control plane is told by flags and environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `postgres://user:password@host/database`, or the path of a SQLite file.
    pub database_url: String,
    /// Where the tokens are written that are made at the first start.
    pub data_dir: PathBuf,
    /// Where the admin API is served.
    pub admin_bind: SocketAddr,
    /// Where nodes get their configuration: over TLS, and on loopback over plain text too.
    pub stream_bind: SocketAddr,
    /// What seals the secrets in the store. Without it, a file in the data folder that is made at the first start; where
    /// the store is PostgreSQL, none.
    pub master_key: Option<MasterKeySource>,
    /// The authority that certifies nodes. Without it, one is made at the first start and kept in the store.
    pub authority: Option<AuthorityFiles>,
    /// How long the certificate of a node is good; it renews it when two thirds of that are over.
    pub certificate_lifetime: Duration,
    /// How much of the history of each gateway is kept.
    pub history: History,
}

/// An authority of one's own, in PEM form. Every replica is given the same.
#[derive(Clone, Debug)]
pub struct AuthorityFiles {
    pub certificate: PathBuf,
    /// Its key: ECDSA on P-256, without a passphrase.
    pub key: PathBuf,
}

impl Settings {
    /// Defaults for a control plane that keeps everything in `data_dir`, in a SQLite file.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            database_url: data_dir.join("sluice.db").to_string_lossy().into_owned(),
            data_dir,
            admin_bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            stream_bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8082)),
            master_key: None,
            authority: None,
            certificate_lifetime: CERTIFICATE_LIFETIME,
            history: History::default(),
        }
    }
}
