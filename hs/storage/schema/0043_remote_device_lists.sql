-- pre
-- Devices and keys of users of other servers, kept while they share a room with users of this one.

CREATE TABLE remote_device_lists (
    user_id TEXT NOT NULL PRIMARY KEY,
    stream_id BIGINT,                            -- the update up to which it is complete, if known
    mark BIGINT NOT NULL,                        -- number of times it became stale
    is_stale SMALLINT NOT NULL,
    fetch_ms BIGINT NOT NULL,                    -- when to fetch it, if it is stale
    failures BIGINT NOT NULL
);
CREATE INDEX remote_device_lists_stale ON remote_device_lists (fetch_ms) WHERE is_stale = 1;

CREATE TABLE remote_devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    keys BYTEA NOT NULL,                         -- JSON as in a response to /keys/query
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE remote_cross_signing_keys (
    user_id TEXT NOT NULL,
    usage TEXT NOT NULL,
    content BYTEA NOT NULL,                      -- JSON
    PRIMARY KEY (user_id, usage)
);
