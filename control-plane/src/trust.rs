//! Whom the control plane trusts and who trusts it: what seals the secrets in the store, the authority that certifies
//! nodes, and how nodes come and go.
//!
//! From the outside in: master keys come from the operator ([`master_key`]); they seal one key in the store, which seals
//! everything else there ([`seal`]); the authority ([`authority`]) lies sealed in the store, so that all replicas are one, also
//! while another takes its place ([`authorities`]).

use std::sync::Arc;
use std::time::Duration;

use model::sealing::SealingKey;
use time::OffsetDateTime;

use crate::settings::AuthorityFiles;
use crate::store::{Store, StoreError};

pub mod authorities;
pub mod authority;
pub mod enrolment;
pub mod master_key;
pub mod revocations;
pub mod seal;
pub mod shown;

use authorities::Authorities;
use enrolment::Enrolment;
use revocations::Revocations;

/// Certificates are good for so long, unless something else is said.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Who is let in, and who no longer.
pub struct Trust {
    store: Arc<dyn Store>,
    pub enrolment: Enrolment,
    pub revocations: Arc<Revocations>,
}

impl Trust {
    /// Has an authority: that of the store, or of files.
    pub async fn start(
        store: Arc<dyn Store>,
        seal: Arc<SealingKey>,
        files: Option<&AuthorityFiles>,
        lifetime: Duration,
    ) -> Result<Arc<Self>, TrustError> {
        let now = OffsetDateTime::now_utc();
        let authorities = Authorities::open(store.clone(), seal, files, lifetime, now).await?;
        let revocations = Revocations::start(store.clone()).await?;
        let enrolment = Enrolment::new(store.clone(), authorities, lifetime);
        Ok(Arc::new(Self { store, enrolment, revocations }))
    }

    /// Lets a node in no more; its stream ends at once, on every replica. False if no such node has joined.
    pub async fn revoke_node(&self, gateway: &str, node_id: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        let revoked = self.store.revoke_node(gateway, node_id, now).await?;
        self.revocations.refresh().await?;
        if revoked {
            tracing::info!(node.id = node_id, gateway, "a node was revoked");
        }
        Ok(revoked)
    }

    /// Lets nobody in with a token any more, and revokes those who came with it if that is asked for. False if there is
    /// no such token.
    pub async fn revoke_token(
        &self,
        gateway: &str,
        id: &str,
        with_nodes: bool,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        // First: nobody joins while nodes are looked for.
        if !self.store.revoke_join_token(gateway, id, now).await? {
            return Ok(false);
        }
        tracing::info!(gateway, "the join token {id} was revoked");
        if with_nodes {
            let joined = self.store.node_identities(gateway).await?;
            for node in joined.iter().filter(|node| node.join_token == id) {
                self.revoke_node(gateway, &node.node_id, now).await?;
            }
        }
        Ok(true)
    }

    #[must_use]
    pub fn authorities(&self) -> &Arc<Authorities> {
        self.enrolment.authorities()
    }
}

/// Why there is nothing to trust by.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    MasterKey(#[from] master_key::MasterKeyError),
    #[error(
        "what is stored was sealed with the master key {sealed_with}, and this control plane has {}: give it that key too, \
         as a further line of its master keys",
        ids(known)
    )]
    WrongMasterKey { sealed_with: String, known: Vec<String> },
    #[error("cannot use the authority in {path}: {reason}")]
    AuthorityFile { path: String, reason: String },
    #[error("cannot use the stored authority: {0}")]
    Authority(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn ids(known: &[String]) -> String {
    known.join(", ")
}
