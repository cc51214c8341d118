-- pre
-- Responses of other servers with keys that their later responses lack, for those that use this
-- server as a notary.
CREATE TABLE former_key_responses (
    server TEXT NOT NULL,
    key_id TEXT NOT NULL,
    response BYTEA NOT NULL,                     -- JSON
    valid_until_ms BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);
