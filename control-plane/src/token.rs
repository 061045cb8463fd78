//! Who may do what: bearer tokens and their roles.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use model::digest::sha256;
use parking_lot::RwLock;

use crate::store::{Store, StoreError, StoredToken};

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything in the admin API.
    Admin,
    /// To be a node: receive configuration and report its status.
    Node,
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
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub name: String,
    pub role: Role,
}

/// Finds out who bears a token. A token that was found once is known from memory, so that reading and the
/// stream go on while the database is away.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<[u8; 32], Bearer>>,
}

impl Tokens {
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, known: RwLock::default() })
    }

    /// Nothing if no such token was ever added. Looking up by the hash tells nobody, by the time that it takes,
    /// how much of a guessed token is right.
    pub async fn find(&self, token: &str) -> Result<Option<Bearer>, StoreError> {
        let hash = sha256(token.as_bytes());
        let known = self.known.read().get(&hash).cloned();
        if known.is_some() {
            return Ok(known);
        }
        // Another replica may have added it.
        let stored = self.store.tokens().await?;
        let mut known = self.known.write();
        known.extend(stored.into_iter().map(|StoredToken { hash, role, name }| (hash, Bearer { name, role })));
        Ok(known.get(&hash).cloned())
    }
}
