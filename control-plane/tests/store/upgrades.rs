//! Two versions on one database, as during an upgrade: see migrations/README.md.

use control_plane::store::{self, StoreError};
use sqlx::{Connection, PgConnection, SqliteConnection};

use super::{GATEWAY, open, put, record};

/// Does what a newer version, or somebody by hand, does to the tables.
async fn execute(url: &str, statement: &'static str) {
    if store::is_postgres(url) {
        let mut connection = PgConnection::connect(url).await.expect("the database answers");
        sqlx::query(statement).execute(&mut connection).await.expect("the statement holds");
    } else {
        let mut connection = SqliteConnection::connect(url).await.expect("the file opens");
        sqlx::query(statement).execute(&mut connection).await.expect("the statement holds");
    }
}

/// What the release after this one may do: tables and columns that this one does not know.
const EXPANDED: [&str; 4] = [
    "CREATE TABLE of_the_next_version (name TEXT NOT NULL PRIMARY KEY)",
    "ALTER TABLE revisions ADD COLUMN of_the_next_version TEXT",
    "ALTER TABLE resources ADD COLUMN of_the_next_version TEXT NOT NULL DEFAULT '0'",
    "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
     VALUES (9000, 'of the next version', TRUE, '00', 1)",
];

pub async fn a_schema_that_a_newer_version_expanded_serves_this_one(url: String) {
    let before = open(&url).await;
    before.append(GATEWAY, &record(0, vec![put("a", 1, "{}")])).await.expect("the head is 0");
    for statement in EXPANDED {
        execute(&url, statement).await;
    }
    // One that runs goes on, and one that starts does too.
    before.append(GATEWAY, &record(1, vec![put("b", 2, "{}")])).await.expect("the head is 1");
    let after = store::open(&url).await.expect("a newer schema is no reason not to start");
    after.append(GATEWAY, &record(2, vec![put("c", 3, "{}")])).await.expect("the head is 2");
    assert_eq!(after.load(GATEWAY).await.expect("it can be read").resources.len(), 3);
    assert_eq!(after.changes_since(GATEWAY, 0, 10).await.expect("it can be read").len(), 3);
    // Nothing of the newer version is lost.
    execute(&url, "INSERT INTO of_the_next_version (name) VALUES ('kept')").await;
}

pub async fn what_only_a_newer_version_can_read_is_refused_by_name(url: String) {
    let store = open(&url).await;
    store.append(GATEWAY, &record(0, vec![put("a", 1, "{}")])).await.expect("the head is 0");
    execute(&url, "UPDATE resources SET kind = 'quantum-tunnel'").await;
    let error = store.load(GATEWAY).await.expect_err("nobody can serve half a configuration");
    assert!(matches!(error, StoreError::Unreadable(_)) && !error.is_passing(), "{error:?}");
    let told = error.to_string();
    assert!(told.contains("no kind `quantum-tunnel`") && told.contains("run the version that wrote it"), "{told}");
}

pub async fn a_migration_that_was_edited_is_refused(url: String) {
    drop(open(&url).await);
    execute(&url, "UPDATE _sqlx_migrations SET checksum = '00' WHERE version = 1").await;
    let error = store::open(&url).await.err().expect("the tables are not what this version expects");
    assert!(matches!(error, StoreError::Unreadable(_)) && !error.is_passing(), "{error:?}");
}
