//! What whoever publishes may rely on, with several control planes on one database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control_plane::publish::history::History;
use control_plane::publish::{Change, PublishError, Published, Publisher, Refused, Staging};
use control_plane::store::{self, StoreError, StoredToken};
use control_plane::token::{Role, Tokens};
use futures_util::future::join_all;
use model::config::Edit;
use model::digest::sha256;
use model::resource::{Key, Kind};
use model::snapshot::Snapshot;
use serde_json::json;
use tempfile::TempDir;
use tests::postgres::Postgres;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

const GATEWAY: &str = "default";

#[tokio::test]
async fn a_change_becomes_the_next_revision_and_is_shown_to_who_watches() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    let mut heads = publisher.watch(GATEWAY).expect("the default gateway is there from the start");
    let published = publisher.publish(GATEWAY, change(vec![put("a", 1), put("b", 1)])).await.expect("it holds");
    assert_eq!((published.revision, published.is_new, published.changes.len()), (1, true, 2));

    heads.changed().await.expect("the publisher is alive");
    assert_eq!(heads.borrow_and_update().head.revision, 1);
    assert_eq!(names(&publisher), ["a", "b"]);
    let changes = publisher.changes(GATEWAY, 0, 1).expect("the newest are kept");
    assert_eq!(changes.iter().map(|record| record.revision.number).collect::<Vec<_>>(), [1]);
    assert_eq!(changes[0].revision.author, "a test");
    assert_eq!(publisher.digest_at(GATEWAY, 1), Some(published.snapshot.config.digest()));
    assert!(publisher.changes(GATEWAY, 0, 2).is_none(), "revision 2 does not exist yet");
}

#[tokio::test]
async fn a_change_that_changes_nothing_makes_no_revision() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    publish(&publisher, vec![put("a", 1)]).await;
    let again = publisher.publish(GATEWAY, change(vec![put("a", 1)])).await.expect("it holds");
    assert_eq!((again.revision, again.is_new, again.changes.len()), (1, false, 0));
    assert_eq!(publisher.store().head(GATEWAY).await.expect("the database answers").revision, 1);
}

#[tokio::test]
async fn a_change_that_does_not_hold_is_refused_with_every_problem() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    let bad = change(vec![service("a", json!({"url": "nonsense"})), service("b", json!({"targts": []})), put("c", 1)]);
    for refused in [publisher.check(GATEWAY, &bad).await, publisher.publish(GATEWAY, bad.clone()).await] {
        let Err(PublishError::Invalid(problems)) = refused else { panic!("{refused:?}") };
        let mut named: Vec<_> = problems.iter().filter_map(|problem| problem.name.as_deref()).collect();
        named.dedup();
        assert_eq!(named, ["a", "b"]);
    }
    assert_eq!(publisher.head(GATEWAY).expect("there is a head").revision, 0);
    let error = publisher.publish("nowhere", change(vec![])).await.expect_err("it is not there");
    assert!(matches!(error, PublishError::UnknownGateway(name) if name == "nowhere"));
}

#[tokio::test]
async fn checking_a_change_changes_nothing() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    let would = publisher.check(GATEWAY, &change(vec![put("a", 1)])).await.expect("it holds");
    assert_eq!((would.revision, would.is_new, would.changes.len()), (1, true, 1));
    assert!(names(&publisher).is_empty());
    assert_eq!(publisher.store().head(GATEWAY).await.expect("the database answers").revision, 0);
}

#[tokio::test]
async fn a_change_with_a_base_is_refused_when_the_head_is_another() {
    let (_folder, url) = sqlite();
    let (one, two) = (start(&url).await, start(&url).await);
    publish(&one, vec![put("a", 1)]).await;

    // The second control plane has not heard of revision 1; its clients may have.
    let based = |base| Change { base: Some(base), ..change(vec![put("b", 1)]) };
    let error = two.publish(GATEWAY, based(0)).await.expect_err("the head is 1");
    assert!(matches!(error, PublishError::Conflict { base: 0, head: 1 }), "{error:?}");
    assert_eq!(two.publish(GATEWAY, based(1)).await.expect("1 is the head").revision, 2);
    let error = one.publish(GATEWAY, based(7)).await.expect_err("there is no 7");
    assert!(matches!(error, PublishError::Conflict { base: 7, head: 2 }), "{error:?}");
}

#[tokio::test]
async fn a_change_without_a_base_is_decided_on_the_newest_head() {
    let (_folder, url) = sqlite();
    let (one, two) = (start(&url).await, start(&url).await);
    publish(&one, vec![put("a", 1)]).await;

    // The second has not heard of revision 1 and would miss `a`.
    let present = Key::new(Kind::Service, "a".parse().expect("a name"));
    let patch = Change {
        edits: Arc::new(move |head: &Snapshot| match head.config.get(&present) {
            Some(_) => Ok(vec![put("a", 2)]),
            None => Err(Refused::Missing(present.clone())),
        }),
        ..change(vec![])
    };
    assert_eq!(two.publish(GATEWAY, patch).await.expect("it is there").revision, 2);

    // The first still believes that `a` is 1: writing 1 again is no change for it, but is one.
    let back = one.publish(GATEWAY, change(vec![put("a", 1)])).await.expect("it holds");
    assert_eq!((back.revision, back.is_new), (3, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_changes_through_two_control_planes_none_is_lost_on_sqlite() {
    let (_folder, url) = sqlite();
    none_is_lost(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_changes_through_two_control_planes_none_is_lost_on_postgres() {
    let server = Postgres::start();
    none_is_lost(&server.url()).await;
}

async fn none_is_lost(url: &str) {
    let publishers = [start(url).await, start(url).await];
    let shutdown = CancellationToken::new();
    let following: Vec<_> = publishers.iter().map(|publisher| follow(publisher, &shutdown)).collect();
    let outcomes = join_all((0..200).map(|n| {
        let publisher = publishers[n % 2].clone();
        tokio::spawn(async move { publisher.publish(GATEWAY, change(vec![put(&format!("r{n}"), n)])).await })
    }))
    .await;
    let mut revisions: Vec<u64> = outcomes
        .into_iter()
        .map(|outcome| outcome.expect("publishing does not panic").expect("no base, no conflict").revision)
        .collect();
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(1..=200), "each change has a revision of its own");

    for publisher in &publishers {
        let head = reach(publisher, 200).await;
        assert_eq!(head.config.len(), 200);
        assert_eq!(head.config.digest(), publisher.store().head(GATEWAY).await.expect("it answers").digest);
        assert_eq!(publisher.changes(GATEWAY, 0, 200).expect("the newest are kept").len(), 200);
    }
    assert_eq!(start(url).await.head(GATEWAY).expect("there is a head").config.digest(), digest(&publishers[0]));
    shutdown.cancel();
    join_all(following).await;
}

#[tokio::test]
async fn after_a_restart_everything_is_there_and_nodes_can_resume() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    for n in 0..5 {
        publish(&publisher, vec![put("a", n), put(&format!("r{n}"), n)]).await;
    }
    let again = start(&url).await;
    assert_eq!(digest(&again), digest(&publisher));
    for revision in 0..=5 {
        assert_eq!(again.digest_at(GATEWAY, revision), publisher.digest_at(GATEWAY, revision));
        assert_eq!(again.changes(GATEWAY, revision, 5), publisher.changes(GATEWAY, revision, 5));
    }
}

#[tokio::test]
async fn a_rollback_restores_the_digest_of_the_revision() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    publish(&publisher, vec![put("kept", 1), put("changed", 1), put("removed", 1), put("made-anew", 1)]).await;
    let wanted = digest(&publisher);
    publish(&publisher, vec![put("changed", 2), remove("removed"), remove("made-anew"), put("added", 1)]).await;
    publish(&publisher, vec![put("changed", 3), put("made-anew", 1), remove("added")]).await;

    let rollback = |to| publisher.rollback(GATEWAY, to, "a test".to_owned(), "back".to_owned());
    let back = publisher.publish(GATEWAY, rollback(1).await.expect("there is a 1")).await.expect("it held before");
    assert_eq!(back.revision, 4);
    assert_eq!(digest(&publisher), wanted);
    let empty = publisher.publish(GATEWAY, rollback(0).await.expect("0 is nothing")).await.expect("nothing holds");
    assert!(empty.snapshot.config.is_empty());
    let error = rollback(6).await.err().expect("there are five");
    assert!(matches!(error, PublishError::UnknownRevision(6)));
    let stays = publisher.publish(GATEWAY, rollback(5).await.expect("the head")).await.expect("the head holds");
    assert!(!stays.is_new);
}

#[tokio::test]
async fn what_is_older_than_is_kept_is_forgotten_and_named() {
    let (_folder, url) = sqlite();
    let publisher = start(&url).await;
    for n in 0..10 {
        publish(&publisher, vec![put("a", n), put(&format!("r{n}"), n)]).await;
    }
    let now = OffsetDateTime::now_utc();
    let forget = |revisions, age: Option<u64>, held| {
        let history = History { revisions, age: age.map(Duration::from_secs) };
        publisher.forget(GATEWAY, history, held, now + Duration::from_secs(100))
    };
    let all = History::default().revisions;
    assert_eq!(forget(all, None, None).await.expect("it answers"), 0);
    assert_eq!(forget(all, Some(3600), None).await.expect("it answers"), 0, "they are not old");
    assert_eq!(forget(8, None, Some(2)).await.expect("it answers"), 1, "a node serves the second");
    assert_eq!(forget(8, None, None).await.expect("it answers"), 1);

    let back = |to| publisher.rollback(GATEWAY, to, "a test".to_owned(), "back".to_owned());
    let error = back(1).await.err().expect("2 is forgotten");
    assert!(matches!(error, PublishError::Forgotten { revision: 1, oldest: 3 }), "{error:?}");
    let third = publisher.digest_at(GATEWAY, 3);
    let third_again = publisher.publish(GATEWAY, back(3).await.expect("3 is kept")).await.expect("it held before");
    assert_eq!(Some(third_again.snapshot.config.digest()), third);

    // Nodes that hold what is kept resume after a restart, and the others are not taken for wrong.
    let again = start(&url).await;
    assert_eq!(digest(&again), digest(&publisher));
    for revision in 3..=11 {
        assert_eq!(again.digest_at(GATEWAY, revision), publisher.digest_at(GATEWAY, revision));
        assert_eq!(again.changes(GATEWAY, revision, 11), publisher.changes(GATEWAY, revision, 11));
    }
    assert_eq!(again.digest_at(GATEWAY, 2), None);

    assert_eq!(forget(all, Some(1), None).await.expect("it answers"), 8, "all are old, and the head stays");
    assert_eq!(publisher.store().oldest_revision(GATEWAY).await.expect("it answers"), Some(11));
    assert_eq!(start(&url).await.digest_at(GATEWAY, 11), Some(digest(&publisher)));
    publish(&publisher, vec![put("a", 77)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_and_comes_back_needs_no_hand() {
    let mut server = Postgres::start();
    let publishers = [start(&server.url()).await, start(&server.url()).await];
    let shutdown = CancellationToken::new();
    let following: Vec<_> = publishers.iter().map(|publisher| follow(publisher, &shutdown)).collect();
    publish(&publishers[0], vec![put("a", 1)]).await;
    reach(&publishers[1], 1).await;

    let store = publishers[0].store();
    let token = StoredToken { hash: sha256(b"known"), role: Role::Node, name: "node".to_owned() };
    store.add_token(&token).await.expect("the database answers");
    let tokens = Tokens::new(store.clone());
    assert!(tokens.find("known").await.expect("the database answers").is_some());

    tokio::task::block_in_place(|| server.stop());
    assert!(tokens.find("known").await.expect("it is in memory").is_some(), "nodes stay welcome");
    assert!(tokens.find("unknown").await.is_err(), "whether it exists cannot be told");
    let error = publishers[0].publish(GATEWAY, change(vec![put("b", 1)])).await.expect_err("it is away");
    assert!(matches!(error, PublishError::Store(StoreError::Unavailable(_))), "{error:?}");
    assert_eq!(names(&publishers[0]), ["a"], "what was published is still served");

    tokio::task::block_in_place(|| server.start_again());
    publish(&publishers[0], vec![put("b", 1)]).await;
    reach(&publishers[1], 2).await;
    assert_eq!(names(&publishers[1]), ["a", "b"]);
    shutdown.cancel();
    join_all(following).await;
}

#[tokio::test]
async fn a_database_restored_from_a_backup_is_followed() {
    let (folder, url) = sqlite();
    let publisher = start(&url).await;
    publish(&publisher, vec![put("a", 1)]).await;
    let backup = folder.path().join("backup");
    let connection = sqlx::SqlitePool::connect(&url).await.expect("it can be opened");
    sqlx::query("VACUUM INTO ?").bind(text(&backup)).execute(&connection).await.expect("a backup can be made");
    publish(&publisher, vec![put("b", 1)]).await;
    restore(&connection, &backup).await;

    let shutdown = CancellationToken::new();
    let following = follow(&publisher, &shutdown);
    reach(&publisher, 1).await;
    assert_eq!(names(&publisher), ["a"]);
    publish(&publisher, vec![put("c", 1)]).await;
    assert_eq!(names(&publisher), ["a", "c"]);
    let again = start(&url).await;
    assert_eq!(digest(&again), digest(&publisher));
    shutdown.cancel();
    following.await.expect("following does not panic");
}

async fn restore(database: &sqlx::SqlitePool, backup: &Path) {
    let mut connection = database.acquire().await.expect("it can be opened");
    sqlx::query("ATTACH ? AS backup").bind(text(backup)).execute(&mut *connection).await.expect("it is a database");
    for statement in [
        "DELETE FROM resources",
        "DELETE FROM revisions",
        "INSERT INTO resources SELECT * FROM backup.resources",
        "INSERT INTO revisions SELECT * FROM backup.revisions",
        "UPDATE gateways SET head = (SELECT b.head FROM backup.gateways b WHERE b.name = gateways.name)",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.expect("the tables are the same");
    }
}

fn sqlite() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let url = text(&folder.path().join("sluice.db"));
    (folder, url)
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

async fn start(url: &str) -> Arc<Publisher> {
    let store = store::open(url).await.expect("the database can be opened");
    Publisher::start(store).await.expect("what is stored holds")
}

fn follow(publisher: &Arc<Publisher>, shutdown: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (publisher, shutdown) = (publisher.clone(), shutdown.clone());
    tokio::spawn(async move { publisher.follow(shutdown).await })
}

async fn publish(publisher: &Publisher, edits: Vec<Edit>) -> Published {
    publisher.publish(GATEWAY, change(edits)).await.expect("it holds")
}

/// Waits until the publisher shows that revision.
async fn reach(publisher: &Publisher, revision: u64) -> Arc<Snapshot> {
    let mut heads = publisher.watch(GATEWAY).expect("the gateway is there");
    heads.wait_for(|offer| offer.head.revision == revision).await.expect("the publisher is alive").head.clone()
}

fn names(publisher: &Publisher) -> Vec<String> {
    let head = publisher.head(GATEWAY).expect("the gateway is there");
    head.config.iter().map(|(key, _)| key.name.to_string()).collect()
}

fn digest(publisher: &Publisher) -> model::digest::Digest {
    publisher.head(GATEWAY).expect("the gateway is there").config.digest()
}

fn change(edits: Vec<Edit>) -> Change {
    Change {
        author: "a test".to_owned(),
        message: String::new(),
        base: None,
        edits: Arc::new(move |_| Ok(edits.clone())),
        staging: Staging::Default,
    }
}

fn put(name: &str, variant: usize) -> Edit {
    service(name, json!({"url": format!("http://127.0.0.1:{}", 9000 + variant)}))
}

fn service(name: &str, spec: serde_json::Value) -> Edit {
    Edit::Put { kind: Kind::Service, name: name.to_owned(), spec }
}

fn remove(name: &str) -> Edit {
    Edit::Remove { key: Key::new(Kind::Service, name.parse().expect("a name")) }
}
