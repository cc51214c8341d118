-- pre
-- What passes: receipts and presence. Who types is only in memory.

-- The last receipt of each user, of each type, in each thread of a room.
CREATE TABLE receipts (
    room_id TEXT NOT NULL,
    receipt_type TEXT NOT NULL,                  -- m.read, m.read.private
    user_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,                     -- '' unthreaded, 'main', or the root's event ID
    event_id TEXT NOT NULL,
    event_stream_id BIGINT,                      -- NULL: the event is not here yet
    ts BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    PRIMARY KEY (room_id, receipt_type, user_id, thread_id)
);

-- The presence of our users and of those who told us theirs, as it was last told.
CREATE TABLE presence (
    user_id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,                         -- online, unavailable, offline
    last_active_ms BIGINT NOT NULL,
    status_msg TEXT,
    currently_active SMALLINT NOT NULL
);
CREATE INDEX presence_not_offline ON presence (user_id) WHERE state <> 'offline';
