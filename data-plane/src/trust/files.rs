//! The files of a node's key and certificate. Nobody else may read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::certificate::{NodeCertificate, NodeKey};

const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.crt";

/// See the head of this file.
pub struct Files {
    folder: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Those of a data folder, without making anything.
    pub fn at(data_dir: &Path) -> Self {
        let folder = data_dir.join("trust");
        Self { key: folder.join(KEY), folder }
    }

    /// Those of a data folder, with the key elsewhere if a place is given.
    pub fn open(data_dir: &Path, key: Option<&Path>) -> io::Result<Self> {
        let mut files = Self::at(data_dir);
        if let Some(key) = key {
            key.clone_into(&mut files.key);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&files.folder)?;
        Ok(files)
    }

    /// The key; made at the first start.
    pub fn key(&self) -> io::Result<NodeKey> {
        let path = &self.key;
        match fs::read_to_string(path) {
            Ok(pem) => {
                NodeKey::from_pem(&pem).ok_or_else(|| unusable(path, "it holds no ECDSA key on P-256 in PEM form"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = NodeKey::make();
                write(path, &key.to_pem()).map_err(|error| unusable(path, &format!("cannot make it: {error}")))?;
                Ok(key)
            }
            Err(error) => Err(unusable(path, &error.to_string())),
        }
    }

    /// Nothing if the node has not joined yet. A broken one is as good as none: a join token mends it.
    pub fn certificate(&self) -> io::Result<Option<NodeCertificate>> {
        let path = self.folder.join(CERTIFICATE);
        match fs::read(&path) {
            Ok(pem) => Ok(NodeCertificate::from_pem(&pem)
                .map_err(|reason| tracing::error!("cannot use the certificate in {}: {reason}", path.display()))
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn keep(&self, certificate: &NodeCertificate) -> io::Result<()> {
        write(&self.folder.join(CERTIFICATE), &certificate.to_pem())
    }
}

/// The file appears with all of its content or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn unusable(path: &Path, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path.display()))
}
