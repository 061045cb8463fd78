//! The store in one SQLite file, for a control plane that stands alone.
//!
//! One connection writes, others read: SQLite lets one writer in at a time anyway, and a queue in front of
//! it waits more fairly than its busy handler. Other processes may use the same file; they must be on the
//! same machine, since the write-ahead log needs shared memory.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use model::sealing::SealingKey;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};
use time::OffsetDateTime;

use super::rollouts::ADD as ADD_ROLLOUT;
use super::rows::{
    RecordRow, ResourceRow, RevisionRow, TargetRecordRow, from_column, hash_to_column, head_from_row, record_from_row,
    resource_from_row, revision_from_row, target_record_from_row, ticket_key_from_row, to_column, token_from_row,
};
use super::sealed::Sealed;
use super::{
    Announcement, Head, Loaded, LoadedTargets, ResourceChange, Revision, RevisionRecord, RolloutRow, Rollouts as _,
    SharedNodes, Store, StoreError, StoredToken, TargetRecord, TicketKey, changes, sql,
};

mod enrolment;
mod rollouts;
mod targets;

/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long opening waits before it looks again whether another process still holds the file.
const LOCKED_RETRY: Duration = Duration::from_millis(20);
const READERS: u32 = 4;
/// Resources handed to one statement, which bounds the size of its parameter.
const CHUNK: usize = 1000;

/// See the head of this file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    sealed: Sealed,
}

impl SqliteStore {
    /// Opens the file, creating it where it is missing, and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| {
            StoreError::Unavailable(format!("cannot create the database {}: {error}", path.display()).into())
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // NORMAL would keep the file whole but could forget the last revisions when power fails, and
            // they were acknowledged.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let writer = open_writer(&options).await?;
        migrate(&writer).await?;
        let readers = pool(READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers, sealed: Sealed::default() })
    }

    /// A transaction that takes the write lock at once: one that starts by reading and writes later would
    /// fail instead of waiting when another process wrote in between.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn append_revision(
        &self,
        gateway: &str,
        record: &RevisionRecord,
        rollout: Option<&RolloutRow>,
    ) -> Result<(), StoreError> {
        let record = self.sealed.record(gateway, record);
        let revision = &record.revision;
        let mut transaction = self.begin().await?;
        let moved = sqlx::query(sql::MOVE_HEAD)
            .bind(to_column(revision.number))
            .bind(gateway)
            .bind(to_column(revision.parent))
            .execute(&mut *transaction)
            .await?;
        if moved.rows_affected() == 0 {
            let head = sqlx::query_as(sql::HEAD).bind(gateway).fetch_optional(&mut *transaction).await?;
            return Err(StoreError::Conflict { head: head_from_row(gateway, head)?.revision });
        }
        for chunk in record.changes.chunks(CHUNK) {
            change_resources(&mut transaction, gateway, revision.number, chunk).await?;
        }
        sqlx::query(sql::ADD_REVISION)
            .bind(gateway)
            .bind(to_column(revision.number))
            .bind(to_column(revision.parent))
            .bind(&revision.author)
            .bind(&revision.message)
            .bind(revision.created_at)
            .bind(revision.digest.to_string())
            .bind(to_column(revision.change_count))
            .bind(changes::write(&record.changes))
            .execute(&mut *transaction)
            .await?;
        if let Some(rollout) = rollout {
            rollouts::change(ADD_ROLLOUT, rollout).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).idle_timeout(None).max_lifetime(None)
}

/// Opens the one connection that writes. Where several open a new file at once, SQLite does not let its change to a
/// write-ahead log wait as a statement would: the wait is here.
async fn open_writer(options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match pool(1).connect_with(options.clone()).await {
            Err(error) if is_locked(&error) && Instant::now() < deadline => tokio::time::sleep(LOCKED_RETRY).await,
            opened => return opened,
        }
    }
}

/// `SQLITE_BUSY`, the primary code: another connection holds the file.
fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "5")
}

/// Keys of certificates are stored in it, so nobody else may read the file. SQLite gives the same rights
/// to the files that it puts beside it.
fn create_private(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// sqlx locks nothing here; inside one immediate transaction a second process waits and then finds the work done.
async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let mut migrations: Migrator = sqlx::migrate!("../migrations/sqlite");
    // What a newer version added does not keep this one from running: see migrations/README.md.
    migrations.set_ignore_missing(true);
    migrations.run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
        MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => StoreError::Unreadable(error.to_string()),
        other => StoreError::Unavailable(Box::new(other)),
    })?;
    Ok(transaction.commit().await?)
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    fn seal_with(&self, key: Arc<SealingKey>) {
        self.sealed.begin(key);
    }

    async fn gateways(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT name FROM gateways ORDER BY name").fetch_all(&self.readers).await?)
    }

    async fn ensure_gateway(&self, gateway: &str) -> Result<(), StoreError> {
        sqlx::query(sql::ADD_GATEWAY).bind(gateway).execute(&self.writer).await?;
        Ok(())
    }

    async fn remove_empty_gateway(&self, gateway: &str) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let head = sqlx::query_as(sql::HEAD).bind(gateway).fetch_optional(&mut *transaction).await?;
        head_from_row(gateway, head)?;
        let used: bool = sqlx::query_scalar(sql::HAS_RESOURCES).bind(gateway).fetch_one(&mut *transaction).await?;
        if used {
            return Ok(false);
        }
        for removal in sql::REMOVE_GATEWAY {
            sqlx::query(removal).bind(gateway).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn head(&self, gateway: &str) -> Result<Head, StoreError> {
        let row = sqlx::query_as(sql::HEAD).bind(gateway).fetch_optional(&self.readers).await?;
        head_from_row(gateway, row)
    }

    async fn load(&self, gateway: &str) -> Result<Loaded, StoreError> {
        // Its first read fixes what the transaction sees.
        let mut snapshot = self.readers.begin().await?;
        let head = sqlx::query_as(sql::HEAD).bind(gateway).fetch_optional(&mut *snapshot).await?;
        let head = head_from_row(gateway, head)?;
        let rows: Vec<ResourceRow> = sqlx::query_as(sql::RESOURCES).bind(gateway).fetch_all(&mut *snapshot).await?;
        let resources = rows.into_iter().map(|row| {
            let (key, document) = resource_from_row(row)?;
            let document = self.sealed.open_document(gateway, &key, document)?;
            Ok((key, document))
        });
        let resources = resources.collect::<Result<_, StoreError>>()?;
        Ok(Loaded { head, resources })
    }

    async fn append(&self, gateway: &str, record: &RevisionRecord) -> Result<(), StoreError> {
        self.append_staged(gateway, record, None).await
    }

    async fn revision(&self, gateway: &str, number: u64) -> Result<Option<RevisionRecord>, StoreError> {
        let row: Option<RecordRow> =
            sqlx::query_as(sql::REVISION).bind(gateway).bind(to_column(number)).fetch_optional(&self.readers).await?;
        row.map(|row| self.sealed.open_record(gateway, record_from_row(row)?)).transpose()
    }

    async fn revisions(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>, StoreError> {
        let rows: Vec<RevisionRow> = sqlx::query_as(sql::REVISIONS)
            .bind(gateway)
            .bind(before.map_or(i64::MAX, to_column))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(revision_from_row).collect()
    }

    async fn changes_since(&self, gateway: &str, after: u64, limit: u32) -> Result<Vec<RevisionRecord>, StoreError> {
        let rows: Vec<RecordRow> = sqlx::query_as(sql::CHANGES_SINCE)
            .bind(gateway)
            .bind(to_column(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(|row| self.sealed.open_record(gateway, record_from_row(row)?)).collect()
    }

    async fn oldest_revision(&self, gateway: &str) -> Result<Option<u64>, StoreError> {
        let oldest: Option<i64> =
            sqlx::query_scalar(sql::OLDEST_REVISION).bind(gateway).fetch_one(&self.readers).await?;
        oldest.map(from_column).transpose()
    }

    async fn forget_revisions(&self, gateway: &str, before: u64, limit: u32) -> Result<u64, StoreError> {
        let forget = sqlx::query(sql::FORGET_REVISIONS).bind(gateway).bind(to_column(before)).bind(i64::from(limit));
        Ok(forget.execute(&self.writer).await?.rows_affected())
    }

    /// Nobody else is expected to write to the file; if somebody does, looking at the head tells.
    fn announcements(&self) -> BoxStream<'static, Announcement> {
        stream::pending().boxed()
    }

    async fn target_versions(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(sql::TARGET_VERSIONS).fetch_all(&self.readers).await?;
        rows.into_iter().map(|(gateway, version)| Ok((gateway, from_column(version)?))).collect()
    }

    async fn targets(&self, gateway: &str) -> Result<LoadedTargets, StoreError> {
        targets::load(&self.readers, gateway).await
    }

    async fn change_targets(&self, gateway: &str, after: u64, changes: &[TargetRecord]) -> Result<(), StoreError> {
        targets::change(self.begin().await?, gateway, after, changes).await
    }

    async fn target_changes_since(
        &self,
        gateway: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError> {
        let rows: Vec<TargetRecordRow> = sqlx::query_as(sql::TARGET_CHANGES_SINCE)
            .bind(gateway)
            .bind(to_column(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(target_record_from_row).collect()
    }

    async fn target_log(
        &self,
        gateway: &str,
        service: Option<&str>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError> {
        let statement = if service.is_some() { sql::TARGET_LOG_OF_SERVICE } else { sql::TARGET_LOG };
        let mut query =
            sqlx::query_as(statement).bind(gateway).bind(before.map_or(i64::MAX, to_column)).bind(i64::from(limit));
        if let Some(service) = service {
            query = query.bind(service);
        }
        let rows: Vec<TargetRecordRow> = query.fetch_all(&self.readers).await?;
        rows.into_iter().map(target_record_from_row).collect()
    }

    fn target_announcements(&self) -> BoxStream<'static, Announcement> {
        stream::pending().boxed()
    }

    fn shared_nodes(&self) -> Option<SharedNodes> {
        None
    }

    async fn keep_shared(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        sqlx::query(sql::ADD_SHARED).bind(name).bind(value).execute(&self.writer).await?;
        Ok(sqlx::query_scalar(sql::SHARED).bind(name).fetch_one(&self.writer).await?)
    }

    async fn swap_shared(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, StoreError> {
        let swapped = sqlx::query(sql::SWAP_SHARED).bind(name).bind(from).bind(to).execute(&self.writer).await?;
        Ok(swapped.rows_affected() == 1)
    }

    async fn add_token(&self, token: &StoredToken) -> Result<(), StoreError> {
        sqlx::query(sql::ADD_TOKEN)
            .bind(hash_to_column(&token.hash))
            .bind(token.role.as_str())
            .bind(&token.name)
            .bind(OffsetDateTime::now_utc())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        let rows = sqlx::query_as(sql::TOKENS).fetch_all(&self.readers).await?;
        rows.into_iter().map(token_from_row).collect()
    }

    async fn turn_ticket_keys(
        &self,
        gateway: &str,
        oldest: u64,
        fresh: &[TicketKey],
    ) -> Result<Vec<TicketKey>, StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query(sql::REMOVE_TICKET_KEYS).bind(gateway).bind(to_column(oldest)).execute(&mut *transaction).await?;
        for key in fresh {
            sqlx::query(sql::ADD_TICKET_KEY)
                .bind(gateway)
                .bind(to_column(key.period))
                .bind(self.sealed.ticket_key(gateway, key))
                .execute(&mut *transaction)
                .await?;
        }
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as(sql::TICKET_KEYS).bind(gateway).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        rows.into_iter()
            .map(|row| {
                let (period, stored) = ticket_key_from_row(row)?;
                self.sealed.open_ticket_key(gateway, period, stored)
            })
            .collect()
    }
}

/// Hands over many rows as one JSON parameter: one statement each would cost far more than the rows.
async fn change_resources(
    transaction: &mut Transaction<'static, Sqlite>,
    gateway: &str,
    number: u64,
    changes: &[ResourceChange],
) -> Result<(), StoreError> {
    let mut written = Vec::new();
    let mut removed = Vec::new();
    for ResourceChange { key, after, .. } in changes {
        match after {
            Some(document) => written.push((key.kind.singular(), &*key.name, document.created, &*document.spec)),
            None => removed.push((key.kind.singular(), &*key.name)),
        }
    }
    if !written.is_empty() {
        sqlx::query(
            "INSERT INTO resources (gateway, kind, name, created, updated, spec)
             SELECT ?, value->>0, value->>1, value->>2, ?, value->>3 FROM json_each(?) WHERE true
             ON CONFLICT (gateway, kind, name)
             DO UPDATE SET created = excluded.created, updated = excluded.updated, spec = excluded.spec",
        )
        .bind(gateway)
        .bind(to_column(number))
        .bind(serde_json::to_string(&written).expect("strings and numbers are JSON"))
        .execute(&mut **transaction)
        .await?;
    }
    if !removed.is_empty() {
        // CROSS JOIN makes SQLite start from the list and look each row up, rather than walk over all rows.
        sqlx::query(
            "DELETE FROM resources WHERE rowid IN (
                SELECT r.rowid FROM json_each(?) CROSS JOIN resources r
                WHERE r.gateway = ? AND r.kind = value->>0 AND r.name = value->>1)",
        )
        .bind(serde_json::to_string(&removed).expect("strings are JSON"))
        .bind(gateway)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
