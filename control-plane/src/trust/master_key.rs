//! Master keys: what an operator holds outside the store, so that a copy of the store alone betrays no secret.
//!
//! A line for each key, 64 hexadecimal digits, which `openssl rand -hex 32` makes; `#` begins a comment. The first key
//! seals, all open: so one key takes the place of another without a moment in which some replica cannot read.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::sealing::{KEY_BYTES, KeyId, SealingKey, key_of, new_secret};

use crate::files::write_private;

/// The file in the data folder of a control plane that keeps everything there.
const FILE: &str = "master-key";

/// Where master keys come from.
#[derive(Clone)]
pub enum MasterKeySource {
    File(PathBuf),
    /// The keys themselves.
    Text(String),
}

/// The keys of an operator. There is at least one.
#[derive(Debug)]
pub struct MasterKeys(Vec<SealingKey>);

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("cannot use the file of master keys {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{origin}: {reason}")]
    Malformed { origin: String, reason: String },
    #[error(
        "a control plane on PostgreSQL shares its secrets with others and needs a master key that is theirs too: make one \
         with `openssl rand -hex 32 > master-key`, keep it, and say --master-key-file master-key to each of them"
    )]
    Missing,
}

impl MasterKeys {
    /// The keys of `source`. Without one, those in the data folder, where one is made if the store lies there too.
    pub fn load(
        source: Option<&MasterKeySource>,
        data_dir: &Path,
        store_is_shared: bool,
    ) -> Result<Self, MasterKeyError> {
        match source {
            Some(MasterKeySource::Text(text)) => Self::parse(text, "the master keys of the environment"),
            Some(MasterKeySource::File(path)) => Self::read(path),
            None if store_is_shared => Err(MasterKeyError::Missing),
            None => {
                let path = data_dir.join(FILE);
                if !path.exists() {
                    let failed = |source| MasterKeyError::File { path: path.clone(), source };
                    write_private(&path, &format!("{}\n", hexadecimal(&new_secret()))).map_err(failed)?;
                    tracing::info!("made the master key in {}: keep a copy of it where no backup lies", path.display());
                }
                Self::read(&path)
            }
        }
    }

    fn read(path: &Path) -> Result<Self, MasterKeyError> {
        let text = fs::read_to_string(path).map_err(|source| MasterKeyError::File { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Never repeats what it read.
    fn parse(text: &str, origin: &str) -> Result<Self, MasterKeyError> {
        let malformed = |reason: String| MasterKeyError::Malformed { origin: origin.to_owned(), reason };
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let written = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let keys = written.map(|(number, line)| {
            let secret = secret(line)
                .ok_or_else(|| malformed(format!("line {number} is no key: a key has 64 hexadecimal digits")))?;
            Ok(SealingKey::new(&secret))
        });
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(malformed("there is no key: a key is a line of 64 hexadecimal digits".to_owned()));
        }
        Ok(Self(keys))
    }

    /// The key that seals.
    #[must_use]
    pub fn first(&self) -> &SealingKey {
        &self.0[0]
    }

    /// Nothing if none of the keys sealed it.
    #[must_use]
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.iter().find_map(|key| key.open(context, sealed))
    }

    #[must_use]
    pub fn sealed_by_first(&self, sealed: &[u8]) -> bool {
        key_of(sealed) == Some(self.first().id())
    }

    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.0.iter().map(SealingKey::id)
    }
}

/// Says where they come from, and nothing of them.
impl fmt::Debug for MasterKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

fn secret(line: &str) -> Option<[u8; KEY_BYTES]> {
    if line.len() != 2 * KEY_BYTES || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; KEY_BYTES];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&line[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(secret)
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("strings take everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_start_makes_a_key_that_nobody_else_can_read_and_later_ones_find_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = MasterKeys::load(None, folder.path(), false).expect("it is made");
        let path = folder.path().join(FILE);
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        let found = MasterKeys::load(None, folder.path(), false).expect("it is found");
        assert_eq!(made.first().id(), found.first().id());
    }

    #[test]
    fn a_shared_store_needs_a_key_that_is_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = MasterKeys::load(None, folder.path(), true).expect_err("there is none");
        assert!(error.to_string().contains("--master-key-file"), "{error}");
        assert!(!folder.path().join(FILE).exists());
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, new) = ("11".repeat(KEY_BYTES), "22".repeat(KEY_BYTES));
        let load = |text: String| {
            MasterKeys::load(Some(&MasterKeySource::Text(text)), Path::new("/nowhere"), true).expect("good keys")
        };
        let before = load(format!("# of last year\n{old}\n"));
        let sealed = before.first().seal(b"", b"a secret");
        let both = load(format!("{new}\n  {old}"));
        assert_eq!(both.open(b"", &sealed).as_deref(), Some(&b"a secret"[..]));
        assert!(before.sealed_by_first(&sealed) && !both.sealed_by_first(&sealed));
        assert_eq!(load(new).open(b"", &sealed), None);
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let good = "1f".repeat(KEY_BYTES);
        for (text, says) in [
            ("".to_owned(), "no key"),
            ("# nothing\n".to_owned(), "no key"),
            (format!("{good}\n{}", &good[1..]), "line 2"),
            (good.replace('f', "g"), "line 1"),
            (good.replacen("1f", "é", 1), "line 1"),
        ] {
            let error = MasterKeys::parse(&text, "here").expect_err("no key").to_string();
            assert!(error.contains(says) && !error.contains(&good[..8]), "{error}");
        }
    }
}
