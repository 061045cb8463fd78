//! What a control plane is told by flags and environment; everything else is in the database.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// What a control plane is told by flags and environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `postgres://user:password@host/database`, or the path of a SQLite file.
    pub database_url: String,
    /// Where the tokens are written that are made at the first start.
    pub data_dir: PathBuf,
    /// Where the admin API is served.
    pub admin_bind: SocketAddr,
    /// Where nodes get their configuration.
    pub stream_bind: SocketAddr,
    /// With it, nodes are served by TLS alone; without it, in plain text.
    pub stream_tls: Option<StreamTls>,
}

/// The files that make the stream https, in PEM form.
#[derive(Clone, Debug)]
pub struct StreamTls {
    /// The certificate for the name that nodes connect to, followed by those between it and its authority.
    pub certificate: PathBuf,
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
            stream_tls: None,
        }
    }
}
