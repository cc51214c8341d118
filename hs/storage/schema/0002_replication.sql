-- pre
-- Replication: how far each writer of each stream has come, its recent commits, and leases.

-- One row per stream and writer, rewritten by each commit.
CREATE TABLE stream_positions (
    stream TEXT NOT NULL,
    writer TEXT NOT NULL,                        -- name of the instance
    position BIGINT NOT NULL,
    PRIMARY KEY (stream, writer)
);

-- What recent commits added to streams, for readers that missed the message; pruned by age.
CREATE TABLE stream_log (
    stream TEXT NOT NULL,
    writer TEXT NOT NULL,
    position BIGINT NOT NULL,                    -- of the last row of the commit
    previous BIGINT NOT NULL,                    -- of the commit before it, by the same writer
    written_ms BIGINT NOT NULL,
    row_bytes BYTEA NOT NULL,
    PRIMARY KEY (stream, writer, position)
);
CREATE INDEX stream_log_age ON stream_log (written_ms);

-- What only one process may do or be at a time. `fence` grows with every change of hands.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

-- The ids of the streams whose rows are in tables.
CREATE STREAM events;
CREATE STREAM backfill;
CREATE STREAM receipts;
CREATE STREAM account_data;
CREATE STREAM push_rules;
CREATE STREAM pushers;
CREATE STREAM to_device;
CREATE STREAM device_lists;
