-- What all replicas must agree on, by name: the key that seals secrets, itself sealed by a master key, and the authority
-- that certifies nodes. Whoever is first decides.
CREATE TABLE shared_values (
    name TEXT NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);
