-- pre
-- Events that are delivered whatever the limits of timelines are, for an hour at most (MSC4354).

CREATE TABLE sticky_events (
    event_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- the position of its row in the stream of events
    writer TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    soft_failed SMALLINT NOT NULL                -- 1: delivered only if a later check accepts it
);
CREATE INDEX sticky_events_room ON sticky_events (room_id, stream_id);
CREATE INDEX sticky_events_age ON sticky_events (expires_ms);

ALTER TABLE delayed_events ADD COLUMN sticky_ms BIGINT;
