//! What both databases keep of rollouts: which there are, and how changes of a gateway go out by default. What a document
//! says is a matter of [`crate::rollout`].

use async_trait::async_trait;

use super::{RevisionRecord, StoreError};

/// The part of a store that is about rollouts.
#[async_trait]
pub trait Rollouts: Send + Sync {
    /// [`super::Store::append`] with the rollout of the revision, in the same transaction.
    async fn append_staged(
        &self,
        gateway: &str,
        record: &RevisionRecord,
        rollout: Option<&RolloutRow>,
    ) -> Result<(), StoreError>;

    /// Those that are open, of all gateways.
    async fn open_rollouts(&self) -> Result<Vec<RolloutRow>, StoreError>;

    /// Those that a revision began or ended.
    async fn rollouts_at(&self, gateway: &str, revision: u64) -> Result<Vec<RolloutRow>, StoreError>;

    /// The newest, of those before `before` if that is given.
    async fn rollouts(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<RolloutRow>, StoreError>;

    /// Puts it in the place of the version before; false, and nothing is changed, if that is another one by now.
    async fn change_rollout(&self, rollout: &RolloutRow) -> Result<bool, StoreError>;

    /// How changes of the gateway go out by default: a strategy as JSON.
    async fn rollout_strategy(&self, gateway: &str) -> Result<Option<String>, StoreError>;

    /// Sets it, or takes it away; false if there was none to take away.
    async fn set_rollout_strategy(&self, gateway: &str, strategy: Option<&str>) -> Result<bool, StoreError>;
}

/// What is kept of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RolloutRow {
    pub gateway: String,
    /// The revision that goes out.
    #[sqlx(try_from = "i64")]
    pub revision: u64,
    /// Counts changes, from 1.
    #[sqlx(try_from = "i64")]
    pub version: u64,
    pub is_open: bool,
    /// The revision that took its place; 0 for none.
    #[sqlx(try_from = "i64")]
    pub ended_by: u64,
    /// JSON.
    pub document: String,
}

pub(super) const OPEN: &str = "SELECT gateway, revision, version, is_open, coalesce(ended_by, 0) AS ended_by, document
    FROM rollouts WHERE is_open ORDER BY gateway, revision";
pub(super) const AT: &str = "SELECT gateway, revision, version, is_open, coalesce(ended_by, 0) AS ended_by, document
    FROM rollouts WHERE gateway = $1 AND (revision = $2 OR ended_by = $2) ORDER BY revision";
pub(super) const NEWEST: &str =
    "SELECT gateway, revision, version, is_open, coalesce(ended_by, 0) AS ended_by, document
    FROM rollouts WHERE gateway = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3";
pub(super) const ADD: &str = "INSERT INTO rollouts (gateway, revision, version, is_open, ended_by, document)
    VALUES ($1, $2, $3, $4, nullif($5, 0), $6)";
pub(super) const CHANGE: &str =
    "UPDATE rollouts SET version = $3, is_open = $4, ended_by = nullif($5, 0), document = $6
    WHERE gateway = $1 AND revision = $2 AND version = $3 - 1";
pub(super) const STRATEGY: &str = "SELECT strategy FROM rollout_strategies WHERE gateway = $1";
pub(super) const SET_STRATEGY: &str = "INSERT INTO rollout_strategies (gateway, strategy) VALUES ($1, $2)
    ON CONFLICT (gateway) DO UPDATE SET strategy = excluded.strategy";
pub(super) const REMOVE_STRATEGY: &str = "DELETE FROM rollout_strategies WHERE gateway = $1";
