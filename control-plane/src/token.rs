//! Who may do what: bearer tokens and their roles.
//!
//! A token is 256 random bits behind a prefix by which people and scanners for leaked secrets know it. So
//! much randomness needs no slow hash: only its SHA-256 is stored, and looking that up tells nobody, by the
//! time it takes, how much of a guess is right.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::digest::sha256;
use parking_lot::RwLock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::files::write_private;
use crate::store::{Store, StoreError, StoredToken};

/// How often tokens that were added or removed elsewhere are noticed without anybody showing them.
const REFRESH: Duration = Duration::from_secs(15);
/// The database is asked about unknown tokens at most this often, however many are shown.
const LOOKUP_PAUSE: Duration = Duration::from_millis(200);
/// Tokens that an operator writes into the file must not be easy to guess.
const MIN_CHARS: usize = 32;

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything in the admin API.
    Admin,
    /// To be a node: receive configuration and report its status.
    Node,
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub name: String,
    pub role: Role,
}

/// Finds out who bears a token. All tokens are in memory, so that reading and the stream go on while the
/// database is away.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<[u8; 32], Bearer>>,
    /// When the database was last asked, and whether it answered; held while it is being asked.
    asked: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

/// Why there is no token to work with.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot use the token file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the token in {} is shorter than {MIN_CHARS} characters; remove the file to have one made", .0.display())]
    TooShort(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Node => "node",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Admin, Self::Node].into_iter().find(|role| role.as_str() == text)
    }

    /// Where the token of this role lies in the data folder of the control plane that made it.
    #[must_use]
    pub fn token_file(self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!("{self}-token"))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Tokens {
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, known: RwLock::default(), asked: tokio::sync::Mutex::default() })
    }

    /// Nothing if no such token was ever added, here or by another replica.
    pub async fn find(&self, token: &str) -> Result<Option<Bearer>, StoreError> {
        let hash = sha256(token.as_bytes());
        if let Some(bearer) = self.known(&hash) {
            return Ok(Some(bearer));
        }
        let shown = Instant::now();
        let mut asked = self.asked.lock().await;
        // One answer of the database serves everybody who waited for it.
        if let Some((at, answered)) = *asked {
            if at >= shown && !answered {
                return Err(StoreError::Unavailable("tokens cannot be read".into()));
            }
            if at >= shown {
                return Ok(self.known(&hash));
            }
            tokio::time::sleep_until(at + LOOKUP_PAUSE).await;
        }
        let at = Instant::now();
        let refreshed = self.refresh().await;
        *asked = Some((at, refreshed.is_ok()));
        refreshed?;
        Ok(self.known(&hash))
    }

    /// Keeps up with tokens that were added or removed, until `shutdown`.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(REFRESH);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!("cannot read the tokens again, those that are known stay valid: {error}");
            }
        }
    }

    fn known(&self, hash: &[u8; 32]) -> Option<Bearer> {
        self.known.read().get(hash).cloned()
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let stored = self.store.tokens().await?;
        let bearers = stored.into_iter().map(|StoredToken { hash, role, name }| (hash, Bearer { name, role }));
        *self.known.write() = bearers.collect();
        Ok(())
    }
}

/// Makes sure that there is a token for `role`, and returns the file with it. Without one, when another
/// control plane made the token and has the file.
pub async fn ensure(store: &dyn Store, role: Role, data_dir: &Path) -> Result<Option<PathBuf>, TokenError> {
    let path = role.token_file(data_dir);
    let unusable = |source| TokenError::File { path: path.clone(), source };
    let token = match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() < MIN_CHARS => return Err(TokenError::TooShort(path)),
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if store.tokens().await?.iter().any(|token| token.role == role) {
                tracing::info!("the {role} token was made by another control plane, which has the file");
                return Ok(None);
            }
            let token = generate(role);
            // Before the database has it: a token in a file without a hash is mended at the next start, a
            // hash without a file would lock everybody out.
            write_private(&path, &format!("{token}\n")).map_err(unusable)?;
            token
        }
        Err(error) => return Err(unusable(error)),
    };
    let stored = StoredToken { hash: sha256(token.as_bytes()), role, name: role.to_string() };
    store.add_token(&stored).await?;
    Ok(Some(path))
}

fn generate(role: Role) -> String {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
    let mut token = format!("slu_{role}_");
    for byte in random {
        write!(token, "{byte:02x}").expect("strings take everything");
    }
    token
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::SqliteStore;

    #[tokio::test]
    async fn the_first_start_makes_tokens_and_later_ones_find_them() {
        let (folder, store) = new_store().await;
        let path = ensure(&*store, Role::Admin, folder.path()).await.expect("it is made").expect("here");
        let token = fs::read_to_string(&path).expect("it is written");
        assert!(token.starts_with("slu_admin_"));
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);

        assert_eq!(ensure(&*store, Role::Admin, folder.path()).await.expect("it is found"), Some(path.clone()));
        assert_eq!(fs::read_to_string(&path).expect("it stays"), token);
        let stored = store.tokens().await.expect("they can be read");
        assert_eq!(stored.len(), 1);
        assert!(!format!("{stored:?}").contains(token.trim()), "only the hash is stored");
        let bearer = Bearer { name: "admin".to_owned(), role: Role::Admin };
        assert_eq!(Tokens::new(store).find(token.trim()).await.expect("it answers"), Some(bearer));
    }

    #[tokio::test]
    async fn a_second_replica_makes_no_second_token() {
        let (folder, store) = new_store().await;
        let another = tempfile::tempdir().expect("a temporary folder");
        ensure(&*store, Role::Node, folder.path()).await.expect("it is made");
        assert_eq!(ensure(&*store, Role::Node, another.path()).await.expect("it is known"), None);
        assert!(!Role::Node.token_file(another.path()).exists());
    }

    #[tokio::test]
    async fn a_token_file_outlives_the_database() {
        let (folder, first) = new_store().await;
        let path = ensure(&*first, Role::Admin, folder.path()).await.expect("it is made").expect("here");
        let (_folder, second) = new_store().await;
        ensure(&*second, Role::Admin, folder.path()).await.expect("it is added");
        let token = fs::read_to_string(path).expect("it stays");
        assert!(Tokens::new(second).find(token.trim()).await.expect("it answers").is_some());
    }

    #[tokio::test]
    async fn a_token_that_is_easy_to_guess_is_refused() {
        let (folder, store) = new_store().await;
        fs::write(Role::Admin.token_file(folder.path()), "secret\n").expect("the folder can be written");
        let error = ensure(&*store, Role::Admin, folder.path()).await.expect_err("it is short");
        assert!(matches!(error, TokenError::TooShort(_)), "{error}");
    }

    #[tokio::test]
    async fn tokens_of_other_replicas_are_found_and_wrong_ones_are_not() {
        let (_folder, store) = new_store().await;
        let tokens = Tokens::new(store.clone());
        assert_eq!(tokens.find("wrong").await.expect("it answers"), None);
        let hash = sha256(b"added later");
        let name = "later".to_owned();
        store.add_token(&StoredToken { hash, role: Role::Node, name }).await.expect("it can be added");
        let found = tokens.find("added later").await.expect("it answers").expect("it is there");
        assert_eq!(found.role, Role::Node);
        let wrong = futures_util::future::join_all((0..50).map(|_| tokens.find("wrong"))).await;
        assert!(wrong.into_iter().all(|found| found.expect("it answers").is_none()));
    }

    async fn new_store() -> (tempfile::TempDir, Arc<dyn Store>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = SqliteStore::open(&folder.path().join("sluice.db")).await.expect("it can be opened");
        (folder, Arc::new(store))
    }
}
