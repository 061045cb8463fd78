-- A gateway is a named fleet with its own sequence of revisions; head is the newest of them.
CREATE TABLE gateways (
    name TEXT NOT NULL PRIMARY KEY,
    head BIGINT NOT NULL DEFAULT 0
);

-- The resources of the head revision.
CREATE TABLE resources (
    gateway TEXT NOT NULL REFERENCES gateways (name),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (gateway, kind, name)
);

-- Every revision that was ever published, with what it changed.
CREATE TABLE revisions (
    gateway TEXT NOT NULL REFERENCES gateways (name),
    number BIGINT NOT NULL,
    parent BIGINT NOT NULL,
    author TEXT NOT NULL,
    message TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    digest TEXT NOT NULL,
    change_count BIGINT NOT NULL,
    changes TEXT NOT NULL,
    PRIMARY KEY (gateway, number)
);

-- Who may call the admin API or be a node. The token itself is not kept.
CREATE TABLE tokens (
    hash TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
