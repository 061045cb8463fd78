//! The lane of targets in SQLite. Rows are handed over as one JSON parameter, as with resources.

use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::store::rows::{TargetRow, last_of_each, target_from_row, target_version_from_row, to_column};
use crate::store::{LoadedTargets, StoreError, TARGET_CHANGES_KEPT, TargetRecord, sql};

const JSON: &str = "strings and numbers are JSON";

pub async fn load(readers: &SqlitePool, gateway: &str) -> Result<LoadedTargets, StoreError> {
    // Its first read fixes what the transaction sees.
    let mut snapshot = readers.begin().await?;
    let row = sqlx::query_as(sql::TARGET_VERSION).bind(gateway).fetch_optional(&mut *snapshot).await?;
    let version = target_version_from_row(gateway, row)?;
    let rows: Vec<TargetRow> = sqlx::query_as(sql::TARGETS).bind(gateway).fetch_all(&mut *snapshot).await?;
    let targets = rows.into_iter().map(target_from_row).collect::<Result<_, _>>()?;
    Ok(LoadedTargets { version, targets })
}

/// `transaction` holds the write lock.
pub async fn change(
    mut transaction: Transaction<'static, Sqlite>,
    gateway: &str,
    after: u64,
    changes: &[TargetRecord],
) -> Result<(), StoreError> {
    let newest = after + changes.len() as u64;
    let row = sqlx::query_as(sql::TARGET_VERSION).bind(gateway).fetch_optional(&mut *transaction).await?;
    let head = target_version_from_row(gateway, row)?;
    if head != after {
        return Err(StoreError::Conflict { head });
    }
    sqlx::query(sql::ADD_TARGET_HEAD).bind(gateway).execute(&mut *transaction).await?;
    sqlx::query(sql::MOVE_TARGET_HEAD)
        .bind(to_column(newest))
        .bind(gateway)
        .bind(to_column(after))
        .execute(&mut *transaction)
        .await?;
    let (said, unsaid) = last_of_each(changes);
    let said: Vec<_> =
        said.iter().map(|change| (&change.service, &change.target, change.version, &change.spec)).collect();
    sqlx::query(
        "INSERT INTO targets (gateway, service, target, version, spec)
         SELECT ?, value->>0, value->>1, value->>2, value->>3 FROM json_each(?) WHERE true
         ON CONFLICT (gateway, service, target) DO UPDATE SET version = excluded.version, spec = excluded.spec",
    )
    .bind(gateway)
    .bind(serde_json::to_string(&said).expect(JSON))
    .execute(&mut *transaction)
    .await?;
    let unsaid: Vec<_> = unsaid.iter().map(|change| (&change.service, &change.target)).collect();
    // CROSS JOIN makes SQLite start from the list and look each row up.
    sqlx::query(
        "DELETE FROM targets WHERE rowid IN (
            SELECT r.rowid FROM json_each(?) CROSS JOIN targets r
            WHERE r.gateway = ? AND r.service = value->>0 AND r.target = value->>1)",
    )
    .bind(serde_json::to_string(&unsaid).expect(JSON))
    .bind(gateway)
    .execute(&mut *transaction)
    .await?;
    log(&mut transaction, gateway, changes).await?;
    if let Some(forgotten) = newest.checked_sub(TARGET_CHANGES_KEPT) {
        let forget = sqlx::query(sql::FORGET_TARGET_CHANGES).bind(gateway).bind(to_column(forgotten));
        forget.execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// One statement for each: times have a form of their own, which is that of the driver.
async fn log(
    transaction: &mut Transaction<'static, Sqlite>,
    gateway: &str,
    changes: &[TargetRecord],
) -> Result<(), StoreError> {
    for TargetRecord { version, service, target, spec, author, created_at } in changes {
        sqlx::query(
            "INSERT INTO target_changes (gateway, version, service, target, spec, author, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(gateway)
        .bind(to_column(*version))
        .bind(service)
        .bind(target)
        .bind(spec)
        .bind(author)
        .bind(created_at)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
