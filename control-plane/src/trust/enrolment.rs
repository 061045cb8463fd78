//! How nodes come: with a token that an operator made, once, and from then on with the certificate that they got for it.
//!
//! A node shows a token and a signing request and gets a certificate that is good for a day or so; before it ends, the
//! node asks for the next one with the one that it has. Nothing of it needs a decision of an operator but the token.

use std::sync::Arc;
use std::time::Duration;

use model::digest::sha256;
use model::sealing::new_secret;
use proto::join::{JoinToken, NodeName};
use rustls::pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::authorities::Authorities;
use super::master_key::hexadecimal;
use crate::store::{self, NodeIdentity, Store, StoreError};

/// How long the store remembers tokens and nodes whose time is over.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
/// So many hexadecimal digits of the hash of a token tell it from all others.
const ID_DIGITS: usize = 12;

/// See the head of this file.
pub struct Enrolment {
    store: Arc<dyn Store>,
    authorities: Arc<Authorities>,
    /// How long a certificate is good.
    lifetime: Duration,
}

/// What a node gets.
#[derive(Debug)]
pub struct Certified {
    pub certificate: CertificateDer<'static>,
    pub authority: CertificateDer<'static>,
}

/// Why a node gets no certificate. It is told so.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("its join token is not known here")]
    UnknownToken,
    #[error("its join token ended at {}", clock(*.0))]
    TokenEnded(OffsetDateTime),
    #[error("its join token is used up: {0} joined with it")]
    TokenUsedUp(u32),
    #[error("its join token was revoked")]
    TokenRevoked,
    #[error("the node `{0}` was revoked; to let it in again, empty its data folder and give it a new join token")]
    NodeRevoked(String),
    #[error("`{0}` is no id for a node: letters, digits, `-`, `_` and `.`, at most 128")]
    NodeId(String),
    #[error("its signing request is none: {0}")]
    Request(rcgen::Error),
    #[error("the control plane cannot look up nodes at present")]
    Store(#[from] StoreError),
}

/// Whether nodes may still join with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "JoinTokenState")]
pub enum State {
    Usable,
    UsedUp,
    Ended,
    Revoked,
}

impl State {
    #[must_use]
    pub fn of(token: &store::JoinToken, now: OffsetDateTime) -> Self {
        match token {
            token if token.revoked_at.is_some() => Self::Revoked,
            token if token.expires_at <= now => Self::Ended,
            token if token.uses_left == 0 => Self::UsedUp,
            _ => Self::Usable,
        }
    }
}

impl Enrolment {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, authorities: Arc<Authorities>, lifetime: Duration) -> Self {
        Self { store, authorities, lifetime }
    }

    #[must_use]
    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.authorities
    }

    /// Makes a token with which so many nodes may join a gateway.
    pub async fn make_token(
        &self,
        gateway: &str,
        lifetime: Duration,
        uses: u32,
        author: String,
        now: OffsetDateTime,
    ) -> Result<(store::JoinToken, JoinToken), StoreError> {
        let token =
            JoinToken { gateway: gateway.to_owned(), secret: new_secret(), pin: self.authorities.now().first().pin() };
        let hash = sha256(&token.secret);
        let kept = store::JoinToken {
            id: hexadecimal(&hash)[..ID_DIGITS].to_owned(),
            hash: hash.to_vec(),
            gateway: gateway.to_owned(),
            uses,
            uses_left: uses,
            author,
            created_at: now,
            expires_at: now + lifetime,
            revoked_at: None,
        };
        self.store.forget_enrolments(now - REMEMBERED).await?;
        self.store.add_join_token(&kept).await?;
        Ok((kept, token))
    }

    /// Lets a node in. A node that asks again, because it did not hear the answer, takes no second use.
    pub async fn enrol(
        &self,
        secret: &[u8],
        node_id: &str,
        request: &[u8],
        now: OffsetDateTime,
    ) -> Result<(NodeName, Certified), Refusal> {
        if !NodeName::may_be_called(node_id) {
            return Err(Refusal::NodeId(node_id.chars().filter(|c| !c.is_control()).take(128).collect()));
        }
        let token = self.store.join_token(&sha256(secret)).await?.ok_or(Refusal::UnknownToken)?;
        match State::of(&token, now) {
            State::Revoked => return Err(Refusal::TokenRevoked),
            State::Ended => return Err(Refusal::TokenEnded(token.expires_at)),
            // Whether it is used up depends on who asks.
            State::UsedUp | State::Usable => {}
        }
        let node = NodeName { gateway: token.gateway, node_id: node_id.to_owned() };
        let (certified, key_hash) = self.certify(request, &node, now)?;
        let known = self.store.node_identity(&node.gateway, node_id).await?;
        let is_repeated = known.is_some_and(|known| known.join_token == token.id && known.key_hash == key_hash);
        if !is_repeated && !self.store.take_join_token(&token.id).await? {
            return Err(Refusal::TokenUsedUp(token.uses));
        }
        self.keep(&node, token.id, key_hash, now).await?;
        Ok((node, certified))
    }

    /// The next certificate of a node that showed the one it has.
    pub async fn renew(&self, node: &NodeName, request: &[u8], now: OffsetDateTime) -> Result<Certified, Refusal> {
        let (certified, key_hash) = self.certify(request, node, now)?;
        // It is not there after the store came back from an older backup.
        let known = self.store.node_identity(&node.gateway, &node.node_id).await?;
        let join_token = known.map(|known| known.join_token).unwrap_or_default();
        self.keep(node, join_token, key_hash, now).await?;
        Ok(certified)
    }

    fn certify(&self, request: &[u8], node: &NodeName, now: OffsetDateTime) -> Result<(Certified, Vec<u8>), Refusal> {
        let trusted = self.authorities.now();
        let certificate = trusted.first().certify(request, node, now, self.lifetime).map_err(Refusal::Request)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).expect("the authority makes good certificates");
        let key_hash = sha256(parsed.public_key().raw).to_vec();
        let authority = trusted.first().certificate().clone();
        Ok((Certified { certificate, authority }, key_hash))
    }

    async fn keep(
        &self,
        node: &NodeName,
        join_token: String,
        key_hash: Vec<u8>,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let identity = NodeIdentity {
            gateway: node.gateway.clone(),
            node_id: node.node_id.clone(),
            join_token,
            key_hash,
            enrolled_at: now,
            expires_at: now + self.lifetime,
            revoked_at: None,
        };
        match self.store.put_node_identity(&identity).await? {
            true => Ok(()),
            false => Err(Refusal::NodeRevoked(node.node_id.clone())),
        }
    }
}

/// A time as people read it.
pub fn clock(time: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use model::sealing::{KEY_BYTES, SealingKey};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::store::SqliteStore;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 12:00 UTC);

    struct World {
        enrolment: Enrolment,
        store: Arc<dyn Store>,
        _folder: tempfile::TempDir,
    }

    async fn world() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&folder.path().join("sluice.db")).await.expect("a store"));
        store.ensure_gateway("edge").await.expect("it answers");
        let seal = Arc::new(SealingKey::new(&[7; KEY_BYTES]));
        let authorities = Authorities::open(store.clone(), seal, None, 24 * HOUR, NOW).await.expect("they are made");
        let enrolment = Enrolment::new(store.clone(), authorities, 24 * HOUR);
        World { enrolment, store, _folder: folder }
    }

    impl World {
        async fn token(&self, uses: u32) -> (String, [u8; 32]) {
            let made = self.enrolment.make_token("edge", HOUR, uses, "a test".to_owned(), NOW).await;
            let (kept, token) = made.expect("it answers");
            (kept.id, token.secret)
        }

        async fn enrol(&self, secret: [u8; 32], node: &str, key: &KeyPair, now: OffsetDateTime) -> Result<(), String> {
            let enrolled = self.enrolment.enrol(&secret, node, &request(key), now).await;
            enrolled.map(|(name, _)| assert_eq!(name.gateway, "edge")).map_err(|refusal| refusal.to_string())
        }
    }

    fn key() -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).expect("a request").der().to_vec()
    }

    #[tokio::test]
    async fn so_many_nodes_join_as_a_token_has_uses_and_who_asks_again_counts_once() {
        let world = world().await;
        let (_, secret) = world.token(2).await;
        let first = key();
        for _ in 0..3 {
            world.enrol(secret, "a", &first, NOW).await.expect("it may ask again");
        }
        world.enrol(secret, "b", &key(), NOW).await.expect("there is one left");
        world.enrol(secret, "a", &first, NOW).await.expect("it is in already");
        for (node, key) in [("c", key()), ("a", key())] {
            let refused = world.enrol(secret, node, &key, NOW).await.expect_err("none is left");
            assert!(refused.contains("used up") && refused.contains('2'), "{refused}");
        }
        assert_eq!(world.store.node_identities("edge").await.expect("it answers").len(), 2);
    }

    #[tokio::test]
    async fn a_token_ends_and_may_be_revoked_and_must_be_known() {
        let world = world().await;
        let (id, secret) = world.token(9).await;
        let says = async |secret, node: &str, now| world.enrol(secret, node, &key(), now).await.expect_err("refused");
        assert!(says(secret, "a", NOW + HOUR).await.contains("2026-11-24 13:00:00"));
        assert!(says([0; 32], "a", NOW).await.contains("not known"));
        assert!(says(secret, "a/../b", NOW).await.contains("no id"));
        world.enrol(secret, "a", &key(), NOW + HOUR / 2).await.expect("it is in time");
        assert!(world.store.revoke_join_token("edge", &id, NOW).await.expect("it answers"));
        assert!(says(secret, "b", NOW).await.contains("revoked"));
    }

    #[tokio::test]
    async fn a_revoked_node_neither_renews_nor_joins_again_by_its_id() {
        let world = world().await;
        let (_, secret) = world.token(9).await;
        let (key, name) = (key(), NodeName { gateway: "edge".to_owned(), node_id: "a".to_owned() });
        world.enrol(secret, "a", &key, NOW).await.expect("it is let in");
        let later = NOW + 16 * HOUR;
        world.enrolment.renew(&name, &request(&key), later).await.expect("it is good");
        let known = world.store.node_identity("edge", "a").await.expect("it answers").expect("it is there");
        assert_eq!(known.expires_at, later + 24 * HOUR);
        assert!(world.store.revoke_node("edge", "a", later).await.expect("it answers"));
        let refused = world.enrolment.renew(&name, &request(&key), later).await.expect_err("it is revoked");
        assert!(matches!(refused, Refusal::NodeRevoked(_)), "{refused}");
        let refused = world.enrol(secret, "a", &key, NOW).await.expect_err("it is revoked");
        assert!(refused.contains("revoked"), "{refused}");
    }
}
