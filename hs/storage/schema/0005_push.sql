-- pre
-- Push rules, and what events do to users by them.

CREATE TABLE push_rulesets (
    user_id TEXT NOT NULL PRIMARY KEY,
    rules BYTEA NOT NULL,                        -- JSON: own rules, and changes to the default ones
    stream_id BIGINT NOT NULL
);

-- What an event does to all local members whose rules are the default ones; only if it notifies.
CREATE TABLE push_outcomes (
    stream_id BIGINT NOT NULL PRIMARY KEY,       -- of the event
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,                     -- 'main', or the root's event ID
    sender TEXT NOT NULL,
    notify SMALLINT NOT NULL,
    highlight SMALLINT NOT NULL,
    actions TEXT NOT NULL                        -- JSON
);
CREATE INDEX push_outcomes_room ON push_outcomes (room_id, stream_id);

-- What it does to a user beyond that: the differences count, and may be negative.
CREATE TABLE push_exceptions (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- of the event
    event_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    notify SMALLINT NOT NULL,                    -- difference: -1, 0 or 1
    highlight SMALLINT NOT NULL,                 -- difference: -1, 0 or 1
    actions TEXT NOT NULL,                       -- JSON, '' when it does not notify the user
    PRIMARY KEY (user_id, room_id, stream_id)
);
CREATE INDEX push_exceptions_event ON push_exceptions (stream_id);

-- Up to where users have read without a receipt: by joining (thread '') or by sending.
CREATE TABLE push_marks (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, thread_id)
);

-- How far the stream of events is evaluated: one row.
CREATE TABLE push_progress (
    name TEXT NOT NULL PRIMARY KEY,
    position TEXT NOT NULL
);
