//! What a store keeps of rollouts.

use control_plane::store::{self, RolloutRow, StoreError};

use crate::{GATEWAY, put, record};

fn row(revision: u64) -> RolloutRow {
    let (gateway, document) = (GATEWAY.to_owned(), r#"{"state":"running"}"#.to_owned());
    RolloutRow { gateway, revision, version: 1, is_open: true, ended_by: 0, document }
}

pub async fn a_rollout_is_stored_with_its_revision_or_not_at_all(url: String) {
    let store = store::open(&url).await.expect("a store");
    store.ensure_gateway(GATEWAY).await.expect("a gateway");
    let first = record(0, vec![put("a", 1, "{}")]);
    store.append_staged(GATEWAY, &first, Some(&row(1))).await.expect("0 is the head");
    let late = store.append_staged(GATEWAY, &first, Some(&row(1))).await.expect_err("the head is 1");
    assert!(matches!(late, StoreError::Conflict { head: 1 }), "{late}");
    store.append_staged(GATEWAY, &record(1, vec![put("a", 1, "{}")]), None).await.expect("1 is the head");
    assert_eq!(store.open_rollouts().await.expect("rollouts"), [row(1)]);
    assert_eq!(store.rollouts_at(GATEWAY, 1).await.expect("rollouts"), [row(1)]);
    assert_eq!(store.rollouts_at(GATEWAY, 2).await.expect("rollouts"), []);

    let done = RolloutRow { version: 2, is_open: false, ended_by: 2, ..row(1) };
    assert!(store.change_rollout(&done).await.expect("a change"));
    assert_eq!(store.open_rollouts().await.expect("rollouts"), []);
    assert_eq!(
        store.rollouts_at(GATEWAY, 2).await.expect("rollouts"),
        std::slice::from_ref(&done),
        "what ended it leads to it"
    );
    store.append_staged(GATEWAY, &record(2, vec![put("a", 1, "{}")]), Some(&row(3))).await.expect("2 is the head");
    assert_eq!(store.rollouts(GATEWAY, None, 10).await.expect("rollouts"), [row(3), done.clone()]);
    assert_eq!(store.rollouts(GATEWAY, Some(3), 10).await.expect("rollouts"), [done]);
    assert_eq!(store.rollouts("other", None, 10).await.expect("rollouts"), []);

    assert_eq!(store.rollout_strategy(GATEWAY).await.expect("none"), None);
    for strategy in ["{}", r#"{"steps":[]}"#] {
        assert!(store.set_rollout_strategy(GATEWAY, Some(strategy)).await.expect("it is kept"));
        assert_eq!(store.rollout_strategy(GATEWAY).await.expect("one").as_deref(), Some(strategy));
    }
    assert!(store.set_rollout_strategy(GATEWAY, None).await.expect("it is taken away"));
    assert!(!store.set_rollout_strategy(GATEWAY, None).await.expect("there is none"));
}

pub async fn of_changes_of_a_rollout_one_wins(url: String) {
    let store = store::open(&url).await.expect("a store");
    store.ensure_gateway(GATEWAY).await.expect("a gateway");
    store.append_staged(GATEWAY, &record(0, vec![put("a", 1, "{}")]), Some(&row(1))).await.expect("0 is the head");
    let (one, two) = (store::open(&url).await.expect("a store"), store::open(&url).await.expect("a store"));
    for version in 2..20 {
        let change = |by: &str| RolloutRow { version, document: format!(r#"{{"by":"{by}"}}"#), ..row(1) };
        let (one_does, two_does) = (change("one"), change("two"));
        let (one, two) = tokio::join!(one.change_rollout(&one_does), two.change_rollout(&two_does));
        let (one, two) = (one.expect("it answers"), two.expect("it answers"));
        assert!(one != two, "exactly one");
        let kept = store.rollouts_at(GATEWAY, 1).await.expect("rollouts");
        assert_eq!(kept, [if one { one_does } else { two_does }]);
    }
}
