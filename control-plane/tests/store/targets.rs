//! What a store keeps of the lane of targets.

use control_plane::store::{LoadedTargets, Store, StoreError, TARGET_CHANGES_KEPT, TargetRecord};
use futures_util::future::join_all;
use time::OffsetDateTime;

use super::{GATEWAY, open};

fn said(version: u64, target: &str, spec: Option<&str>) -> TargetRecord {
    TargetRecord {
        version,
        service: if target.starts_with('b') { "blog" } else { "shop" }.to_owned(),
        target: target.to_owned(),
        spec: spec.map(str::to_owned),
        author: format!("author {version}"),
        created_at: OffsetDateTime::from_unix_timestamp(1_790_000_000).expect("a time"),
    }
}

/// What is said, in the order of versions.
async fn loaded(store: &dyn Store, gateway: &str) -> (u64, Vec<(u64, String, String, String)>) {
    let LoadedTargets { version, targets } = store.targets(gateway).await.expect("it can be loaded");
    let mut targets: Vec<_> =
        targets.into_iter().map(|target| (target.version, target.service, target.target, target.spec)).collect();
    targets.sort();
    (version, targets)
}

pub async fn what_is_said_about_targets_is_kept_with_who_said_it(url: String) {
    let store = open(&url).await;
    store.ensure_gateway("edge").await.expect("there may be several");
    assert_eq!(loaded(&*store, GATEWAY).await, (0, vec![]));
    assert_eq!(store.target_versions().await.expect("versions"), []);
    let unknown = store.targets("nowhere").await;
    assert!(matches!(unknown, Err(StoreError::UnknownGateway(gateway)) if gateway == "nowhere"));
    let unknown = store.change_targets("nowhere", 0, &[said(1, "a", Some("{}"))]).await;
    assert!(matches!(unknown, Err(StoreError::UnknownGateway(gateway)) if gateway == "nowhere"));

    // Of several changes of one target in one transaction the last counts, and all are remembered.
    let first = [said(1, "a", Some("1")), said(2, "a", Some("2")), said(3, "b", Some("3"))];
    let second = [said(4, "c", Some("4")), said(5, "c", None), said(6, "a", None), said(7, "a", Some("7"))];
    store.change_targets(GATEWAY, 0, &first).await.expect("the version is 0");
    store.change_targets(GATEWAY, 3, &second).await.expect("the version is 3");
    let store = open(&url).await;
    let row = |version, service: &str, target: &str, spec: &str| {
        (version, service.to_owned(), target.to_owned(), spec.to_owned())
    };
    assert_eq!(loaded(&*store, GATEWAY).await, (7, vec![row(3, "blog", "b", "3"), row(7, "shop", "a", "7")]));
    assert_eq!(loaded(&*store, "edge").await, (0, vec![]), "each gateway has its own");
    assert_eq!(store.target_versions().await.expect("versions"), [(GATEWAY.to_owned(), 7)]);

    let all: Vec<_> = first.iter().chain(&second).cloned().collect();
    assert_eq!(store.target_changes_since(GATEWAY, 0, 100).await.expect("the log"), all);
    assert_eq!(store.target_changes_since(GATEWAY, 2, 2).await.expect("the log"), all[2..4]);
    let newest = |records: Vec<TargetRecord>| records.into_iter().map(|record| record.version).collect::<Vec<_>>();
    assert_eq!(newest(store.target_log(GATEWAY, None, None, 2).await.expect("the log")), [7, 6]);
    assert_eq!(newest(store.target_log(GATEWAY, None, Some(3), 9).await.expect("the log")), [2, 1]);
    assert_eq!(newest(store.target_log(GATEWAY, Some("blog"), None, 9).await.expect("the log")), [3]);
    assert_eq!(newest(store.target_log(GATEWAY, Some("shop"), Some(6), 2).await.expect("the log")), [5, 4]);

    // It goes with its gateway.
    store.change_targets("edge", 0, &first).await.expect("the version is 0");
    assert!(store.remove_empty_gateway("edge").await.expect("the database answers"));
    assert_eq!(store.target_versions().await.expect("versions"), [(GATEWAY.to_owned(), 7)]);
    store.ensure_gateway("edge").await.expect("there may be several");
    assert_eq!(loaded(&*store, "edge").await, (0, vec![]));
    assert_eq!(store.target_changes_since("edge", 0, 100).await.expect("the log"), []);
}

pub async fn of_writers_of_targets_on_one_version_exactly_one_wins(url: String) {
    let store = open(&url).await;
    for version in 0..3u64 {
        let offers: Vec<_> = (0..8).map(|writer| [said(version + 1, &format!("a{writer}"), Some("{}"))]).collect();
        let written = join_all(offers.iter().map(|changes| store.change_targets(GATEWAY, version, changes))).await;
        assert_eq!(written.iter().filter(|written| written.is_ok()).count(), 1);
        let lost =
            written.iter().filter(|written| matches!(written, Err(StoreError::Conflict { head }) if *head > version));
        assert_eq!(lost.count(), 7, "{written:?}");
    }
    assert_eq!(store.target_changes_since(GATEWAY, 0, 100).await.expect("the log").len(), 3);
}

pub async fn old_changes_of_targets_are_forgotten(url: String) {
    let store = open(&url).await;
    let many: Vec<_> = (1..=TARGET_CHANGES_KEPT).map(|version| said(version, "a", Some("{}"))).collect();
    store.change_targets(GATEWAY, 0, &many).await.expect("the version is 0");
    let more = [TARGET_CHANGES_KEPT + 1, TARGET_CHANGES_KEPT + 2].map(|version| said(version, "b", Some("{}")));
    store.change_targets(GATEWAY, TARGET_CHANGES_KEPT, &more).await.expect("it goes on");
    let oldest = store.target_changes_since(GATEWAY, 0, 1).await.expect("the log");
    assert_eq!(oldest[0].version, 3);
    assert_eq!(loaded(&*store, GATEWAY).await.1.len(), 2, "what is said is not forgotten");
}
