//! Rows as both databases return them, and what they stand for.

use std::collections::HashMap;
use std::sync::Arc;

use model::digest::Digest;
use model::resource::{Document, Key, Kind};
use time::OffsetDateTime;

use super::{Head, LoadedTarget, Revision, RevisionRecord, StoreError, StoredToken, TargetRecord, changes};
use crate::token::Role;

/// Columns of a revision as both databases return them.
pub type RevisionRow = (i64, i64, String, String, OffsetDateTime, String, i64);
/// The same with its changes.
pub type RecordRow = (i64, i64, String, String, OffsetDateTime, String, i64, String);
/// Columns of a resource: kind, name, created, spec.
pub type ResourceRow = (String, String, i64, String);
/// Columns of what is said about a target: version, service, target, spec.
pub type TargetRow = (i64, String, String, String);
/// Columns of a change of a target: version, service, target, spec, author, time.
pub type TargetRecordRow = (i64, String, String, Option<String>, String, OffsetDateTime);

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

/// The period and what is stored for it, which may be sealed.
pub fn ticket_key_from_row((period, stored): (i64, Vec<u8>)) -> Result<(u64, Vec<u8>), StoreError> {
    Ok((from_column(period)?, stored))
}

pub fn target_from_row(row: TargetRow) -> Result<LoadedTarget, StoreError> {
    let (version, service, target, spec) = row;
    Ok(LoadedTarget { version: from_column(version)?, service, target, spec })
}

pub fn target_record_from_row(row: TargetRecordRow) -> Result<TargetRecord, StoreError> {
    let (version, service, target, spec, author, created_at) = row;
    Ok(TargetRecord { version: from_column(version)?, service, target, spec, author, created_at })
}

/// The version of a lane; a gateway without one is at 0.
pub fn target_version_from_row(gateway: &str, row: Option<(Option<i64>,)>) -> Result<u64, StoreError> {
    let (version,) = row.ok_or_else(|| StoreError::UnknownGateway(gateway.to_owned()))?;
    from_column(version.unwrap_or(0))
}

/// Of many changes of one target, the last: what is said afterwards, and what is not any more.
pub fn last_of_each(changes: &[TargetRecord]) -> (Vec<&TargetRecord>, Vec<&TargetRecord>) {
    let mut last: HashMap<(&str, &str), &TargetRecord> = HashMap::with_capacity(changes.len());
    for change in changes {
        last.insert((&change.service, &change.target), change);
    }
    last.into_values().partition(|change| change.spec.is_some())
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
