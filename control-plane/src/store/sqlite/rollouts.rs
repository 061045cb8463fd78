//! Rollouts in SQLite.

use async_trait::async_trait;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use super::SqliteStore;
use crate::store::rollouts::{self, RolloutRow, Rollouts};
use crate::store::rows::to_column;
use crate::store::{RevisionRecord, StoreError};

#[async_trait]
impl Rollouts for SqliteStore {
    async fn append_staged(
        &self,
        gateway: &str,
        record: &RevisionRecord,
        rollout: Option<&RolloutRow>,
    ) -> Result<(), StoreError> {
        self.append_revision(gateway, record, rollout).await
    }

    async fn open_rollouts(&self) -> Result<Vec<RolloutRow>, StoreError> {
        Ok(sqlx::query_as(rollouts::OPEN).fetch_all(&self.readers).await?)
    }

    async fn rollouts_at(&self, gateway: &str, revision: u64) -> Result<Vec<RolloutRow>, StoreError> {
        let rollouts = sqlx::query_as(rollouts::AT).bind(gateway).bind(to_column(revision));
        Ok(rollouts.fetch_all(&self.readers).await?)
    }

    async fn rollouts(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<RolloutRow>, StoreError> {
        let before = before.map_or(i64::MAX, to_column);
        let rollouts = sqlx::query_as(rollouts::NEWEST).bind(gateway).bind(before).bind(i64::from(limit));
        Ok(rollouts.fetch_all(&self.readers).await?)
    }

    async fn change_rollout(&self, rollout: &RolloutRow) -> Result<bool, StoreError> {
        let change = change(rollouts::CHANGE, rollout);
        Ok(change.execute(&self.writer).await?.rows_affected() == 1)
    }

    async fn rollout_strategy(&self, gateway: &str) -> Result<Option<String>, StoreError> {
        let strategy = sqlx::query_scalar(rollouts::STRATEGY).bind(gateway);
        Ok(strategy.fetch_optional(&self.readers).await?)
    }

    async fn set_rollout_strategy(&self, gateway: &str, strategy: Option<&str>) -> Result<bool, StoreError> {
        let change = match strategy {
            Some(strategy) => sqlx::query(rollouts::SET_STRATEGY).bind(gateway).bind(strategy),
            None => sqlx::query(rollouts::REMOVE_STRATEGY).bind(gateway),
        };
        Ok(change.execute(&self.writer).await?.rows_affected() == 1)
    }
}

/// A statement with everything of a rollout.
pub(super) fn change<'q>(statement: &'static str, rollout: &'q RolloutRow) -> Query<'q, Sqlite, SqliteArguments> {
    sqlx::query(statement)
        .bind(&rollout.gateway)
        .bind(to_column(rollout.revision))
        .bind(to_column(rollout.version))
        .bind(rollout.is_open)
        .bind(to_column(rollout.ended_by))
        .bind(&rollout.document)
}
