-- pre
-- Outliers that got the state before them later keep their stream IDs. What reads events in order
-- finds them here: at the position in the stream of events, or, with a minus, of backfilled events.

CREATE TABLE placed_outliers (
    position BIGINT PRIMARY KEY,
    writer TEXT NOT NULL,                        -- of that position
    number BIGINT NOT NULL,                      -- the stream ID of the event
    room_id TEXT NOT NULL
);
CREATE INDEX placed_outliers_of_room ON placed_outliers (room_id);
