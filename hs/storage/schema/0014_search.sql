-- pre
-- Finding messages by their words; what is stored is words as search compares them.

-- only postgres
CREATE TABLE search_entries (
    stream_id BIGINT NOT NULL PRIMARY KEY,       -- of the event
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    sender TEXT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    words TSVECTOR NOT NULL
);
-- only sqlite
CREATE TABLE search_entries (
    stream_id BIGINT NOT NULL PRIMARY KEY,       -- of the event
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    sender TEXT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    words TEXT NOT NULL
);
CREATE INDEX search_entries_room ON search_entries (room_id, origin_server_ts);

-- only postgres
CREATE INDEX search_entries_words ON search_entries USING gin (words);
-- The words are ASCII in lower case or not ASCII, and nothing else: nothing is left to fold.
-- only sqlite
CREATE VIRTUAL TABLE search_words USING fts5(
    words, content = 'search_entries', content_rowid = 'stream_id', tokenize = 'ascii'
);
-- only sqlite
CREATE TRIGGER search_entry_added AFTER INSERT ON search_entries BEGIN
    INSERT INTO search_words (rowid, words) VALUES (new.stream_id, new.words);
END;
-- only sqlite
CREATE TRIGGER search_entry_removed AFTER DELETE ON search_entries BEGIN
    INSERT INTO search_words (search_words, rowid, words)
    VALUES ('delete', old.stream_id, old.words);
END;

-- How far events are indexed: of each writer, a vector.
CREATE TABLE search_progress (
    name TEXT NOT NULL PRIMARY KEY,
    position TEXT NOT NULL
);

-- Keeping: what says how long a room keeps its messages, redactions in their order, and rooms
-- that nobody here remembers, since when they are known to be such.
CREATE INDEX current_state_retention ON current_state (room_id) WHERE type = 'm.room.retention';
CREATE INDEX events_redactions ON events (stream_id) WHERE type = 'm.room.redaction';
CREATE TABLE forgotten_rooms (
    room_id TEXT NOT NULL PRIMARY KEY,
    since_ms BIGINT NOT NULL
);
CREATE TABLE keeping_progress (
    name TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);

-- The one room in which the server tells a user what it has to say.
CREATE TABLE notice_rooms (
    user_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL
);

-- Who was told of which version of the terms.
CREATE TABLE consent_notices (
    user_id TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL
);
