//! The lane of targets in PostgreSQL. Its writers wait for one another at the row of its head, and nobody else does.

use sqlx::{PgPool, Postgres, Transaction};

use super::TARGET_CHANNEL;
use crate::store::rows::{TargetRow, last_of_each, target_from_row, target_version_from_row, to_column};
use crate::store::{LoadedTargets, StoreError, TARGET_CHANGES_KEPT, TargetRecord, sql};

pub async fn load(pool: &PgPool, gateway: &str) -> Result<LoadedTargets, StoreError> {
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    let row = sqlx::query_as(sql::TARGET_VERSION).bind(gateway).fetch_optional(&mut *snapshot).await?;
    let version = target_version_from_row(gateway, row)?;
    let rows: Vec<TargetRow> = sqlx::query_as(sql::TARGETS).bind(gateway).fetch_all(&mut *snapshot).await?;
    let targets = rows.into_iter().map(target_from_row).collect::<Result<_, _>>()?;
    Ok(LoadedTargets { version, targets })
}

pub async fn change(pool: &PgPool, gateway: &str, after: u64, changes: &[TargetRecord]) -> Result<(), StoreError> {
    let newest = after + changes.len() as u64;
    let mut transaction = pool.begin().await?;
    if after == 0 && is_known(&mut transaction, gateway).await? {
        sqlx::query(sql::ADD_TARGET_HEAD).bind(gateway).execute(&mut *transaction).await?;
    }
    let moved = sqlx::query(sql::MOVE_TARGET_HEAD)
        .bind(to_column(newest))
        .bind(gateway)
        .bind(to_column(after))
        .execute(&mut *transaction)
        .await?;
    if moved.rows_affected() == 0 {
        let row = sqlx::query_as(sql::TARGET_VERSION).bind(gateway).fetch_optional(&mut *transaction).await?;
        return Err(StoreError::Conflict { head: target_version_from_row(gateway, row)? });
    }
    keep(&mut transaction, gateway, changes).await?;
    log(&mut transaction, gateway, changes).await?;
    if let Some(forgotten) = newest.checked_sub(TARGET_CHANGES_KEPT) {
        let forget = sqlx::query(sql::FORGET_TARGET_CHANGES).bind(gateway).bind(to_column(forgotten));
        forget.execute(&mut *transaction).await?;
    }
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(TARGET_CHANNEL)
        .bind(format!("{gateway} {newest}"))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

async fn is_known(transaction: &mut Transaction<'static, Postgres>, gateway: &str) -> Result<bool, StoreError> {
    let known = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM gateways WHERE name = $1)").bind(gateway);
    Ok(known.fetch_one(&mut **transaction).await?)
}

/// What is said afterwards.
async fn keep(
    transaction: &mut Transaction<'static, Postgres>,
    gateway: &str,
    changes: &[TargetRecord],
) -> Result<(), StoreError> {
    let (said, unsaid) = last_of_each(changes);
    if !said.is_empty() {
        sqlx::query(
            "INSERT INTO targets (gateway, service, target, version, spec)
             SELECT $1, t.service, t.target, t.version, t.spec
             FROM UNNEST($2::text[], $3::text[], $4::bigint[], $5::text[]) AS t (service, target, version, spec)
             ON CONFLICT (gateway, service, target) DO UPDATE SET version = excluded.version, spec = excluded.spec",
        )
        .bind(gateway)
        .bind(said.iter().map(|change| &*change.service).collect::<Vec<_>>())
        .bind(said.iter().map(|change| &*change.target).collect::<Vec<_>>())
        .bind(said.iter().map(|change| to_column(change.version)).collect::<Vec<_>>())
        .bind(said.iter().map(|change| change.spec.as_deref()).collect::<Vec<_>>())
        .execute(&mut **transaction)
        .await?;
    }
    if !unsaid.is_empty() {
        sqlx::query(
            "DELETE FROM targets r USING UNNEST($2::text[], $3::text[]) AS t (service, target)
             WHERE r.gateway = $1 AND r.service = t.service AND r.target = t.target",
        )
        .bind(gateway)
        .bind(unsaid.iter().map(|change| &*change.service).collect::<Vec<_>>())
        .bind(unsaid.iter().map(|change| &*change.target).collect::<Vec<_>>())
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

async fn log(
    transaction: &mut Transaction<'static, Postgres>,
    gateway: &str,
    changes: &[TargetRecord],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO target_changes (gateway, version, service, target, spec, author, created_at)
         SELECT $1, t.version, t.service, t.target, t.spec, t.author, t.created_at
         FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
             AS t (version, service, target, spec, author, created_at)",
    )
    .bind(gateway)
    .bind(changes.iter().map(|change| to_column(change.version)).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| &*change.service).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| &*change.target).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| change.spec.as_deref()).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| &*change.author).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| change.created_at).collect::<Vec<_>>())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
