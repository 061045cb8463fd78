//! Nodes that join, in PostgreSQL.

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use time::OffsetDateTime;

use super::{PostgresStore, bounded, listen};
use crate::store::{Enrolments, JoinToken, NodeIdentity, StoreError, enrolment};

const REVOCATION_CHANNEL: &str = "sluice_revocations";

#[async_trait]
impl Enrolments for PostgresStore {
    async fn add_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
        bounded(async {
            sqlx::query(enrolment::ADD_TOKEN)
                .bind(&token.id)
                .bind(&token.hash)
                .bind(&token.gateway)
                .bind(i64::from(token.uses))
                .bind(i64::from(token.uses_left))
                .bind(&token.author)
                .bind(token.created_at)
                .bind(token.expires_at)
                .bind(token.revoked_at)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    async fn join_tokens(&self, gateway: &str) -> Result<Vec<JoinToken>, StoreError> {
        bounded(async { Ok(sqlx::query_as(enrolment::TOKENS).bind(gateway).fetch_all(&self.pool).await?) }).await
    }

    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, StoreError> {
        bounded(async { Ok(sqlx::query_as(enrolment::TOKEN).bind(&hash[..]).fetch_optional(&self.pool).await?) }).await
    }

    async fn take_join_token(&self, id: &str) -> Result<bool, StoreError> {
        bounded(async {
            let taken = sqlx::query(enrolment::TAKE_USE).bind(id).execute(&self.pool).await?;
            Ok(taken.rows_affected() == 1)
        })
        .await
    }

    async fn revoke_join_token(&self, gateway: &str, id: &str, at: OffsetDateTime) -> Result<bool, StoreError> {
        bounded(async {
            let revoke = sqlx::query(enrolment::REVOKE_TOKEN).bind(gateway).bind(id).bind(at);
            Ok(revoke.execute(&self.pool).await?.rows_affected() == 1)
        })
        .await
    }

    async fn node_identities(&self, gateway: &str) -> Result<Vec<NodeIdentity>, StoreError> {
        bounded(async { Ok(sqlx::query_as(enrolment::IDENTITIES).bind(gateway).fetch_all(&self.pool).await?) }).await
    }

    async fn node_identity(&self, gateway: &str, node_id: &str) -> Result<Option<NodeIdentity>, StoreError> {
        bounded(async {
            let identity = sqlx::query_as(enrolment::IDENTITY).bind(gateway).bind(node_id);
            Ok(identity.fetch_optional(&self.pool).await?)
        })
        .await
    }

    async fn put_node_identity(&self, node: &NodeIdentity) -> Result<bool, StoreError> {
        bounded(async {
            let put = sqlx::query(enrolment::PUT_IDENTITY)
                .bind(&node.gateway)
                .bind(&node.node_id)
                .bind(&node.join_token)
                .bind(&node.key_hash)
                .bind(node.enrolled_at)
                .bind(node.expires_at)
                .bind(node.revoked_at);
            Ok(put.execute(&self.pool).await?.rows_affected() == 1)
        })
        .await
    }

    async fn revoke_node(&self, gateway: &str, node_id: &str, at: OffsetDateTime) -> Result<bool, StoreError> {
        bounded(async {
            let revoke = sqlx::query(enrolment::REVOKE_NODE).bind(gateway).bind(node_id).bind(at);
            let revoked = revoke.execute(&self.pool).await?.rows_affected() == 1;
            sqlx::query("SELECT pg_notify($1, '')").bind(REVOCATION_CHANNEL).execute(&self.pool).await?;
            Ok(revoked)
        })
        .await
    }

    async fn revoked_nodes(&self) -> Result<Vec<(String, String)>, StoreError> {
        bounded(async { Ok(sqlx::query_as(enrolment::REVOKED).fetch_all(&self.pool).await?) }).await
    }

    fn revocations(&self) -> BoxStream<'static, ()> {
        listen::payloads(self.pool.clone(), REVOCATION_CHANNEL).map(drop).boxed()
    }

    async fn forget_enrolments(&self, before: OffsetDateTime) -> Result<(), StoreError> {
        bounded(async {
            for forget in enrolment::FORGET {
                sqlx::query(forget).bind(before).execute(&self.pool).await?;
            }
            Ok(())
        })
        .await
    }
}
