-- Keys of the session tickets of a gateway's nodes, one for each period of twelve hours, counted from 1970.
CREATE TABLE ticket_keys (
    gateway TEXT NOT NULL REFERENCES gateways (name),
    period BIGINT NOT NULL,
    secret BYTEA NOT NULL,
    PRIMARY KEY (gateway, period)
);
