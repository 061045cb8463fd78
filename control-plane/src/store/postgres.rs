//! The store in PostgreSQL, shared by any number of control planes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use model::sealing::SealingKey;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use time::OffsetDateTime;

use super::rollouts::ADD as ADD_ROLLOUT;
use crate::metrics::COUNTED;

use super::rows::{
    RecordRow, ResourceRow, RevisionRow, TargetRecordRow, from_column, hash_to_column, head_from_row, record_from_row,
    resource_from_row, revision_from_row, target_record_from_row, ticket_key_from_row, to_column, token_from_row,
};
use super::sealed::Sealed;
use super::{
    Announcement, Head, Loaded, LoadedTargets, ResourceChange, Revision, RevisionRecord, RolloutRow, Rollouts as _,
    Store, StoreError, StoredToken, TargetRecord, TicketKey, changes, sql,
};

mod enrolment;
mod listen;
mod nodes;
mod rollouts;
mod targets;

pub use nodes::{NodeNews, SharedNode, SharedNodes};

const CONNECTIONS: u32 = 10;
/// How long an operation waits for a connection before it says that the database does not answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// No operation takes longer, also when the network swallows packets.
const DEADLINE: Duration = Duration::from_secs(60);
const CHANNEL: &str = "sluice_revisions";
const TARGET_CHANNEL: &str = "sluice_targets";

/// See the head of this file.
pub struct PostgresStore {
    pool: PgPool,
    sealed: Sealed,
}

impl PostgresStore {
    /// Connects and brings the tables up to date.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let options = url.parse::<PgConnectOptions>()?.application_name("sluice");
        // Not from the pool, which would try for a while and then not say what was wrong.
        let connecting = within(ACQUIRE_TIMEOUT, async { Ok(options.connect().await?) });
        let mut connection = connecting.await?;
        // sqlx holds an advisory lock meanwhile, so replicas that start together go one by one.
        let mut migrations: Migrator = sqlx::migrate!("../migrations/postgres");
        // What a newer version added does not keep this one from running: see migrations/README.md.
        migrations.set_ignore_missing(true);
        migrations.run_direct(None, &mut connection, false).await.map_err(|error| match error {
            MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => StoreError::Unreadable(error.to_string()),
            other => StoreError::Unavailable(Box::new(other)),
        })?;
        connection.close().await?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        Ok(Self { pool: pool.connect_lazy_with(options), sealed: Sealed::default() })
    }
}

pub(super) fn describe(url: &str) -> String {
    let Ok(options) = url.parse::<PgConnectOptions>() else { return "with a malformed postgres:// URL".to_owned() };
    let database = options.get_database().unwrap_or(options.get_username());
    format!("`{database}` on {}:{} as `{}`", options.get_host(), options.get_port(), options.get_username())
}

/// Gives up on `operation` after [`DEADLINE`].
async fn bounded<T>(operation: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
    within(DEADLINE, operation).await
}

async fn within<T>(
    deadline: Duration,
    operation: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, operation).await {
        Ok(result) => result,
        Err(elapsed) => {
            COUNTED.store_errors.inc();
            Err(StoreError::Unavailable(Box::new(elapsed)))
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), StoreError> {
        bounded(async {
            sqlx::query("SELECT 1").execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    fn seal_with(&self, key: Arc<SealingKey>) {
        self.sealed.begin(key);
    }

    async fn gateways(&self) -> Result<Vec<String>, StoreError> {
        bounded(async {
            let names = sqlx::query_scalar("SELECT name FROM gateways ORDER BY name COLLATE \"C\"");
            Ok(names.fetch_all(&self.pool).await?)
        })
        .await
    }

    async fn ensure_gateway(&self, gateway: &str) -> Result<(), StoreError> {
        bounded(async {
            let insert = sqlx::query(sql::ADD_GATEWAY);
            insert.bind(gateway).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn remove_empty_gateway(&self, gateway: &str) -> Result<bool, StoreError> {
        bounded(async {
            let mut transaction = self.pool.begin().await?;
            // Whoever appends a revision waits for the row, and then finds it gone.
            let head: Option<i64> = sqlx::query_scalar("SELECT head FROM gateways WHERE name = $1 FOR UPDATE")
                .bind(gateway)
                .fetch_optional(&mut *transaction)
                .await?;
            if head.is_none() {
                return Err(StoreError::UnknownGateway(gateway.to_owned()));
            }
            let used: bool = sqlx::query_scalar(sql::HAS_RESOURCES).bind(gateway).fetch_one(&mut *transaction).await?;
            if used {
                return Ok(false);
            }
            for removal in sql::REMOVE_GATEWAY {
                sqlx::query(removal).bind(gateway).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn head(&self, gateway: &str) -> Result<Head, StoreError> {
        bounded(async {
            let row = sqlx::query_as(sql::HEAD).bind(gateway).fetch_optional(&self.pool).await?;
            head_from_row(gateway, row)
        })
        .await
    }

    async fn load(&self, gateway: &str) -> Result<Loaded, StoreError> {
        bounded(async {
            let mut snapshot = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
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
        })
        .await
    }

    async fn append(&self, gateway: &str, record: &RevisionRecord) -> Result<(), StoreError> {
        self.append_staged(gateway, record, None).await
    }

    async fn revision(&self, gateway: &str, number: u64) -> Result<Option<RevisionRecord>, StoreError> {
        bounded(async {
            let row: Option<RecordRow> =
                sqlx::query_as(sql::REVISION).bind(gateway).bind(to_column(number)).fetch_optional(&self.pool).await?;
            row.map(|row| self.sealed.open_record(gateway, record_from_row(row)?)).transpose()
        })
        .await
    }

    async fn revisions(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>, StoreError> {
        bounded(async {
            let rows: Vec<RevisionRow> = sqlx::query_as(sql::REVISIONS)
                .bind(gateway)
                .bind(before.map_or(i64::MAX, to_column))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            rows.into_iter().map(revision_from_row).collect()
        })
        .await
    }

    async fn changes_since(&self, gateway: &str, after: u64, limit: u32) -> Result<Vec<RevisionRecord>, StoreError> {
        bounded(async {
            let rows: Vec<RecordRow> = sqlx::query_as(sql::CHANGES_SINCE)
                .bind(gateway)
                .bind(to_column(after))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            rows.into_iter().map(|row| self.sealed.open_record(gateway, record_from_row(row)?)).collect()
        })
        .await
    }

    async fn oldest_revision(&self, gateway: &str) -> Result<Option<u64>, StoreError> {
        bounded(async {
            let oldest: Option<i64> =
                sqlx::query_scalar(sql::OLDEST_REVISION).bind(gateway).fetch_one(&self.pool).await?;
            oldest.map(from_column).transpose()
        })
        .await
    }

    async fn forget_revisions(&self, gateway: &str, before: u64, limit: u32) -> Result<u64, StoreError> {
        bounded(async {
            let forget =
                sqlx::query(sql::FORGET_REVISIONS).bind(gateway).bind(to_column(before)).bind(i64::from(limit));
            Ok(forget.execute(&self.pool).await?.rows_affected())
        })
        .await
    }

    fn announcements(&self) -> BoxStream<'static, Announcement> {
        let payloads = listen::payloads(self.pool.clone(), CHANNEL);
        payloads.filter_map(async |payload| read_announcement(&payload)).boxed()
    }

    async fn target_versions(&self) -> Result<Vec<(String, u64)>, StoreError> {
        bounded(async {
            let rows: Vec<(String, i64)> = sqlx::query_as(sql::TARGET_VERSIONS).fetch_all(&self.pool).await?;
            rows.into_iter().map(|(gateway, version)| Ok((gateway, from_column(version)?))).collect()
        })
        .await
    }

    async fn targets(&self, gateway: &str) -> Result<LoadedTargets, StoreError> {
        bounded(targets::load(&self.pool, gateway)).await
    }

    async fn change_targets(&self, gateway: &str, after: u64, changes: &[TargetRecord]) -> Result<(), StoreError> {
        bounded(targets::change(&self.pool, gateway, after, changes)).await
    }

    async fn target_changes_since(
        &self,
        gateway: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError> {
        bounded(async {
            let rows: Vec<TargetRecordRow> = sqlx::query_as(sql::TARGET_CHANGES_SINCE)
                .bind(gateway)
                .bind(to_column(after))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            rows.into_iter().map(target_record_from_row).collect()
        })
        .await
    }

    async fn target_log(
        &self,
        gateway: &str,
        service: Option<&str>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError> {
        bounded(async {
            let statement = if service.is_some() { sql::TARGET_LOG_OF_SERVICE } else { sql::TARGET_LOG };
            let mut query =
                sqlx::query_as(statement).bind(gateway).bind(before.map_or(i64::MAX, to_column)).bind(i64::from(limit));
            if let Some(service) = service {
                query = query.bind(service);
            }
            let rows: Vec<TargetRecordRow> = query.fetch_all(&self.pool).await?;
            rows.into_iter().map(target_record_from_row).collect()
        })
        .await
    }

    fn target_announcements(&self) -> BoxStream<'static, Announcement> {
        let payloads = listen::payloads(self.pool.clone(), TARGET_CHANNEL);
        payloads.filter_map(async |payload| read_announcement(&payload)).boxed()
    }

    fn shared_nodes(&self) -> Option<SharedNodes> {
        Some(SharedNodes::new(self.pool.clone()))
    }

    async fn keep_shared(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        bounded(async {
            sqlx::query(sql::ADD_SHARED).bind(name).bind(value).execute(&self.pool).await?;
            Ok(sqlx::query_scalar(sql::SHARED).bind(name).fetch_one(&self.pool).await?)
        })
        .await
    }

    async fn swap_shared(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, StoreError> {
        bounded(async {
            let swap = sqlx::query(sql::SWAP_SHARED).bind(name).bind(from).bind(to);
            Ok(swap.execute(&self.pool).await?.rows_affected() == 1)
        })
        .await
    }

    async fn add_token(&self, token: &StoredToken) -> Result<(), StoreError> {
        bounded(async {
            sqlx::query(sql::ADD_TOKEN)
                .bind(hash_to_column(&token.hash))
                .bind(token.role.as_str())
                .bind(&token.name)
                .bind(OffsetDateTime::now_utc())
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        bounded(async {
            let rows = sqlx::query_as(sql::TOKENS).fetch_all(&self.pool).await?;
            rows.into_iter().map(token_from_row).collect()
        })
        .await
    }

    async fn turn_ticket_keys(
        &self,
        gateway: &str,
        oldest: u64,
        fresh: &[TicketKey],
    ) -> Result<Vec<TicketKey>, StoreError> {
        bounded(async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query(sql::REMOVE_TICKET_KEYS)
                .bind(gateway)
                .bind(to_column(oldest))
                .execute(&mut *transaction)
                .await?;
            for key in fresh {
                // Waits for a replica that does the same, and then finds that one's.
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
        })
        .await
    }
}

async fn append(
    pool: &PgPool,
    gateway: &str,
    record: &RevisionRecord,
    rollout: Option<&RolloutRow>,
) -> Result<(), StoreError> {
    let revision = &record.revision;
    let mut transaction = pool.begin().await?;
    // Waits for a writer who is ahead, and then finds that the head is no longer the parent.
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
    change_resources(&mut transaction, gateway, revision.number, &record.changes).await?;
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
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(format!("{gateway} {}", revision.number))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

async fn change_resources(
    transaction: &mut Transaction<'static, Postgres>,
    gateway: &str,
    number: u64,
    changes: &[ResourceChange],
) -> Result<(), StoreError> {
    let (mut kinds, mut names, mut created, mut specs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut removed_kinds, mut removed_names) = (Vec::new(), Vec::new());
    for ResourceChange { key, after, .. } in changes {
        if let Some(document) = after {
            kinds.push(key.kind.singular());
            names.push(key.name.as_str());
            created.push(to_column(document.created));
            specs.push(&*document.spec);
        } else {
            removed_kinds.push(key.kind.singular());
            removed_names.push(key.name.as_str());
        }
    }
    if !kinds.is_empty() {
        sqlx::query(
            "INSERT INTO resources (gateway, kind, name, created, updated, spec)
             SELECT $1, t.kind, t.name, t.created, $2, t.spec
             FROM UNNEST($3::text[], $4::text[], $5::bigint[], $6::text[]) AS t (kind, name, created, spec)
             ON CONFLICT (gateway, kind, name)
             DO UPDATE SET created = excluded.created, updated = excluded.updated, spec = excluded.spec",
        )
        .bind(gateway)
        .bind(to_column(number))
        .bind(kinds)
        .bind(names)
        .bind(created)
        .bind(specs)
        .execute(&mut **transaction)
        .await?;
    }
    if !removed_kinds.is_empty() {
        sqlx::query(
            "DELETE FROM resources r USING UNNEST($2::text[], $3::text[]) AS t (kind, name)
             WHERE r.gateway = $1 AND r.kind = t.kind AND r.name = t.name",
        )
        .bind(gateway)
        .bind(removed_kinds)
        .bind(removed_names)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

fn read_announcement(payload: &str) -> Option<Announcement> {
    let (gateway, number) = payload.split_once(' ')?;
    Some(Announcement { gateway: gateway.to_owned(), number: number.parse().ok()? })
}
