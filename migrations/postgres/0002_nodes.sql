-- Which nodes there are and what each serves, as the replicas tell one another. Each replica says it again within
-- seconds, so nothing is lost with it, and an acknowledgement need not wait for the disk.
CREATE UNLOGGED TABLE nodes (
    gateway TEXT NOT NULL,
    node_id TEXT NOT NULL,
    -- The replica that the node is connected to, or was last.
    replica TEXT NOT NULL,
    connected BOOLEAN NOT NULL,
    changed_at TIMESTAMPTZ NOT NULL,
    -- When that replica last said that it still hears the node.
    last_seen TIMESTAMPTZ NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (gateway, node_id)
);
