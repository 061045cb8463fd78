//! Where the truth is kept: the resources of each gateway's head, every revision that led to it, and the
//! hashes of tokens. Beside that, replicas exchange through it what they know of nodes.
//!
//! A store keeps and returns; it does not check. [`crate::publish`] is its only writer, apart from tokens and from what is
//! said about targets, which [`crate::targets`] writes.
//! Each operation is one statement or one transaction, so there is nothing to hold open between calls.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use model::digest::Digest;
use model::resource::{Document, Key};
use model::sealing::SealingKey;
use time::OffsetDateTime;

use crate::metrics::COUNTED;
use crate::token::Role;

mod changes;
mod enrolment;
mod postgres;
mod rollouts;
mod rows;
mod sealed;
mod sql;
mod sqlite;

pub use enrolment::{Enrolments, JoinToken, NodeIdentity};
pub use postgres::{NodeNews, PostgresStore, SharedNode, SharedNodes};
pub use rollouts::{RolloutRow, Rollouts};
pub use sqlite::SqliteStore;

/// The gateway that exists from the start.
pub const DEFAULT_GATEWAY: &str = "default";

/// What a database must do for the control plane. The contract suite runs on every implementation.
#[async_trait]
pub trait Store: Enrolments + Rollouts {
    /// Answers when the database does.
    async fn ping(&self) -> Result<(), StoreError>;

    /// From now on, secrets are kept sealed with this key. What was kept before is read as it is.
    fn seal_with(&self, key: Arc<SealingKey>);

    /// The names of all gateways, in order.
    async fn gateways(&self) -> Result<Vec<String>, StoreError>;

    /// Creates the gateway, empty and at revision 0, unless it exists.
    async fn ensure_gateway(&self, gateway: &str) -> Result<(), StoreError>;

    /// Removes the gateway with its history if it has no resource; otherwise returns false and does nothing.
    async fn remove_empty_gateway(&self, gateway: &str) -> Result<bool, StoreError>;

    async fn head(&self, gateway: &str) -> Result<Head, StoreError>;

    /// The head and all its resources, as of one moment.
    async fn load(&self, gateway: &str) -> Result<Loaded, StoreError>;

    /// Makes `record` the head, if its parent is: the log entry and the touched resources in one transaction,
    /// on disk when this returns. After an error other than [`StoreError::Conflict`] it may have happened
    /// all the same; the head tells.
    async fn append(&self, gateway: &str, record: &RevisionRecord) -> Result<(), StoreError>;

    /// One revision with what it changed.
    async fn revision(&self, gateway: &str, number: u64) -> Result<Option<RevisionRecord>, StoreError>;

    /// The newest revisions, of those before `before` if that is given; newest first, without their changes.
    async fn revisions(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>, StoreError>;

    /// At most `limit` revisions that follow `after`, oldest first.
    async fn changes_since(&self, gateway: &str, after: u64, limit: u32) -> Result<Vec<RevisionRecord>, StoreError>;

    /// The number of the oldest revision that is kept; nothing if there is none.
    async fn oldest_revision(&self, gateway: &str) -> Result<Option<u64>, StoreError>;

    /// Forgets at most `limit` of the revisions before `before`, the oldest first, all of them or none; how many. What is
    /// left is without gaps at any time, whoever else does the same.
    async fn forget_revisions(&self, gateway: &str, before: u64, limit: u32) -> Result<u64, StoreError>;

    /// Hints that another control plane appended a revision. They may be late, lost or wrong; who needs to
    /// know must also look at the head now and then. The stream does not end.
    fn announcements(&self) -> BoxStream<'static, Announcement>;

    /// The newest version of the lane of targets of each gateway that has one.
    async fn target_versions(&self) -> Result<Vec<(String, u64)>, StoreError>;

    /// All that is said about targets of a gateway, as of one moment: without who said it.
    async fn targets(&self, gateway: &str) -> Result<LoadedTargets, StoreError>;

    /// Adds changes, which are numbered from `after` on, if that is the newest version. All in one transaction, on disk
    /// when this returns. Of the log, the newest [`TARGET_CHANGES_KEPT`] are kept.
    async fn change_targets(&self, gateway: &str, after: u64, changes: &[TargetRecord]) -> Result<(), StoreError>;

    /// At most `limit` changes after a version, oldest first.
    async fn target_changes_since(
        &self,
        gateway: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError>;

    /// The newest changes, of those before `before` and of one service if these are given; newest first.
    async fn target_log(
        &self,
        gateway: &str,
        service: Option<&str>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError>;

    /// Hints that another control plane changed targets; what holds for [`Store::announcements`] holds for them.
    fn target_announcements(&self) -> BoxStream<'static, Announcement>;

    /// Where replicas tell one another about their nodes; nothing if a control plane stands alone on this store.
    fn shared_nodes(&self) -> Option<SharedNodes>;

    /// Keeps a value that replicas share by its name, unless there is one; the one that is there then.
    async fn keep_shared(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Puts `to` in the place of `from`; false if something else is there.
    async fn swap_shared(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, StoreError>;

    /// Keeps the hash of a token. Adding it again changes nothing.
    async fn add_token(&self, token: &StoredToken) -> Result<(), StoreError>;

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError>;

    /// Forgets the ticket keys of periods before `oldest`, keeps those of `fresh` whose period has none yet, and
    /// returns what there is then, the oldest first.
    async fn turn_ticket_keys(
        &self,
        gateway: &str,
        oldest: u64,
        fresh: &[TicketKey],
    ) -> Result<Vec<TicketKey>, StoreError>;
}

/// Opens the database that `url` names, `postgres://…` or the path of a SQLite file, and brings its tables up to
/// date.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    if is_postgres(url) {
        return Ok(Arc::new(PostgresStore::open(url).await?));
    }
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
    Ok(Arc::new(SqliteStore::open(Path::new(path)).await?))
}

/// Whether `url` names a PostgreSQL server; anything else is the path of a SQLite file.
#[must_use]
pub fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// The database as it may be shown, without a password.
#[must_use]
pub fn describe(url: &str) -> String {
    if is_postgres(url) { postgres::describe(url) } else { url.to_owned() }
}

/// The newest revision of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub revision: u64,
    pub digest: Digest,
}

/// A gateway as it is stored.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub head: Head,
    pub resources: Vec<(Key, Document)>,
}

/// One step in the history of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Counted from 1 without gaps.
    pub number: u64,
    pub parent: u64,
    pub author: String,
    pub message: String,
    pub created_at: OffsetDateTime,
    /// Digest of the whole configuration at this revision.
    pub digest: Digest,
    /// How many resources it changed.
    pub change_count: u64,
}

/// A revision with what it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionRecord {
    pub revision: Revision,
    pub changes: Arc<[ResourceChange]>,
}

/// What a revision did to one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceChange {
    pub key: Key,
    pub before: Option<Document>,
    pub after: Option<Document>,
}

/// How many changes of targets a gateway remembers.
pub const TARGET_CHANGES_KEPT: u64 = 10_000;

/// One change of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    pub version: u64,
    pub service: String,
    pub target: String,
    /// What was said, as JSON; nothing if nothing was said any more.
    pub spec: Option<String>,
    pub author: String,
    pub created_at: OffsetDateTime,
}

/// What is said about targets of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedTargets {
    pub version: u64,
    pub targets: Vec<LoadedTarget>,
}

/// What is said about one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedTarget {
    pub version: u64,
    pub service: String,
    pub target: String,
    pub spec: String,
}

/// A hint that a gateway has a new revision, or a new version of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub gateway: String,
    pub number: u64,
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    pub role: Role,
    /// Says who it was made for.
    pub name: String,
}

/// What the nodes of a gateway seal session tickets with during one period.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    pub period: u64,
    pub secret: [u8; 32],
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no gateway `{0}`")]
    UnknownGateway(String),
    /// The parent of the revision is not the head.
    #[error("the head has moved to revision {head}")]
    Conflict { head: u64 },
    /// The database cannot be reached or did not do what was asked; trying again later may help.
    #[error("the database does not answer: {0}")]
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
    /// Trying again will not help.
    #[error("cannot read what is stored: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether waiting may help: not for a wrong password, and not for a database that does not exist.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let Self::Unavailable(cause) = self else { return false };
        match cause.downcast_ref() {
            Some(sqlx::Error::Database(error)) => {
                // Classes of PostgreSQL's error codes: authorization, catalog name.
                !error.code().is_some_and(|code| code.starts_with("28") || code.starts_with("3D"))
            }
            Some(sqlx::Error::Configuration(_)) => false,
            _ => true,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        COUNTED.store_errors.inc();
        match error {
            sqlx::Error::PoolTimedOut => Self::Unavailable("no connection within the time allowed".into()),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                Self::Unreadable(error.to_string())
            }
            other => Self::Unavailable(Box::new(other)),
        }
    }
}
