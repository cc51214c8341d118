-- pre
-- Since when a server is in a room, and the period before that if it was in the room twice or more.
-- So events that were sent earlier are not sent to servers that joined afterwards. 0 stands for a
-- join of which the stream ID was not recorded: before all events.

ALTER TABLE room_servers ADD COLUMN joined_id BIGINT NOT NULL DEFAULT 0;  -- stream ID of the join
ALTER TABLE room_servers ADD COLUMN earlier_joined_id BIGINT;
ALTER TABLE room_servers ADD COLUMN earlier_left_id BIGINT;
