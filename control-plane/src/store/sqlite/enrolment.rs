//! Nodes that join, in SQLite.

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use time::OffsetDateTime;

use super::SqliteStore;
use crate::store::{Enrolments, JoinToken, NodeIdentity, StoreError, enrolment};

#[async_trait]
impl Enrolments for SqliteStore {
    async fn add_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
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
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn join_tokens(&self, gateway: &str) -> Result<Vec<JoinToken>, StoreError> {
        Ok(sqlx::query_as(enrolment::TOKENS).bind(gateway).fetch_all(&self.readers).await?)
    }

    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, StoreError> {
        Ok(sqlx::query_as(enrolment::TOKEN).bind(&hash[..]).fetch_optional(&self.readers).await?)
    }

    async fn take_join_token(&self, id: &str) -> Result<bool, StoreError> {
        let taken = sqlx::query(enrolment::TAKE_USE).bind(id).execute(&self.writer).await?;
        Ok(taken.rows_affected() == 1)
    }

    async fn revoke_join_token(&self, gateway: &str, id: &str, at: OffsetDateTime) -> Result<bool, StoreError> {
        let revoke = sqlx::query(enrolment::REVOKE_TOKEN).bind(gateway).bind(id).bind(at);
        Ok(revoke.execute(&self.writer).await?.rows_affected() == 1)
    }

    async fn node_identities(&self, gateway: &str) -> Result<Vec<NodeIdentity>, StoreError> {
        Ok(sqlx::query_as(enrolment::IDENTITIES).bind(gateway).fetch_all(&self.readers).await?)
    }

    async fn node_identity(&self, gateway: &str, node_id: &str) -> Result<Option<NodeIdentity>, StoreError> {
        let identity = sqlx::query_as(enrolment::IDENTITY).bind(gateway).bind(node_id);
        Ok(identity.fetch_optional(&self.readers).await?)
    }

    async fn put_node_identity(&self, node: &NodeIdentity) -> Result<bool, StoreError> {
        let put = sqlx::query(enrolment::PUT_IDENTITY)
            .bind(&node.gateway)
            .bind(&node.node_id)
            .bind(&node.join_token)
            .bind(&node.key_hash)
            .bind(node.enrolled_at)
            .bind(node.expires_at)
            .bind(node.revoked_at);
        Ok(put.execute(&self.writer).await?.rows_affected() == 1)
    }

    async fn revoke_node(&self, gateway: &str, node_id: &str, at: OffsetDateTime) -> Result<bool, StoreError> {
        let revoke = sqlx::query(enrolment::REVOKE_NODE).bind(gateway).bind(node_id).bind(at);
        let revoked = revoke.execute(&self.writer).await?.rows_affected() == 1;
        Ok(revoked)
    }

    async fn revoked_nodes(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(sqlx::query_as(enrolment::REVOKED).fetch_all(&self.readers).await?)
    }

    fn revocations(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }

    async fn forget_enrolments(&self, before: OffsetDateTime) -> Result<(), StoreError> {
        for forget in enrolment::FORGET {
            sqlx::query(forget).bind(before).execute(&self.writer).await?;
        }
        Ok(())
    }
}
