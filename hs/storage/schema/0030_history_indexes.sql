-- pre
-- Pages of history are ranges of an index: the events of a room by time, and the children of an
-- event whatever their relation.

-- only postgres
CREATE INDEX events_room_time ON events (room_id, origin_server_ts, stream_id) WHERE status = 0;
-- On SQLite every index ends with stream_id anyway.
-- only sqlite
CREATE INDEX events_room_time ON events (room_id, origin_server_ts) WHERE status = 0;
CREATE INDEX relations_children ON relations (parent_id, depth, stream_id);
