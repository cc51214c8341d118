-- pre
-- Sliding sync: what each connection of each device has been sent.

-- One row per answer that changed what was sent; a state is its base with `delta` laid over it.
CREATE TABLE sliding_positions (
    position_id BIGINT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,                     -- '' for requesters without a device
    conn_id TEXT NOT NULL,
    base_id BIGINT,                              -- NULL: over nothing
    delta BYTEA NOT NULL,                        -- JSON, see hs/services/sync/sliding/codec.py
    created_ms BIGINT NOT NULL
);
CREATE INDEX sliding_positions_connection ON sliding_positions (user_id, device_id, conn_id);
CREATE INDEX sliding_positions_age ON sliding_positions (created_ms);

CREATE TABLE sliding_bases (
    base_id BIGINT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    conn_id TEXT NOT NULL,
    content BYTEA NOT NULL
);
CREATE INDEX sliding_bases_connection ON sliding_bases (user_id, device_id, conn_id);

CREATE STREAM sliding_positions;
