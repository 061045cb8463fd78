//! What replicas tell one another about the nodes that are connected to them. It is no truth, only news: a
//! replica says all of it again when it is lost. Times are those of the database, whose clock all share.

use std::time::Duration;

use futures_util::stream::BoxStream;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::listen;
use crate::store::StoreError;

const CHANNEL: &str = "sluice_nodes";
/// News that takes longer is old; the next attempt brings newer.
const DEADLINE: Duration = Duration::from_secs(5);
/// A transaction may be seen by others so long after the time that it notes.
const OVERLAP: Duration = Duration::from_secs(1);
/// More nodes than one database is asked to serve.
const MAX_ROWS: i64 = 20_000;

/// The nodes of all replicas, in the database that they share.
#[derive(Clone)]
pub struct SharedNodes {
    pool: PgPool,
}

/// What a replica says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNews {
    pub gateway: String,
    pub node_id: String,
    pub connected: bool,
    /// The node has come to this replica since the last news; what other replicas say of it is over.
    pub has_come: bool,
    /// JSON.
    pub status: String,
}

/// What another replica said of a node.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SharedNode {
    pub gateway: String,
    pub node_id: String,
    pub replica: String,
    pub connected: bool,
    /// When this was said.
    pub changed_at: OffsetDateTime,
    /// When the replica last said that it still holds.
    pub last_seen: OffsetDateTime,
    /// The replica has not said so for [`SharedNodes::SILENCE`].
    pub is_silent: bool,
    pub status: String,
}

impl SharedNodes {
    /// A replica that says nothing for so long is gone. It is written out in the statements.
    pub const SILENCE: Duration = Duration::from_secs(15);

    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Says what is new, and that there is something new. Nobody overwrites what a replica says of a node that
    /// is connected to it, until the node comes to another one.
    pub async fn put(&self, replica: &str, news: &[NodeNews]) -> Result<(), StoreError> {
        let texts = |of: fn(&NodeNews) -> &str| news.iter().map(of).collect::<Vec<_>>();
        let flags = |of: fn(&NodeNews) -> bool| news.iter().map(of).collect::<Vec<_>>();
        let put = sqlx::query(
            "WITH come AS (
                SELECT * FROM UNNEST($2::text[], $3::text[], $4::bool[], $5::bool[], $6::text[])
                AS t (gateway, node_id, connected, has_come, status)
             ), put AS (
                INSERT INTO nodes AS n (gateway, node_id, replica, connected, changed_at, last_seen, status)
                SELECT gateway, node_id, $1, connected, now(), now(), status FROM come ORDER BY gateway, node_id
                ON CONFLICT (gateway, node_id) DO UPDATE SET replica = excluded.replica,
                    connected = excluded.connected, changed_at = now(), last_seen = now(), status = excluded.status
                WHERE n.replica = excluded.replica
                    OR (excluded.connected AND (NOT n.connected OR n.last_seen < now() - interval '15 seconds'))
                    OR EXISTS (SELECT FROM come c
                        WHERE c.gateway = n.gateway AND c.node_id = n.node_id AND c.has_come)
                RETURNING 1
             )
             SELECT pg_notify($7, $1) FROM (SELECT count(*) AS rows FROM put) AS c WHERE c.rows > 0",
        )
        .bind(replica)
        .bind(texts(|node| &node.gateway))
        .bind(texts(|node| &node.node_id))
        .bind(flags(|node| node.connected))
        .bind(flags(|node| node.has_come))
        .bind(texts(|node| &node.status))
        .bind(CHANNEL);
        bounded(async { Ok(put.execute(&self.pool).await.map(drop)?) }).await
    }

    /// Says that everything the replica said of connected nodes still holds; of how many. Forgets what is old.
    pub async fn confirm(&self, replica: &str) -> Result<u64, StoreError> {
        bounded(async {
            let confirmed = sqlx::query("UPDATE nodes SET last_seen = now() WHERE replica = $1 AND connected")
                .bind(replica)
                .execute(&self.pool)
                .await?;
            sqlx::query(
                "DELETE FROM nodes WHERE last_seen < now() - interval '1 hour' OR (gateway, node_id) IN (
                    SELECT gateway, node_id FROM nodes
                    WHERE NOT connected OR last_seen < now() - interval '5 minutes'
                    ORDER BY last_seen DESC OFFSET 1000)",
            )
            .execute(&self.pool)
            .await?;
            Ok(confirmed.rows_affected())
        })
        .await
    }

    /// What replicas other than `replica` say: all of it, or what they said since a time that an earlier answer
    /// showed, and a little before.
    pub async fn others(&self, replica: &str, since: Option<OffsetDateTime>) -> Result<Vec<SharedNode>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT gateway, node_id, replica, connected, changed_at, last_seen,
                last_seen < now() - interval '15 seconds' AS is_silent, status
             FROM nodes WHERE replica <> $1 AND ($2::timestamptz IS NULL OR changed_at >= $2)
             ORDER BY last_seen DESC LIMIT $3",
        )
        .bind(replica)
        .bind(since.map(|since| since - OVERLAP))
        .bind(MAX_ROWS);
        bounded(async { Ok(rows.fetch_all(&self.pool).await?) }).await
    }

    /// Hints that a replica, whose name comes, has said something new. They may be late, lost or wrong. The
    /// stream does not end.
    #[must_use]
    pub fn hints(&self) -> BoxStream<'static, String> {
        listen::payloads(self.pool.clone(), CHANNEL)
    }
}

async fn bounded<T>(operation: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
    super::within(DEADLINE, operation).await
}
