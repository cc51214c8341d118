-- pre
-- Search lists the latest hits in the order of their arrival.

DROP INDEX search_entries_room;
CREATE INDEX search_entries_room ON search_entries (room_id, stream_id);
