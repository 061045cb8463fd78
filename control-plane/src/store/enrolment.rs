//! What both databases keep of nodes that join: tokens, and who came with them. Statements are the same for both; each
//! is whole by itself.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use super::StoreError;

/// The part of a store that is about nodes that join.
#[async_trait]
pub trait Enrolments: Send + Sync {
    async fn add_join_token(&self, token: &JoinToken) -> Result<(), StoreError>;

    /// Those of a gateway, the oldest first.
    async fn join_tokens(&self, gateway: &str) -> Result<Vec<JoinToken>, StoreError>;

    /// The one whose secret has this hash.
    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, StoreError>;

    /// Counts one use; false, and nothing is counted, if none is left or the token was revoked.
    async fn take_join_token(&self, id: &str) -> Result<bool, StoreError>;

    /// False if there is no such token.
    async fn revoke_join_token(&self, gateway: &str, id: &str, at: OffsetDateTime) -> Result<bool, StoreError>;

    /// The nodes of a gateway that have joined, by their ids.
    async fn node_identities(&self, gateway: &str) -> Result<Vec<NodeIdentity>, StoreError>;

    async fn node_identity(&self, gateway: &str, node_id: &str) -> Result<Option<NodeIdentity>, StoreError>;

    /// Keeps it in the place of what was known of the node; false, and nothing is kept, if that one was revoked.
    async fn put_node_identity(&self, node: &NodeIdentity) -> Result<bool, StoreError>;

    /// False if no such node has joined.
    async fn revoke_node(&self, gateway: &str, node_id: &str, at: OffsetDateTime) -> Result<bool, StoreError>;

    /// Gateway and id of every node that was revoked.
    async fn revoked_nodes(&self) -> Result<Vec<(String, String)>, StoreError>;

    /// Hints that another control plane revoked a node; what holds for [`super::Store::announcements`] holds for them.
    fn revocations(&self) -> BoxStream<'static, ()>;

    /// Forgets tokens and nodes whose time was over before then.
    async fn forget_enrolments(&self, before: OffsetDateTime) -> Result<(), StoreError>;
}

/// What is kept of a join token.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct JoinToken {
    /// What people call it by.
    pub id: String,
    /// SHA-256 of its secret.
    pub hash: Vec<u8>,
    pub gateway: String,
    /// How many nodes may join with it, and how many still may.
    #[sqlx(try_from = "i64")]
    pub uses: u32,
    #[sqlx(try_from = "i64")]
    pub uses_left: u32,
    /// Who made it.
    pub author: String,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
}

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct NodeIdentity {
    pub gateway: String,
    pub node_id: String,
    /// The id of the token that it joined with.
    pub join_token: String,
    /// SHA-256 of its public key.
    pub key_hash: Vec<u8>,
    pub enrolled_at: OffsetDateTime,
    /// When its newest certificate ends.
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
}

pub(super) const ADD_TOKEN: &str =
    "INSERT INTO join_tokens (id, hash, gateway, uses, uses_left, author, created_at, expires_at, revoked_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
pub(super) const TOKENS: &str = "SELECT * FROM join_tokens WHERE gateway = $1 ORDER BY created_at, id";
pub(super) const TOKEN: &str = "SELECT * FROM join_tokens WHERE hash = $1";
pub(super) const TAKE_USE: &str = "UPDATE join_tokens SET uses_left = uses_left - 1
    WHERE id = $1 AND uses_left > 0 AND revoked_at IS NULL";
pub(super) const REVOKE_TOKEN: &str = "UPDATE join_tokens SET revoked_at = coalesce(revoked_at, $3)
    WHERE gateway = $1 AND id = $2";
pub(super) const IDENTITIES: &str = "SELECT * FROM node_identities WHERE gateway = $1 ORDER BY node_id";
pub(super) const IDENTITY: &str = "SELECT * FROM node_identities WHERE gateway = $1 AND node_id = $2";
/// A node that was revoked stays so.
pub(super) const PUT_IDENTITY: &str =
    "INSERT INTO node_identities (gateway, node_id, join_token, key_hash, enrolled_at, expires_at, revoked_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (gateway, node_id) DO UPDATE SET join_token = excluded.join_token, key_hash = excluded.key_hash,
        enrolled_at = excluded.enrolled_at, expires_at = excluded.expires_at
    WHERE node_identities.revoked_at IS NULL";
pub(super) const REVOKE_NODE: &str = "UPDATE node_identities SET revoked_at = coalesce(revoked_at, $3)
    WHERE gateway = $1 AND node_id = $2";
pub(super) const REVOKED: &str = "SELECT gateway, node_id FROM node_identities WHERE revoked_at IS NOT NULL";
/// Nobody can show a token or a certificate that ended before then.
pub(super) const FORGET: [&str; 2] =
    ["DELETE FROM join_tokens WHERE expires_at < $1", "DELETE FROM node_identities WHERE expires_at < $1"];
