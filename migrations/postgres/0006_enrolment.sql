-- What lets nodes join. Of a token only the hash is kept.
CREATE TABLE join_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE,
    gateway TEXT NOT NULL REFERENCES gateways (name) ON DELETE CASCADE,
    uses BIGINT NOT NULL,
    uses_left BIGINT NOT NULL,
    author TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    revoked_at TIMESTAMPTZ
);

-- The nodes that have joined, with the newest certificate of each.
CREATE TABLE node_identities (
    gateway TEXT NOT NULL REFERENCES gateways (name) ON DELETE CASCADE,
    node_id TEXT NOT NULL,
    -- The id of the token that it joined with.
    join_token TEXT NOT NULL,
    -- SHA-256 of its public key.
    key_hash BYTEA NOT NULL,
    enrolled_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    revoked_at TIMESTAMPTZ,
    PRIMARY KEY (gateway, node_id)
);
