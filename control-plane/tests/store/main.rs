//! What every store must do, run on both.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_plane::store::{
    self, Head, NodeNews, ResourceChange, Revision, RevisionRecord, SharedNodes, Store, StoreError, StoredToken,
    TicketKey,
};
use control_plane::token::Role;
use futures_util::StreamExt;
use futures_util::future::join_all;
use model::digest::Digest;
use model::resource::{Document, Key, Kind};
use tests::postgres::Postgres;
use time::OffsetDateTime;

mod rollouts;
mod targets;
mod trust;
mod upgrades;

use rollouts::{a_rollout_is_stored_with_its_revision_or_not_at_all, of_changes_of_a_rollout_one_wins};
use targets::{
    of_writers_of_targets_on_one_version_exactly_one_wins, old_changes_of_targets_are_forgotten,
    what_is_said_about_targets_is_kept_with_who_said_it,
};
use trust::{
    a_revoked_node_stays_revoked, join_tokens_are_kept_until_their_time_is_over,
    secrets_are_sealed_and_what_was_kept_before_is_read, uses_of_a_join_token_are_counted_over_replicas,
};
use upgrades::{
    a_migration_that_was_edited_is_refused, a_schema_that_a_newer_version_expanded_serves_this_one,
    what_only_a_newer_version_can_read_is_refused_by_name,
};

const GATEWAY: &str = "default";

/// Each rule gets an empty database of its own.
macro_rules! contract {
    ($($rule:ident),* $(,)?) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn sqlite_keeps_the_contract() {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            $(
                eprintln!("sqlite: {}", stringify!($rule));
                $rule(folder.path().join(stringify!($rule)).to_str().expect("the path is UTF-8").to_owned()).await;
            )*
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn postgres_keeps_the_contract() {
            let server = Postgres::start();
            $(
                eprintln!("postgres: {}", stringify!($rule));
                $rule(server.create_database(stringify!($rule))).await;
            )*
        }
    };
}

contract!(
    a_new_gateway_is_empty_and_at_revision_0,
    an_unknown_gateway_is_named,
    what_was_appended_is_found_again,
    a_revision_on_an_old_parent_changes_nothing,
    any_series_of_changes_leaves_its_result,
    gateways_do_not_see_each_other,
    only_an_empty_gateway_is_removed,
    a_revision_may_touch_thousands_of_resources,
    documents_come_back_to_the_byte,
    history_is_read_in_pages,
    old_revisions_are_forgotten_without_gaps,
    of_writers_on_one_parent_exactly_one_wins,
    what_is_loaded_is_of_one_moment,
    many_may_open_a_new_database_at_once,
    tokens_are_kept_once,
    of_replicas_that_keep_a_shared_value_one_wins,
    uses_of_a_join_token_are_counted_over_replicas,
    join_tokens_are_kept_until_their_time_is_over,
    a_revoked_node_stays_revoked,
    secrets_are_sealed_and_what_was_kept_before_is_read,
    of_replicas_that_make_ticket_keys_one_wins,
    nodes_are_shared_where_replicas_can_be,
    what_is_said_about_targets_is_kept_with_who_said_it,
    of_writers_of_targets_on_one_version_exactly_one_wins,
    old_changes_of_targets_are_forgotten,
    a_rollout_is_stored_with_its_revision_or_not_at_all,
    of_changes_of_a_rollout_one_wins,
    a_schema_that_a_newer_version_expanded_serves_this_one,
    what_only_a_newer_version_can_read_is_refused_by_name,
    a_migration_that_was_edited_is_refused,
);

async fn a_new_gateway_is_empty_and_at_revision_0(url: String) {
    let store = open(&url).await;
    store.ping().await.expect("the database answers");
    store.ensure_gateway(GATEWAY).await.expect("it may be ensured again");
    store.ensure_gateway("another").await.expect("there may be several");
    assert_eq!(store.gateways().await.expect("gateways can be listed"), ["another", GATEWAY]);
    let head = Head { revision: 0, digest: Digest::default() };
    assert_eq!(store.head(GATEWAY).await.expect("there is a head"), head);
    let loaded = store.load(GATEWAY).await.expect("it can be loaded");
    assert_eq!((loaded.head, loaded.resources), (head, vec![]));
    assert_eq!(store.revision(GATEWAY, 1).await.expect("the log can be read"), None);
    assert_eq!(store.revisions(GATEWAY, None, 10).await.expect("the log can be read"), []);
}

async fn only_an_empty_gateway_is_removed(url: String) {
    let store = open(&url).await;
    store.ensure_gateway("edge").await.expect("there may be several");
    store.turn_ticket_keys("edge", 1, &[TicketKey { period: 1, secret: [1; 32] }]).await.expect("it has keys");
    store.append("edge", &record(0, vec![put("a", 1, "{}")])).await.expect("the head is 0");
    assert!(!store.remove_empty_gateway("edge").await.expect("the database answers"));
    assert_eq!(store.load("edge").await.expect("it is there").resources.len(), 1);

    let emptied = ResourceChange { after: None, before: put("a", 1, "{}").after, ..put("a", 1, "{}") };
    store.append("edge", &record(1, vec![emptied])).await.expect("the head is 1");
    assert!(store.remove_empty_gateway("edge").await.expect("the database answers"));
    assert_eq!(store.gateways().await.expect("gateways can be listed"), [GATEWAY]);
    let again = store.remove_empty_gateway("edge").await;
    assert!(matches!(again, Err(StoreError::UnknownGateway(name)) if name == "edge"));

    store.ensure_gateway("edge").await.expect("it may come back");
    assert_eq!(store.head("edge").await.expect("it is there").revision, 0);
    assert_eq!(store.revisions("edge", None, 10).await.expect("the log can be read"), []);
}

async fn an_unknown_gateway_is_named(url: String) {
    let store = open(&url).await;
    let is_named = |error: StoreError| matches!(error, StoreError::UnknownGateway(name) if name == "nowhere");
    assert!(is_named(store.head("nowhere").await.expect_err("it is not there")));
    assert!(is_named(store.load("nowhere").await.expect_err("it is not there")));
    assert!(is_named(store.append("nowhere", &record(0, vec![put("a", 1, "{}")])).await.expect_err("it is not there")));
}

async fn what_was_appended_is_found_again(url: String) {
    let store = open(&url).await;
    let first = record(0, vec![put("a", 1, r#"{"n":1}"#), put("b", 1, "{}")]);
    let second =
        record(1, vec![replace("a", (1, r#"{"n":1}"#), r#"{"n":2}"#), remove("b", 1, "{}"), put("c", 2, "{}")]);
    store.append(GATEWAY, &first).await.expect("0 is the head");
    store.append(GATEWAY, &second).await.expect("1 is the head");

    // A second store on the same database stands for a restart and for another replica.
    for store in [store, open(&url).await] {
        let head = store.head(GATEWAY).await.expect("there is a head");
        assert_eq!(head, Head { revision: 2, digest: second.revision.digest });
        let loaded = store.load(GATEWAY).await.expect("it can be loaded");
        assert_eq!(loaded.head, head);
        let resources: BTreeMap<_, _> = loaded.resources.into_iter().collect();
        let expected = [(key("a"), document(1, r#"{"n":2}"#)), (key("c"), document(2, "{}"))];
        assert_eq!(resources, BTreeMap::from(expected));
        assert_eq!(store.revision(GATEWAY, 1).await.expect("the log can be read").as_ref(), Some(&first));
        assert_eq!(store.revision(GATEWAY, 2).await.expect("the log can be read").as_ref(), Some(&second));
        let listed = store.revisions(GATEWAY, None, 10).await.expect("the log can be read");
        assert_eq!(listed, [second.revision.clone(), first.revision.clone()]);
        let since = store.changes_since(GATEWAY, 0, 10).await.expect("the log can be read");
        assert_eq!(since, [first.clone(), second.clone()]);
    }
}

async fn a_revision_on_an_old_parent_changes_nothing(url: String) {
    let store = open(&url).await;
    store.append(GATEWAY, &record(0, vec![put("a", 1, "{}")])).await.expect("0 is the head");
    for parent in [0, 2] {
        let late = record(parent, vec![put("b", 1, "{}"), remove("a", 1, "{}")]);
        let error = store.append(GATEWAY, &late).await.expect_err("the head is 1");
        assert!(matches!(error, StoreError::Conflict { head: 1 }), "{error}");
    }
    assert_eq!(names(&*store).await, ["a"]);
    assert_eq!(store.changes_since(GATEWAY, 1, 10).await.expect("the log can be read"), []);
    store.append(GATEWAY, &record(1, vec![put("b", 2, "{}")])).await.expect("a writer can go on after that");
}

async fn any_series_of_changes_leaves_its_result(url: String) {
    let store = open(&url).await;
    let mut expected: BTreeMap<Key, Document> = BTreeMap::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for parent in 0..80 {
        let mut changes = Vec::new();
        for index in 0..12 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = key(&format!("r{index}"));
            let before = expected.get(&key).cloned();
            let after = match random % 3 {
                0 => continue,
                1 if before.is_some() => None,
                _ => Some(document(
                    before.as_ref().map_or(parent + 1, |before| before.created),
                    &format!(r#"{{"n":{random}}}"#),
                )),
            };
            match &after {
                Some(document) => expected.insert(key.clone(), document.clone()),
                None => expected.remove(&key),
            };
            changes.push(ResourceChange { key, before, after });
        }
        store.append(GATEWAY, &record(parent, changes)).await.expect("one writer has no conflicts");
        let loaded = store.load(GATEWAY).await.expect("it can be loaded");
        assert_eq!(loaded.resources.into_iter().collect::<BTreeMap<_, _>>(), expected, "after revision {}", parent + 1);
    }
}

async fn gateways_do_not_see_each_other(url: String) {
    let store = open(&url).await;
    store.ensure_gateway("other").await.expect("there may be several");
    store.append(GATEWAY, &record(0, vec![put("a", 1, "{}")])).await.expect("0 is the head");
    store
        .append("other", &record(0, vec![put("a", 1, "{}"), put("b", 1, "{}")]))
        .await
        .expect("each counts for itself");
    store.append("other", &record(1, vec![remove("a", 1, "{}")])).await.expect("1 is the head");
    assert_eq!(names(&*store).await, ["a"]);
    assert_eq!(store.head(GATEWAY).await.expect("there is a head").revision, 1);
    assert_eq!(store.changes_since(GATEWAY, 0, 10).await.expect("the log can be read").len(), 1);
}

async fn a_revision_may_touch_thousands_of_resources(url: String) {
    let store = open(&url).await;
    let each = |change: fn(&str) -> ResourceChange| (0..2_500).map(|n| change(&format!("r{n}"))).collect();
    store.append(GATEWAY, &record(0, each(|name| put(name, 1, "{}")))).await.expect("0 is the head");
    assert_eq!(names(&*store).await.len(), 2_500);
    let mut removals: Vec<ResourceChange> = each(|name| remove(name, 1, "{}"));
    removals.pop();
    store.append(GATEWAY, &record(1, removals)).await.expect("1 is the head");
    assert_eq!(names(&*store).await, ["r2499"]);
}

async fn documents_come_back_to_the_byte(url: String) {
    let store = open(&url).await;
    let specs = [
        r#"{"text":"\u0000 \" \\ \n ü 日本 🦀 ' -- $1 ? %"}"#,
        r#"{"z":1,"a":1.0,"big":123456789012345678901234567890,"tiny":1e-7}"#,
        r#"{"key": "written with a space"}"#,
        &format!(r#"{{"long":"{}"}}"#, "x".repeat(300_000)),
    ];
    let changes: Vec<_> = specs.iter().zip(["a", "b", "c", "d"]).map(|(spec, name)| put(name, 1, spec)).collect();
    let written = record(0, changes);
    store.append(GATEWAY, &written).await.expect("0 is the head");
    let loaded = store.load(GATEWAY).await.expect("it can be loaded");
    let resources: BTreeMap<_, _> = loaded.resources.into_iter().collect();
    assert!(resources.values().map(|document| &*document.spec).eq(specs));
    assert_eq!(store.revision(GATEWAY, 1).await.expect("the log can be read"), Some(written));
}

async fn history_is_read_in_pages(url: String) {
    let store = open(&url).await;
    for parent in 0..7 {
        let name = format!("r{parent}");
        store.append(GATEWAY, &record(parent, vec![put(&name, parent + 1, "{}")])).await.expect("one writer");
    }
    let numbers = |page: Vec<Revision>| page.into_iter().map(|revision| revision.number).collect::<Vec<_>>();
    assert_eq!(numbers(store.revisions(GATEWAY, None, 3).await.expect("the log can be read")), [7, 6, 5]);
    assert_eq!(numbers(store.revisions(GATEWAY, Some(5), 3).await.expect("the log can be read")), [4, 3, 2]);
    assert_eq!(numbers(store.revisions(GATEWAY, Some(2), 3).await.expect("the log can be read")), [1]);
    let since = store.changes_since(GATEWAY, 2, 3).await.expect("the log can be read");
    assert_eq!(numbers(since.into_iter().map(|record| record.revision).collect()), [3, 4, 5]);
}

async fn old_revisions_are_forgotten_without_gaps(url: String) {
    let stores = [open(&url).await, open(&url).await];
    assert_eq!(stores[0].oldest_revision(GATEWAY).await.expect("the log can be read"), None);
    for gateway in [GATEWAY, "another"] {
        stores[0].ensure_gateway(gateway).await.expect("there may be several");
        for parent in 0..40 {
            let put = put(&format!("r{parent}"), parent + 1, "{}");
            stores[0].append(gateway, &record(parent, vec![put])).await.expect("one writer");
        }
    }
    assert_eq!(stores[0].forget_revisions(GATEWAY, 1, 10).await.expect("the log can be written"), 0);
    // Two replicas at once, while one writes on.
    let forgetting = (0..8).map(|turn| {
        let store = stores[turn % 2].clone();
        async move { store.forget_revisions(GATEWAY, 31, 5).await.unwrap_or(0) }
    });
    let appended = record(40, vec![put("r40", 41, "{}")]);
    let (forgotten, appending) = futures_util::join!(join_all(forgetting), stores[0].append(GATEWAY, &appended));
    appending.expect("one writer");
    while stores[1].forget_revisions(GATEWAY, 31, 5).await.expect("the log can be written") > 0 {}
    assert!(forgotten.into_iter().all(|count| count <= 5));
    for store in &stores {
        assert_eq!(store.oldest_revision(GATEWAY).await.expect("the log can be read"), Some(31));
        assert_eq!(store.revision(GATEWAY, 30).await.expect("the log can be read"), None);
        let kept = store.changes_since(GATEWAY, 0, 100).await.expect("the log can be read");
        assert!(kept.iter().map(|record| record.revision.number).eq(31..=41));
        assert_eq!(store.load(GATEWAY).await.expect("it can be loaded").resources.len(), 41);
        assert_eq!(store.oldest_revision("another").await.expect("the log can be read"), Some(1));
    }
}

async fn of_writers_on_one_parent_exactly_one_wins(url: String) {
    let stores = [open(&url).await, open(&url).await];
    for parent in 0..10 {
        let writers = (0..6).map(|writer| {
            let store = stores[writer % 2].clone();
            let name = format!("r{parent}-{writer}");
            async move { store.append(GATEWAY, &record(parent, vec![put(&name, parent + 1, "{}")])).await }
        });
        let outcomes = join_all(writers).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let lost =
            |outcome: &&Result<(), _>| matches!(outcome, Err(StoreError::Conflict { head }) if *head == parent + 1);
        assert_eq!((won, outcomes.iter().filter(lost).count()), (1, 5), "{outcomes:?}");
    }
    assert_eq!(names(&*stores[0]).await.len(), 10);
}

async fn what_is_loaded_is_of_one_moment(url: String) {
    let writer = open(&url).await;
    let reader = open(&url).await;
    let writing = tokio::spawn(async move {
        let mut digest = Digest::default();
        for parent in 0..60 {
            let name = format!("r{parent}");
            digest = digest.plus(part(&key(&name), &document(parent + 1, "{}")));
            let mut record = record(parent, vec![put(&name, parent + 1, "{}")]);
            record.revision.digest = digest;
            writer.append(GATEWAY, &record).await.expect("one writer has no conflicts");
        }
    });
    loop {
        let is_last = writing.is_finished();
        let loaded = reader.load(GATEWAY).await.expect("it can be loaded");
        let digest =
            loaded.resources.iter().fold(Digest::default(), |sum, (key, document)| sum.plus(part(key, document)));
        assert_eq!(digest, loaded.head.digest, "at revision {}", loaded.head.revision);
        if is_last {
            break;
        }
    }
    writing.await.expect("the writer does not panic");
}

async fn many_may_open_a_new_database_at_once(url: String) {
    let opened = join_all((0..8).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { store::open(&url).await.map(drop) })
    }))
    .await;
    for outcome in opened {
        outcome.expect("opening does not panic").expect("who comes second waits");
    }
}

async fn tokens_are_kept_once(url: String) {
    let store = open(&url).await;
    let token = |hash, role| StoredToken { hash: [hash; 32], role, name: "made for a test".to_owned() };
    for token in [token(1, Role::Admin), token(2, Role::Node), token(1, Role::Admin)] {
        store.add_token(&token).await.expect("it may be added again");
    }
    let mut tokens = open(&url).await.tokens().await.expect("tokens can be listed");
    tokens.sort_by_key(|token| token.hash);
    assert_eq!(tokens, [token(1, Role::Admin), token(2, Role::Node)]);
}

async fn of_replicas_that_keep_a_shared_value_one_wins(url: String) {
    let stores = [open(&url).await, open(&url).await];
    let keeping = (0..8_u8).map(|replica| {
        let store = stores[usize::from(replica) % 2].clone();
        async move { store.keep_shared("key", &[replica; 40]).await.expect("it answers") }
    });
    let kept = join_all(keeping).await;
    assert!(kept.iter().all(|value| *value == kept[0] && value.len() == 40), "{kept:?}");
    assert_eq!(stores[0].keep_shared("another", b"one").await.expect("it answers"), b"one");

    let swapping = (0..8_u8).map(|replica| {
        let (store, from) = (stores[usize::from(replica) % 2].clone(), kept[0].clone());
        async move { store.swap_shared("key", &from, &[100 + replica]).await.expect("it answers") }
    });
    let swapped = join_all(swapping).await;
    assert_eq!(swapped.iter().filter(|swapped| **swapped).count(), 1, "{swapped:?}");
    let now = stores[1].keep_shared("key", b"late").await.expect("it answers");
    assert_eq!(now.len(), 1, "{now:?}");
    assert!(!stores[0].swap_shared("nothing", b"", b"to").await.expect("it answers"));
}

async fn nodes_are_shared_where_replicas_can_be(url: String) {
    let (one, two) = (open(&url).await.shared_nodes(), open(&url).await.shared_nodes());
    assert_eq!(one.is_some(), store::is_postgres(&url), "a SQLite file is for one control plane");
    let (Some(one), Some(two)) = (one, two) else { return };
    let news = |node_id: &str, connected, has_come, status: &str| NodeNews {
        gateway: GATEWAY.to_owned(),
        node_id: node_id.to_owned(),
        connected,
        has_come,
        status: status.to_owned(),
    };
    one.put("one", &[news("b", true, true, "1"), news("a", true, true, "1")]).await.expect("it answers");
    assert_eq!(one.others("one", None).await.expect("it answers"), [], "a replica knows its own");
    let seen = shared(&two, "two").await;
    assert_eq!(seen, [("a", "one", true, "1"), ("b", "one", true, "1")].map(owned));

    // The node has come to the second replica; the first has not noticed yet and has no say any more.
    two.put("two", &[news("a", true, true, "2")]).await.expect("it answers");
    one.put("one", &[news("a", true, false, "3")]).await.expect("it answers");
    one.put("one", &[news("a", false, false, "4")]).await.expect("it answers");
    assert_eq!(shared(&one, "one").await, [("a", "two", true, "2")].map(owned));
    assert_eq!(one.confirm("one").await.expect("it answers"), 1);
    // Until it has left the second one too.
    two.put("two", &[news("a", false, false, "5")]).await.expect("it answers");
    one.put("one", &[news("a", true, false, "6")]).await.expect("it answers");
    assert_eq!(shared(&one, "one").await, []);
    assert_eq!(one.confirm("one").await.expect("it answers"), 2);

    let all = two.others("two", None).await.expect("it answers");
    let newest = all.iter().map(|node| node.changed_at).max().expect("there are two");
    let since = two.others("two", Some(newest)).await.expect("it answers");
    assert!(since.iter().any(|node| node.node_id == "a"), "what was said at that very time is shown again");
    let later = two.others("two", Some(newest + std::time::Duration::from_secs(60))).await.expect("it answers");
    assert_eq!(later, []);
    replicas_that_are_silent_are_gone(&url, &one, &two).await;
}

/// The rest of the rule, with the times moved instead of waited for.
async fn replicas_that_are_silent_are_gone(url: &str, one: &SharedNodes, two: &SharedNodes) {
    let database = sqlx::PgPool::connect(url).await.expect("it can be opened");
    let set_back = async |node_id: &str, interval: &str| {
        sqlx::query("UPDATE nodes SET last_seen = now() - $2::interval WHERE node_id = $1")
            .bind(node_id)
            .bind(interval)
            .execute(&database)
            .await
            .expect("it is a table");
    };
    set_back("a", "20 seconds").await;
    let others = two.others("two", None).await.expect("it answers");
    let silent: Vec<_> = others.iter().filter(|node| node.is_silent).map(|node| &node.node_id).collect();
    assert_eq!(silent, ["a"]);
    one.confirm("one").await.expect("it answers");
    assert!(two.others("two", None).await.expect("it answers").iter().all(|node| !node.is_silent));
    set_back("b", "2 hours").await;
    two.confirm("two").await.expect("it answers");
    let left = two.others("two", None).await.expect("it answers");
    assert_eq!(left.iter().map(|node| &*node.node_id).collect::<Vec<_>>(), ["a"]);
}

type Seen = (String, String, bool, String);

async fn shared(nodes: &SharedNodes, replica: &str) -> Vec<Seen> {
    let others = nodes.others(replica, None).await.expect("it answers");
    let mut seen: Vec<Seen> =
        others.into_iter().map(|node| (node.node_id, node.replica, node.connected, node.status)).collect();
    seen.sort();
    seen
}

fn owned((node_id, replica, connected, status): (&str, &str, bool, &str)) -> Seen {
    (node_id.to_owned(), replica.to_owned(), connected, status.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_announces_revisions_also_after_a_restart() {
    let mut server = Postgres::start();
    let writer = open(&server.url()).await;
    let mut announcements = open(&server.url()).await.announcements();
    for parent in [0, 1] {
        // Whether the listener is there already cannot be seen, so revisions are made until one is heard of.
        let mut parent = writer.head(GATEWAY).await.expect("the database answers").revision.max(parent);
        let heard = loop {
            writer.append(GATEWAY, &record(parent, vec![])).await.expect("one writer has no conflicts");
            parent += 1;
            let wait = tokio::time::timeout(std::time::Duration::from_millis(200), announcements.next());
            if let Ok(heard) = wait.await {
                break heard.expect("the stream does not end");
            }
        };
        assert_eq!(heard.gateway, GATEWAY);
        assert!((1..=parent).contains(&heard.number));
        tokio::task::block_in_place(|| {
            server.stop();
            server.start_again();
        });
    }
}

#[tokio::test]
async fn a_sqlite_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("made/on/the/way/sluice.db");
    let _store = open(path.to_str().expect("the path is UTF-8")).await;
    let mode = path.metadata().expect("the file is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

async fn open(url: &str) -> Arc<dyn Store> {
    let store = store::open(url).await.expect("the database can be opened");
    store.ensure_gateway(GATEWAY).await.expect("a gateway can be made");
    store
}

async fn names(store: &dyn Store) -> Vec<String> {
    let loaded = store.load(GATEWAY).await.expect("it can be loaded");
    let mut names: Vec<String> = loaded.resources.into_iter().map(|(key, _)| key.name.to_string()).collect();
    names.sort();
    names
}

fn record(parent: u64, changes: Vec<ResourceChange>) -> RevisionRecord {
    let revision = Revision {
        number: parent + 1,
        parent,
        author: "a test".to_owned(),
        message: format!("revision {}", parent + 1),
        created_at: OffsetDateTime::from_unix_timestamp(1_790_000_000).expect("a time"),
        digest: Digest::of_resource("revision", "", parent, ""),
        change_count: changes.len() as u64,
    };
    RevisionRecord { revision, changes: changes.into() }
}

fn put(name: &str, created: u64, spec: &str) -> ResourceChange {
    ResourceChange { key: key(name), before: None, after: Some(document(created, spec)) }
}

fn replace(name: &str, (created, before): (u64, &str), after: &str) -> ResourceChange {
    ResourceChange { key: key(name), before: Some(document(created, before)), after: Some(document(created, after)) }
}

fn remove(name: &str, created: u64, spec: &str) -> ResourceChange {
    ResourceChange { key: key(name), before: Some(document(created, spec)), after: None }
}

fn key(name: &str) -> Key {
    Key::new(Kind::Service, name.parse().expect("a name"))
}

fn document(created: u64, spec: &str) -> Document {
    Document { created, spec: Arc::from(spec) }
}

fn part(key: &Key, document: &Document) -> Digest {
    Digest::of_resource(key.kind.singular(), &key.name, document.created, &document.spec)
}

async fn of_replicas_that_make_ticket_keys_one_wins(url: String) {
    let store = open(&url).await;
    store.ensure_gateway("another").await.expect("there may be several");
    let key = |period, byte| TicketKey { period, secret: [byte; 32] };
    let offers: Vec<_> = (0..8).map(|byte| [key(5, byte), key(6, byte)]).collect();
    let turned = join_all(offers.iter().map(|fresh| store.turn_ticket_keys(GATEWAY, 4, fresh))).await;
    let turned: Vec<_> = turned.into_iter().map(|keys| keys.expect("the database answers")).collect();
    let [one, two] = &turned[0][..] else { panic!("not two keys") };
    assert!((one.period, two.period) == (5, 6) && turned.iter().all(|keys| *keys == turned[0]));

    // A restart, or another replica.
    let store = open(&url).await;
    let next = store.turn_ticket_keys(GATEWAY, 5, &[key(6, 9), key(7, 9)]).await.expect("the database answers");
    assert!(next == [one.clone(), two.clone(), key(7, 9)]);
    let later = store.turn_ticket_keys(GATEWAY, 7, &[]).await.expect("the database answers");
    assert!(later == [key(7, 9)], "what is older is gone");
    let other = store.turn_ticket_keys("another", 0, &[]).await.expect("the database answers");
    assert!(other.is_empty(), "each gateway has its own");
}
