//! The key of sticky cookies, on disk beside the last good configuration and sealed as it is: a node that starts again knows the cookies of its
//! clients before it has spoken to a control plane.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::sealing::SealingKey;

use crate::sync::TicketSecret;

const FILE: &str = "cookie-key";

/// The file. Its directory is held by [`super::LastGood`].
pub struct LastCookieKey {
    directory: PathBuf,
    key: Arc<SealingKey>,
    written: Option<TicketSecret>,
}

impl LastCookieKey {
    /// Reads what the directory holds. Nothing can be made of a damaged file; the control plane says the key again.
    pub fn open(directory: &Path, key: Arc<SealingKey>) -> io::Result<(Self, Option<TicketSecret>)> {
        let path = directory.join(FILE);
        let written = match fs::read(&path) {
            Ok(bytes) => {
                // What was written before it was sealed.
                let plain = TicketSecret::try_from(&bytes[..]).ok();
                let opened = || key.open(FILE.as_bytes(), &bytes)?.try_into().ok();
                let secret = plain.or_else(opened);
                if secret.is_none() {
                    tracing::error!(
                        "cannot use the key of cookies in {}: it is damaged, or sealed with another key",
                        path.display()
                    );
                }
                secret
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok((Self { directory: directory.to_owned(), key, written }, written))
    }

    /// Has it on disk. There is something to write once in the life of a gateway.
    pub fn keep(&mut self, secret: &TicketSecret) {
        if self.written.as_ref() == Some(secret) {
            return;
        }
        match self.write(secret) {
            Ok(()) => self.written = Some(*secret),
            Err(error) => tracing::error!("cannot write the key of cookies to disk: {error}"),
        }
    }

    fn write(&self, secret: &TicketSecret) -> io::Result<()> {
        let temporary = self.directory.join("next-cookie-key");
        let mut options = OpenOptions::new();
        let mut file = options.mode(0o600).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(&self.key.seal(FILE.as_bytes(), secret))?;
        file.sync_all()?;
        fs::rename(&temporary, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()
    }
}
