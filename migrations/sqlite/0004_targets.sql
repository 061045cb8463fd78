-- The lane of targets: what is said about targets of services beside the configuration, and the newest version of it.
CREATE TABLE target_heads (
    gateway TEXT NOT NULL PRIMARY KEY REFERENCES gateways (name) ON DELETE CASCADE,
    version INTEGER NOT NULL
) STRICT;

-- What is said now, of each target its newest version.
CREATE TABLE targets (
    gateway TEXT NOT NULL REFERENCES target_heads (gateway) ON DELETE CASCADE,
    service TEXT NOT NULL,
    target TEXT NOT NULL,
    version INTEGER NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (gateway, service, target)
) STRICT;

-- Who said what and when, the newest of it. Without a spec, nothing was said any more.
CREATE TABLE target_changes (
    gateway TEXT NOT NULL REFERENCES target_heads (gateway) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    service TEXT NOT NULL,
    target TEXT NOT NULL,
    spec TEXT,
    author TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (gateway, version)
) STRICT;
CREATE INDEX target_changes_by_service ON target_changes (gateway, service, version);
