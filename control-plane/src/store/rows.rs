//! Rows as both databases return them, and what they stand for.

use std::sync::Arc;

use model::digest::Digest;
use model::resource::{Document, Key, Kind};
use time::OffsetDateTime;

use super::{Head, Revision, RevisionRecord, StoreError, StoredToken, TicketKey, changes};
use crate::token::Role;

/// Columns of a revision as both databases return them.
pub type RevisionRow = (i64, i64, String, String, OffsetDateTime, String, i64);
/// The same with its changes.
pub type RecordRow = (i64, i64, String, String, OffsetDateTime, String, i64, String);
/// Columns of a resource: kind, name, created, spec.
pub type ResourceRow = (String, String, i64, String);

pub fn revision_from_row(row: RevisionRow) -> Result<Revision, StoreError> {
    let (number, parent, author, message, created_at, digest, change_count) = row;
    Ok(Revision {
        number: from_column(number)?,
        parent: from_column(parent)?,
        author,
        message,
        created_at,
        digest: digest_from_column(&digest)?,
        change_count: from_column(change_count)?,
    })
}

pub fn record_from_row(row: RecordRow) -> Result<RevisionRecord, StoreError> {
    let (number, parent, author, message, created_at, digest, change_count, changes) = row;
    let revision = revision_from_row((number, parent, author, message, created_at, digest, change_count))?;
    let changes = changes::read(&changes)
        .map_err(|error| StoreError::Unreadable(format!("changes of revision {number}: {error}")))?;
    Ok(RevisionRecord { revision, changes })
}

pub fn resource_from_row(row: ResourceRow) -> Result<(Key, Document), StoreError> {
    let (kind, name, created, spec) = row;
    let known = Kind::parse(&kind).ok_or_else(|| {
        StoreError::Unreadable(format!(
            "this version knows no kind `{kind}` (of `{name}`); run the version that wrote it"
        ))
    })?;
    let name = name.parse().map_err(StoreError::Unreadable)?;
    Ok((Key::new(known, name), Document { created: from_column(created)?, spec: Arc::from(spec) }))
}

/// `head` and, unless it is 0, the digest of that revision.
pub fn head_from_row(gateway: &str, row: Option<(i64, Option<String>)>) -> Result<Head, StoreError> {
    let (revision, digest) = row.ok_or_else(|| StoreError::UnknownGateway(gateway.to_owned()))?;
    let digest = digest.as_deref().map(digest_from_column).transpose()?.unwrap_or_default();
    Ok(Head { revision: from_column(revision)?, digest })
}

pub fn token_from_row(row: (String, String, String)) -> Result<StoredToken, StoreError> {
    let (hash, role, name) = row;
    let hash = digest_from_column(&hash)?.to_bytes();
    let role = Role::parse(&role)
        .ok_or_else(|| StoreError::Unreadable(format!("token `{name}` has the unknown role `{role}`")))?;
    Ok(StoredToken { hash, role, name })
}

pub fn ticket_key_from_row((period, secret): (i64, Vec<u8>)) -> Result<TicketKey, StoreError> {
    let secret = secret.try_into().map_err(|_| StoreError::Unreadable("a ticket key has not 32 bytes".to_owned()))?;
    Ok(TicketKey { period: from_column(period)?, secret })
}

pub fn digest_from_column(text: &str) -> Result<Digest, StoreError> {
    Digest::parse(text).ok_or_else(|| StoreError::Unreadable(format!("`{text}` is no digest")))
}

/// Databases have no unsigned numbers.
pub fn to_column(number: u64) -> i64 {
    i64::try_from(number).expect("revisions are counted one by one")
}

pub fn from_column(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Unreadable(format!("negative number {number}")))
}

/// Hexadecimal, as digests are written everywhere.
pub fn hash_to_column(hash: &[u8; 32]) -> String {
    Digest::from_bytes(hash).to_string()
}
