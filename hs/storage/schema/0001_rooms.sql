-- pre
-- Rooms: the log of events, the snapshots of state, and what is read often of both.
-- One text for both engines; the dialect translates the types (BYTEA, BIGINT, SMALLINT as 0 or 1).

CREATE TABLE rooms (
    room_id TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    is_public SMALLINT NOT NULL DEFAULT 0        -- listed in the room directory
);
CREATE INDEX rooms_listed ON rooms (room_id) WHERE is_public = 1;

-- The moving end of a room: one row, rewritten by each commit that touches the room.
CREATE TABLE room_heads (
    room_id TEXT NOT NULL PRIMARY KEY,
    extremities TEXT NOT NULL,                   -- JSON array of event IDs: the forward extremities
    snapshot_id BIGINT NOT NULL,                 -- state after all of them (resolved)
    depth BIGINT NOT NULL,                       -- greatest depth among them
    stream_id BIGINT NOT NULL                    -- last event committed
);

-- Every event that this server keeps. `stream_id` orders the log of all rooms and is the event's
-- number elsewhere; events fetched from before our time have negative numbers.
CREATE TABLE events (
    stream_id BIGINT NOT NULL PRIMARY KEY,
    writer TEXT NOT NULL,                        -- instance that committed it
    event_id TEXT NOT NULL UNIQUE,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    depth BIGINT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    snapshot_id BIGINT,                          -- state BEFORE the event; NULL for outliers
    status SMALLINT NOT NULL DEFAULT 0,          -- 0 accepted, 1 soft-failed, 2 rejected, 3 outlier
    contains_url SMALLINT NOT NULL DEFAULT 0,    -- for the filters' contains_url
    redacted_by TEXT,                            -- the redaction in force, if any
    pdu BYTEA NOT NULL                           -- canonical JSON, as signed, never rewritten
);
-- Order of a room's history (/messages): depth, then stream. Outliers and rejected events are not in it.
CREATE INDEX events_room_order ON events (room_id, depth, stream_id) WHERE status = 0;
-- Order of a room's arrival (/sync).
CREATE INDEX events_room_stream ON events (room_id, stream_id);

-- Interned (type, state_key) pairs.
CREATE TABLE state_keys (
    id BIGINT NOT NULL PRIMARY KEY,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    UNIQUE (type, state_key)
);

-- A snapshot is its parent's map with `delta` laid over it; with no parent the delta is the whole map.
-- delta: packed (state_keys.id, events.stream_id) pairs, two unsigned/signed 64-bit big-endian integers each.
CREATE TABLE state_snapshots (
    id BIGINT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    parent_id BIGINT,
    hops SMALLINT NOT NULL,                      -- distance to the full snapshot below it
    delta BYTEA NOT NULL
);
CREATE INDEX state_snapshots_room ON state_snapshots (room_id);

-- The current state of each room, entry by entry.
CREATE TABLE current_state (
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- of that event
    membership TEXT,                             -- of m.room.member only
    PRIMARY KEY (room_id, type, state_key)
);
CREATE INDEX current_state_members ON current_state (room_id, membership) WHERE membership IS NOT NULL;
CREATE INDEX current_state_rooms_of ON current_state (state_key, membership) WHERE membership IS NOT NULL;

-- What each local user has to do with each room; survives our leaving the room.
CREATE TABLE local_memberships (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    membership TEXT NOT NULL,
    event_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- of that event
    sender TEXT NOT NULL,
    forgotten SMALLINT NOT NULL DEFAULT 0,
    stripped_state BYTEA,                        -- JSON array: invite or knock state of rooms we are not in
    PRIMARY KEY (user_id, room_id)
);

-- What lists of rooms show; kept in the same commit as the state it is read from.
CREATE TABLE room_summaries (
    room_id TEXT NOT NULL PRIMARY KEY,
    name TEXT,
    topic TEXT,
    avatar_url TEXT,
    canonical_alias TEXT,
    join_rule TEXT,
    history_visibility TEXT,
    guest_access TEXT,
    encryption TEXT,
    room_type TEXT,
    joined_members BIGINT NOT NULL,
    invited_members BIGINT NOT NULL,
    tombstoned SMALLINT NOT NULL DEFAULT 0
);

CREATE TABLE relations (
    event_id TEXT NOT NULL PRIMARY KEY,          -- the child
    room_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    rel_type TEXT NOT NULL,
    aggregation_key TEXT,
    type TEXT NOT NULL,                          -- of the child
    sender TEXT NOT NULL,
    depth BIGINT NOT NULL,
    stream_id BIGINT NOT NULL
);
CREATE INDEX relations_parent ON relations (parent_id, rel_type, depth, stream_id);
CREATE INDEX relations_threads ON relations (room_id, stream_id) WHERE rel_type = 'm.thread';

-- One row per thread: its root, its last reply and the number of replies.
CREATE TABLE threads (
    root_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    latest_event_id TEXT NOT NULL,
    latest_stream_id BIGINT NOT NULL,
    replies BIGINT NOT NULL
);
CREATE INDEX threads_room ON threads (room_id, latest_stream_id);

CREATE TABLE redactions (
    redaction_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    redacts TEXT NOT NULL,
    sender TEXT NOT NULL
);
CREATE INDEX redactions_redacts ON redactions (redacts);

-- Idempotency: what a device's request with a transaction ID has produced.
CREATE TABLE transaction_ids (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,                     -- '' for tokens without a device
    scope TEXT NOT NULL,                         -- the request's path without the transaction ID
    txn_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, scope, txn_id)
);
CREATE INDEX transaction_ids_event ON transaction_ids (event_id);
CREATE INDEX transaction_ids_age ON transaction_ids (created_ms);

-- Chain cover of the auth graph: each state event has a place in a chain, chains are linked.
CREATE TABLE auth_chains (
    stream_id BIGINT NOT NULL PRIMARY KEY,       -- of the event
    event_id TEXT NOT NULL UNIQUE,
    room_id TEXT NOT NULL,
    chain_id BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    UNIQUE (chain_id, sequence)
);
CREATE INDEX auth_chains_room ON auth_chains (room_id);
CREATE TABLE auth_chain_links (
    origin_chain BIGINT NOT NULL,
    origin_sequence BIGINT NOT NULL,
    target_chain BIGINT NOT NULL,
    target_sequence BIGINT NOT NULL,
    PRIMARY KEY (origin_chain, origin_sequence, target_chain, target_sequence)
);

-- Events that known events cite and that we lack.
CREATE TABLE backward_extremities (
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, event_id)
);

-- Aliases of this server.
CREATE TABLE room_aliases (
    alias TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX room_aliases_room ON room_aliases (room_id);

-- Numbers of interned state keys and of snapshots.
CREATE STREAM state_keys;
CREATE STREAM state_snapshots;
