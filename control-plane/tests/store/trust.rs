//! What a store keeps of who may join, who has joined, and of secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_plane::store::{self, JoinToken, NodeIdentity, ResourceChange, StoreError, TicketKey};
use futures_util::StreamExt;
use futures_util::future::join_all;
use model::digest::sha256;
use model::resource::{Key, Kind};
use model::sealing::{KEY_BYTES, SealingKey};
use time::OffsetDateTime;

use super::{GATEWAY, document, open, put, record};

fn moment(minutes: i64) -> OffsetDateTime {
    time::macros::datetime!(2026-11-24 12:00 UTC) + time::Duration::minutes(minutes)
}

fn join_token(id: &str, uses: u32) -> JoinToken {
    JoinToken {
        id: id.to_owned(),
        hash: sha256(id.as_bytes()).to_vec(),
        gateway: GATEWAY.to_owned(),
        uses,
        uses_left: uses,
        author: "a test".to_owned(),
        created_at: moment(0),
        expires_at: moment(60),
        revoked_at: None,
    }
}

pub async fn uses_of_a_join_token_are_counted_over_replicas(url: String) {
    let stores = [open(&url).await, open(&url).await];
    stores[0].add_join_token(&join_token("t", 3)).await.expect("it is new");
    stores[0].add_join_token(&join_token("other", 1)).await.expect("it is new");
    let taking = (0..8).map(|replica| {
        let store = stores[replica % 2].clone();
        async move { store.take_join_token("t").await.expect("it answers") }
    });
    let taken = join_all(taking).await;
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 3, "{taken:?}");
    let left = |id: &'static str| {
        let store = stores[1].clone();
        async move { store.join_token(&sha256(id.as_bytes())).await.expect("it answers").map(|token| token.uses_left) }
    };
    assert_eq!((left("t").await, left("other").await, left("unknown").await), (Some(0), Some(1), None));
    assert!(stores[0].revoke_join_token(GATEWAY, "other", moment(1)).await.expect("it answers"));
    assert!(!stores[1].take_join_token("other").await.expect("it answers"), "it is revoked");
}

pub async fn join_tokens_are_kept_until_their_time_is_over(url: String) {
    let store = open(&url).await;
    store.ensure_gateway("edge").await.expect("there may be several");
    let (old, new) = (join_token("a", 1), JoinToken { expires_at: moment(600), ..join_token("b", 2) });
    let edge = JoinToken { gateway: "edge".to_owned(), ..join_token("c", 1) };
    for token in [&old, &new, &edge] {
        store.add_join_token(token).await.expect("it is new");
    }
    assert_eq!(store.join_tokens(GATEWAY).await.expect("it answers"), [old.clone(), new.clone()]);
    assert!(!store.revoke_join_token("edge", "a", moment(1)).await.expect("it answers"), "it is another gateway's");
    for minutes in [1, 2] {
        assert!(store.revoke_join_token(GATEWAY, "a", moment(minutes)).await.expect("it answers"));
    }
    let revoked = JoinToken { revoked_at: Some(moment(1)), ..old };
    assert_eq!(store.join_token(&sha256(b"a")).await.expect("it answers"), Some(revoked));
    store.forget_enrolments(moment(120)).await.expect("it answers");
    assert_eq!(store.join_tokens(GATEWAY).await.expect("it answers"), [new]);
    assert!(store.remove_empty_gateway("edge").await.expect("tokens go with it"));
}

pub async fn a_revoked_node_stays_revoked(url: String) {
    let stores = [open(&url).await, open(&url).await];
    let node = |node_id: &str, expires_at| NodeIdentity {
        gateway: GATEWAY.to_owned(),
        node_id: node_id.to_owned(),
        join_token: "t".to_owned(),
        key_hash: vec![7; 32],
        enrolled_at: moment(0),
        expires_at,
        revoked_at: None,
    };
    let [one, two] = &stores;
    for node in [node("a", moment(60)), node("b", moment(60)), node("a", moment(90))] {
        assert!(one.put_node_identity(&node).await.expect("it answers"));
    }
    let known = two.node_identities(GATEWAY).await.expect("it answers");
    assert_eq!(known, [node("a", moment(90)), node("b", moment(60))]);
    assert_eq!(two.revoked_nodes().await.expect("it answers"), []);

    let mut hints = one.revocations();
    let heard = tokio::spawn(async move { hints.next().await });
    assert!(!two.revoke_node(GATEWAY, "unknown", moment(1)).await.expect("it answers"));
    assert!(two.revoke_node(GATEWAY, "a", moment(1)).await.expect("it answers"));
    if store::is_postgres(&url) {
        // Listening may have begun a moment late: hints may be lost.
        while !heard.is_finished() {
            assert!(two.revoke_node(GATEWAY, "a", moment(2)).await.expect("it answers"));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    assert_eq!(one.revoked_nodes().await.expect("it answers"), [(GATEWAY.to_owned(), "a".to_owned())]);
    assert!(!one.put_node_identity(&node("a", moment(99))).await.expect("it answers"));
    let revoked = NodeIdentity { revoked_at: Some(moment(1)), ..node("a", moment(90)) };
    assert_eq!(one.node_identity(GATEWAY, "a").await.expect("it answers"), Some(revoked));
    assert_eq!(one.node_identity("edge", "a").await.expect("it answers"), None);
    one.forget_enrolments(moment(80)).await.expect("it answers");
    assert_eq!(one.node_identities(GATEWAY).await.expect("it answers").len(), 1);
}

pub async fn secrets_are_sealed_and_what_was_kept_before_is_read(url: String) {
    const PLAIN: &str = r#"{"cert":"public","key":"an open secret"}"#;
    const SECRET: &str = r#"{"cert":"public","key":"a closed secret"}"#;
    let plain = open(&url).await;
    let certificate = |name: &str, spec: &str| ResourceChange {
        key: Key::new(Kind::Certificate, name.parse().expect("a name")),
        before: None,
        after: Some(document(1, spec)),
    };
    let before = record(0, vec![certificate("a", PLAIN)]);
    plain.append(GATEWAY, &before).await.expect("0 is the head");
    let old = TicketKey { period: 1, secret: [1; 32] };
    plain.turn_ticket_keys(GATEWAY, 1, std::slice::from_ref(&old)).await.expect("it answers");

    let key = |digit| Arc::new(SealingKey::new(&[digit; KEY_BYTES]));
    let sealing = open(&url).await;
    sealing.seal_with(key(1));
    let change = ResourceChange { before: Some(document(1, PLAIN)), ..certificate("a", SECRET) };
    let after = record(1, vec![change, certificate("b", SECRET), put("open", 2, "{}")]);
    sealing.append(GATEWAY, &after).await.expect("1 is the head");
    let new = TicketKey { period: 2, secret: [2; 32] };
    let keys = sealing.turn_ticket_keys(GATEWAY, 1, std::slice::from_ref(&new)).await.expect("it answers");
    assert!(keys == [old, new], "what was open stays what it was");
    assert_eq!(sealing.changes_since(GATEWAY, 0, 9).await.expect("it answers"), [before.clone(), after.clone()]);
    assert_eq!(sealing.revision(GATEWAY, 2).await.expect("it answers"), Some(after));
    let loaded: BTreeMap<_, _> = sealing.load(GATEWAY).await.expect("it answers").resources.into_iter().collect();
    let specs: Vec<&str> = loaded.values().map(|document| &*document.spec).collect();
    assert_eq!(specs, [SECRET, SECRET, "{}"]);

    // Who has the database and not the key has nothing; and a value means nothing in another place.
    assert!(matches!(plain.load(GATEWAY).await, Err(StoreError::Unreadable(_))));
    let dump = dump(&url).await;
    assert!(dump.contains("sealed:") && !dump.contains("a closed secret"), "{dump}");
    let wrong = open(&url).await;
    wrong.seal_with(key(2));
    for error in [wrong.load(GATEWAY).await.map(drop), wrong.revision(GATEWAY, 2).await.map(drop)] {
        let error = error.expect_err("it does not open").to_string();
        assert!(error.contains("certificate") && !error.contains("secret"), "{error}");
    }
}

/// All that a thief of the database finds where resources are.
async fn dump(url: &str) -> String {
    const ALL: &str = "SELECT spec FROM resources UNION ALL SELECT changes FROM revisions WHERE number = 2";
    let rows: Vec<String> = if store::is_postgres(url) {
        let pool = sqlx::PgPool::connect(url).await.expect("it answers");
        sqlx::query_scalar(ALL).fetch_all(&pool).await.expect("it answers")
    } else {
        let pool = sqlx::SqlitePool::connect(url).await.expect("it answers");
        sqlx::query_scalar(ALL).fetch_all(&pool).await.expect("it answers")
    };
    rows.join("\n")
}
