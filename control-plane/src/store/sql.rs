//! The statements that both databases understand: SQLite too counts parameters as `$1`. What differs, because of how
//! many rows are handed over or how writers are ordered, stands with each of them.

pub const HEAD: &str = "SELECT g.head, r.digest FROM gateways g
    LEFT JOIN revisions r ON r.gateway = g.name AND r.number = g.head
    WHERE g.name = $1";
/// One after the other: a gateway goes after what refers to it.
pub const REMOVE_GATEWAY: [&str; 3] = [
    "DELETE FROM ticket_keys WHERE gateway = $1",
    "DELETE FROM revisions WHERE gateway = $1",
    "DELETE FROM gateways WHERE name = $1",
];
pub const ADD_GATEWAY: &str = "INSERT INTO gateways (name) VALUES ($1) ON CONFLICT DO NOTHING";
pub const HAS_RESOURCES: &str = "SELECT EXISTS (SELECT 1 FROM resources WHERE gateway = $1)";
pub const RESOURCES: &str = "SELECT kind, name, created, spec FROM resources WHERE gateway = $1";
pub const MOVE_HEAD: &str = "UPDATE gateways SET head = $1 WHERE name = $2 AND head = $3";
pub const ADD_REVISION: &str =
    "INSERT INTO revisions (gateway, number, parent, author, message, created_at, digest, change_count, changes)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
pub const REVISION: &str = "SELECT number, parent, author, message, created_at, digest, change_count, changes
    FROM revisions WHERE gateway = $1 AND number = $2";
pub const REVISIONS: &str = "SELECT number, parent, author, message, created_at, digest, change_count
    FROM revisions WHERE gateway = $1 AND number < $2 ORDER BY number DESC LIMIT $3";
pub const CHANGES_SINCE: &str = "SELECT number, parent, author, message, created_at, digest, change_count, changes
    FROM revisions WHERE gateway = $1 AND number > $2 ORDER BY number LIMIT $3";
pub const OLDEST_REVISION: &str = "SELECT min(number) FROM revisions WHERE gateway = $1";
pub const FORGET_REVISIONS: &str = "DELETE FROM revisions WHERE gateway = $1 AND number IN (
        SELECT number FROM revisions WHERE gateway = $1 AND number < $2 ORDER BY number LIMIT $3)";
pub const ADD_TOKEN: &str = "INSERT INTO tokens (hash, role, name, created_at)
    VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
pub const TOKENS: &str = "SELECT hash, role, name FROM tokens";
pub const ADD_SHARED: &str = "INSERT INTO shared_values (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
pub const SHARED: &str = "SELECT value FROM shared_values WHERE name = $1";
pub const SWAP_SHARED: &str = "UPDATE shared_values SET value = $3 WHERE name = $1 AND value = $2";
pub const REMOVE_TICKET_KEYS: &str = "DELETE FROM ticket_keys WHERE gateway = $1 AND period < $2";
pub const ADD_TICKET_KEY: &str = "INSERT INTO ticket_keys (gateway, period, secret)
    VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
pub const TICKET_KEYS: &str = "SELECT period, secret FROM ticket_keys WHERE gateway = $1 ORDER BY period";
pub const TARGET_VERSIONS: &str = "SELECT gateway, version FROM target_heads";
pub const TARGET_VERSION: &str = "SELECT h.version FROM gateways g LEFT JOIN target_heads h ON h.gateway = g.name
    WHERE g.name = $1";
pub const TARGETS: &str = "SELECT version, service, target, spec FROM targets WHERE gateway = $1";
pub const ADD_TARGET_HEAD: &str = "INSERT INTO target_heads (gateway, version) VALUES ($1, 0) ON CONFLICT DO NOTHING";
pub const MOVE_TARGET_HEAD: &str = "UPDATE target_heads SET version = $1 WHERE gateway = $2 AND version = $3";
pub const FORGET_TARGET_CHANGES: &str = "DELETE FROM target_changes WHERE gateway = $1 AND version <= $2";
pub const TARGET_CHANGES_SINCE: &str = "SELECT version, service, target, spec, author, created_at
    FROM target_changes WHERE gateway = $1 AND version > $2 ORDER BY version LIMIT $3";
pub const TARGET_LOG: &str = "SELECT version, service, target, spec, author, created_at
    FROM target_changes WHERE gateway = $1 AND version < $2 ORDER BY version DESC LIMIT $3";
pub const TARGET_LOG_OF_SERVICE: &str = "SELECT version, service, target, spec, author, created_at
    FROM target_changes WHERE gateway = $1 AND service = $4 AND version < $2 ORDER BY version DESC LIMIT $3";
