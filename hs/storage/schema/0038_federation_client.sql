-- pre
-- Requests to other servers: which of them fail, and the keys of all.

-- Servers that did not respond. Until `retry_ms` no requests are sent to them.
CREATE TABLE destinations (
    server TEXT NOT NULL PRIMARY KEY,
    failing_since_ms BIGINT NOT NULL,
    retry_ms BIGINT NOT NULL,
    interval_ms BIGINT NOT NULL                  -- from the last failure to `retry_ms`
);

-- Verify keys of other servers, also of former responses.
CREATE TABLE server_keys (
    server TEXT NOT NULL,
    key_id TEXT NOT NULL,
    verify_key TEXT NOT NULL,                    -- unpadded base64
    valid_until_ms BIGINT NOT NULL,              -- or the time at which the server retired the key
    PRIMARY KEY (server, key_id)
);

-- The latest response of each server, signed by it, for those that use this server as a notary.
CREATE TABLE server_key_responses (
    server TEXT NOT NULL PRIMARY KEY,
    response BYTEA NOT NULL,                     -- JSON
    fetched_ms BIGINT NOT NULL,
    valid_until_ms BIGINT NOT NULL
);
