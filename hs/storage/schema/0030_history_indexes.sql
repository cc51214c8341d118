-- pre
-- The events of a room by time, so that the event closest to a time is found by an index.

-- only postgres
CREATE INDEX events_room_time ON events (room_id, origin_server_ts, stream_id) WHERE status = 0;
-- On SQLite every index ends with stream_id anyway.
-- only sqlite
CREATE INDEX events_room_time ON events (room_id, origin_server_ts) WHERE status = 0;
