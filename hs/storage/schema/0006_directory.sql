-- pre
-- Finding users, and what users report.

-- Everybody we know a name of. Who may find whom is decided by rooms when somebody searches.
CREATE TABLE user_directory (
    user_id TEXT NOT NULL PRIMARY KEY,
    display_name TEXT,
    avatar_url TEXT,
    search_text TEXT NOT NULL,                   -- ID and name, case folded
    is_local SMALLINT NOT NULL
);

CREATE TABLE directory_progress (
    name TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);

-- What users found inappropriate: a room, an event in it, or a user.
CREATE TABLE reports (
    id BIGINT NOT NULL PRIMARY KEY,
    received_ms BIGINT NOT NULL,
    reporter TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,                                -- who is reported, or the sender of the event
    reason TEXT,
    score BIGINT
);
CREATE INDEX reports_room ON reports (room_id) WHERE room_id IS NOT NULL;
CREATE STREAM reports;
