//! What the API does when something behind it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use http::Method;
use model::sealing::SealingKey;
use serde_json::json;
use time::OffsetDateTime;

use super::harness::{Api, GATEWAY};
use crate::store::{
    Announcement, Enrolments, Head, JoinToken, Loaded, LoadedTargets, NodeIdentity, Revision, RevisionRecord,
    RolloutRow, Rollouts, SharedNodes, Store, StoreError, StoredToken, TargetRecord, TicketKey,
};

/// How a [`Faulty`] store behaves.
const WORKS: u8 = 0;
const IS_AWAY: u8 = 1;
const PANICS: u8 = 2;

/// A store that can be made to fail.
struct Faulty {
    store: Arc<dyn Store>,
    state: Arc<AtomicU8>,
}

impl Faulty {
    fn store(&self) -> Result<&dyn Store, StoreError> {
        match self.state.load(Ordering::SeqCst) {
            IS_AWAY => Err(StoreError::Unavailable("the password is opensesame".into())),
            PANICS => panic!("the password is opensesame"),
            _ => Ok(&*self.store),
        }
    }
}

#[async_trait]
impl Enrolments for Faulty {
    async fn add_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
        self.store()?.add_join_token(token).await
    }

    async fn join_tokens(&self, gateway: &str) -> Result<Vec<JoinToken>, StoreError> {
        self.store()?.join_tokens(gateway).await
    }

    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>, StoreError> {
        self.store()?.join_token(hash).await
    }

    async fn take_join_token(&self, id: &str) -> Result<bool, StoreError> {
        self.store()?.take_join_token(id).await
    }

    async fn revoke_join_token(&self, gateway: &str, id: &str, at: OffsetDateTime) -> Result<bool, StoreError> {
        self.store()?.revoke_join_token(gateway, id, at).await
    }

    async fn node_identities(&self, gateway: &str) -> Result<Vec<NodeIdentity>, StoreError> {
        self.store()?.node_identities(gateway).await
    }

    async fn node_identity(&self, gateway: &str, node_id: &str) -> Result<Option<NodeIdentity>, StoreError> {
        self.store()?.node_identity(gateway, node_id).await
    }

    async fn put_node_identity(&self, node: &NodeIdentity) -> Result<bool, StoreError> {
        self.store()?.put_node_identity(node).await
    }

    async fn revoke_node(&self, gateway: &str, node_id: &str, at: OffsetDateTime) -> Result<bool, StoreError> {
        self.store()?.revoke_node(gateway, node_id, at).await
    }

    async fn revoked_nodes(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.store()?.revoked_nodes().await
    }

    async fn forget_enrolments(&self, before: OffsetDateTime) -> Result<(), StoreError> {
        self.store()?.forget_enrolments(before).await
    }

    fn revocations(&self) -> BoxStream<'static, ()> {
        self.store.revocations()
    }
}

#[async_trait]
impl Rollouts for Faulty {
    async fn append_staged(
        &self,
        gateway: &str,
        record: &RevisionRecord,
        rollout: Option<&RolloutRow>,
    ) -> Result<(), StoreError> {
        self.store()?.append_staged(gateway, record, rollout).await
    }

    async fn open_rollouts(&self) -> Result<Vec<RolloutRow>, StoreError> {
        self.store()?.open_rollouts().await
    }

    async fn rollouts_at(&self, gateway: &str, revision: u64) -> Result<Vec<RolloutRow>, StoreError> {
        self.store()?.rollouts_at(gateway, revision).await
    }

    async fn rollouts(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<RolloutRow>, StoreError> {
        self.store()?.rollouts(gateway, before, limit).await
    }

    async fn change_rollout(&self, rollout: &RolloutRow) -> Result<bool, StoreError> {
        self.store()?.change_rollout(rollout).await
    }

    async fn rollout_strategy(&self, gateway: &str) -> Result<Option<String>, StoreError> {
        self.store()?.rollout_strategy(gateway).await
    }

    async fn set_rollout_strategy(&self, gateway: &str, strategy: Option<&str>) -> Result<bool, StoreError> {
        self.store()?.set_rollout_strategy(gateway, strategy).await
    }
}

#[async_trait]
impl Store for Faulty {
    async fn ping(&self) -> Result<(), StoreError> {
        self.store()?.ping().await
    }

    fn seal_with(&self, key: Arc<SealingKey>) {
        self.store.seal_with(key);
    }

    async fn gateways(&self) -> Result<Vec<String>, StoreError> {
        self.store()?.gateways().await
    }

    async fn ensure_gateway(&self, gateway: &str) -> Result<(), StoreError> {
        self.store()?.ensure_gateway(gateway).await
    }

    async fn remove_empty_gateway(&self, gateway: &str) -> Result<bool, StoreError> {
        self.store()?.remove_empty_gateway(gateway).await
    }

    async fn head(&self, gateway: &str) -> Result<Head, StoreError> {
        self.store()?.head(gateway).await
    }

    async fn load(&self, gateway: &str) -> Result<Loaded, StoreError> {
        self.store()?.load(gateway).await
    }

    async fn append(&self, gateway: &str, record: &RevisionRecord) -> Result<(), StoreError> {
        self.store()?.append(gateway, record).await
    }

    async fn revision(&self, gateway: &str, number: u64) -> Result<Option<RevisionRecord>, StoreError> {
        self.store()?.revision(gateway, number).await
    }

    async fn oldest_revision(&self, gateway: &str) -> Result<Option<u64>, StoreError> {
        self.store()?.oldest_revision(gateway).await
    }

    async fn forget_revisions(&self, gateway: &str, before: u64, limit: u32) -> Result<u64, StoreError> {
        self.store()?.forget_revisions(gateway, before, limit).await
    }

    async fn revisions(&self, gateway: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>, StoreError> {
        self.store()?.revisions(gateway, before, limit).await
    }

    async fn changes_since(&self, gateway: &str, after: u64, limit: u32) -> Result<Vec<RevisionRecord>, StoreError> {
        self.store()?.changes_since(gateway, after, limit).await
    }

    fn announcements(&self) -> BoxStream<'static, Announcement> {
        self.store.announcements()
    }

    async fn target_versions(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.store()?.target_versions().await
    }

    async fn targets(&self, gateway: &str) -> Result<LoadedTargets, StoreError> {
        self.store()?.targets(gateway).await
    }

    async fn change_targets(&self, gateway: &str, after: u64, changes: &[TargetRecord]) -> Result<(), StoreError> {
        self.store()?.change_targets(gateway, after, changes).await
    }

    async fn target_changes_since(
        &self,
        gateway: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError> {
        self.store()?.target_changes_since(gateway, after, limit).await
    }

    async fn target_log(
        &self,
        gateway: &str,
        service: Option<&str>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<TargetRecord>, StoreError> {
        self.store()?.target_log(gateway, service, before, limit).await
    }

    fn target_announcements(&self) -> BoxStream<'static, Announcement> {
        self.store.target_announcements()
    }

    fn shared_nodes(&self) -> Option<SharedNodes> {
        self.store.shared_nodes()
    }

    async fn keep_shared(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.store()?.keep_shared(name, value).await
    }

    async fn swap_shared(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, StoreError> {
        self.store()?.swap_shared(name, from, to).await
    }

    async fn add_token(&self, token: &StoredToken) -> Result<(), StoreError> {
        self.store()?.add_token(token).await
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        self.store()?.tokens().await
    }

    async fn turn_ticket_keys(
        &self,
        gateway: &str,
        oldest: u64,
        fresh: &[TicketKey],
    ) -> Result<Vec<TicketKey>, StoreError> {
        self.store()?.turn_ticket_keys(gateway, oldest, fresh).await
    }
}

async fn faulty_api() -> (Api, Arc<AtomicU8>) {
    let state = Arc::new(AtomicU8::new(WORKS));
    let faults = state.clone();
    (Api::start_with(|store| Arc::new(Faulty { store, state: faults })).await, state)
}

#[tokio::test]
async fn without_the_database_it_reads_on_and_refuses_writes() {
    let (api, state) = faulty_api().await;
    api.put_service("a").await;
    state.store(IS_AWAY, Ordering::SeqCst);
    api.get("services/a").await.expect(200);
    api.get("services").await.expect(200);
    api.get("services/a/targets").await.expect(200);
    api.get("config").await.expect(200);
    api.get("nodes").await.expect(200);
    let body = json!({ "url": "http://127.0.0.1:9" });
    for answer in [
        api.put("services/b", body.clone()).await,
        api.delete("services/a").await,
        api.post("revisions/1:rollback").await,
        api.put("services/a/targets/127.0.0.1:10", json!({})).await,
        api.get("target-changes").await,
        api.get("revisions").await,
        api.get("revisions/1/diff").await,
        api.call(Method::GET, GATEWAY).header("authorization", "Bearer nobody").send().await,
    ] {
        let answer = answer.expect_error(503, "store-unavailable");
        assert!(answer.header("retry-after").parse::<u32>().is_ok());
        assert!(!answer.text().contains("opensesame"), "{}", answer.text());
    }
    let ready = api.call(Method::GET, "/readyz").send().await.expect(503);
    assert!(!ready.text().contains("opensesame"), "{}", ready.text());
    api.call(Method::GET, "/livez").send().await.expect(200);
    state.store(WORKS, Ordering::SeqCst);
    api.call(Method::GET, "/readyz").send().await.expect(200);
    assert_eq!(api.put("services/b", body).await.expect(201).revision(), 2);
}

#[tokio::test]
async fn a_defect_is_a_500_that_tells_nothing() {
    let (api, state) = faulty_api().await;
    api.put_service("a").await;
    state.store(PANICS, Ordering::SeqCst);
    for answer in [api.get("revisions").await, api.put("services/b", json!({ "url": "http://127.0.0.1:9" })).await] {
        let answer = answer.expect_error(500, "internal");
        assert!(!answer.text().contains("opensesame"), "{}", answer.text());
    }
    state.store(WORKS, Ordering::SeqCst);
    api.put_service("b").await;
}
