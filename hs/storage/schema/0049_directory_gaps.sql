-- pre
-- The user directory reads the members of rooms after whose gaps their state came from other servers.

CREATE INDEX timeline_gaps_in_order ON timeline_gaps (stream_id, room_id);
