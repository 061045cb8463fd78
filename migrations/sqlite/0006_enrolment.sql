-- What lets nodes join. Of a token only the hash is kept.
CREATE TABLE join_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    gateway TEXT NOT NULL REFERENCES gateways (name) ON DELETE CASCADE,
    uses INTEGER NOT NULL,
    uses_left INTEGER NOT NULL,
    author TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT
) STRICT;

-- The nodes that have joined, with the newest certificate of each.
CREATE TABLE node_identities (
    gateway TEXT NOT NULL REFERENCES gateways (name) ON DELETE CASCADE,
    node_id TEXT NOT NULL,
    -- The id of the token that it joined with.
    join_token TEXT NOT NULL,
    -- SHA-256 of its public key.
    key_hash BLOB NOT NULL,
    enrolled_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT,
    PRIMARY KEY (gateway, node_id)
) STRICT;
