-- Revisions that went out in steps, or past them. The document says the rest. A rollout goes on only while its revision is
-- the head: whatever is published after it ends it.
CREATE TABLE rollouts (
    gateway TEXT NOT NULL REFERENCES gateways (name) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    -- Counts changes: who changes it says which one they saw.
    version INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    -- The revision that took its place, if it was rolled back or passed over.
    ended_by INTEGER,
    document TEXT NOT NULL,
    PRIMARY KEY (gateway, revision)
) STRICT;
CREATE INDEX rollouts_open ON rollouts (gateway) WHERE is_open;
CREATE INDEX rollouts_by_end ON rollouts (gateway, ended_by) WHERE ended_by IS NOT NULL;

-- How changes of a gateway go out unless they say otherwise.
CREATE TABLE rollout_strategies (
    gateway TEXT NOT NULL PRIMARY KEY REFERENCES gateways (name) ON DELETE CASCADE,
    strategy TEXT NOT NULL
) STRICT;
