-- pre
-- Events of this server by which users of servers that are not in the room were removed: invites
-- and knocks that were withdrawn, and bans. Written in the commit of the event. A server that is
-- behind is sent them when it responds again; without a row, nothing would tell which they are.

CREATE TABLE outside_removals (
    server TEXT NOT NULL,                        -- of the user
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- of the last such event
    PRIMARY KEY (server, room_id, user_id)
);
CREATE INDEX outside_removals_stream_id ON outside_removals (stream_id);
CREATE INDEX outside_removals_room ON outside_removals (room_id);
