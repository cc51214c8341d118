-- post
-- What this server sends to other servers.

-- The servers that have users joined to a room, this server too. Written in the commit that changes
-- memberships. A server of which nobody is left keeps its row, with the event by which it left.
CREATE TABLE room_servers (
    room_id TEXT NOT NULL,
    server TEXT NOT NULL,
    joined_members BIGINT NOT NULL,
    left_id BIGINT,                              -- stream ID of the event by which the last member left
    PRIMARY KEY (room_id, server)
);
CREATE INDEX room_servers_server ON room_servers (server, room_id);
-- only postgres
INSERT INTO room_servers (room_id, server, joined_members)
SELECT room_id, substr(state_key, strpos(state_key, ':') + 1), count(*) FROM current_state
WHERE type = 'm.room.member' AND membership = 'join' GROUP BY 1, 2;
-- only sqlite
INSERT INTO room_servers (room_id, server, joined_members)
SELECT room_id, substr(state_key, instr(state_key, ':') + 1), count(*) FROM current_state
WHERE type = 'm.room.member' AND membership = 'join' GROUP BY 1, 2;

-- Until now all events were of this server.
ALTER TABLE room_heads ADD COLUMN sent_id BIGINT;    -- last event that this server sends to others
UPDATE room_heads SET sent_id = stream_id;

-- Events of other servers that this server sends to all servers in the room.
CREATE TABLE relayed_events (
    stream_id BIGINT NOT NULL PRIMARY KEY,       -- position of its row in the stream of events
    event_id TEXT NOT NULL
);

-- Up to where in each stream every destination of a federation sender has everything, or is behind.
CREATE TABLE federation_positions (
    sender TEXT NOT NULL,                        -- instance name
    stream TEXT NOT NULL,
    writer TEXT NOT NULL,
    position BIGINT NOT NULL,
    senders TEXT NOT NULL,                       -- all instances then, a JSON array
    PRIMARY KEY (sender, stream, writer)
);

-- Destinations that lack events or device list changes, because they failed.
CREATE TABLE behind_destinations (
    server TEXT NOT NULL PRIMARY KEY,
    since_ms BIGINT NOT NULL,
    events_after BIGINT NOT NULL,                -- they have all events up to this stream ID
    devices_after BIGINT NOT NULL                -- and all changes of device lists up to this one
);

-- To-device messages for users of other servers, deleted when they are delivered.
CREATE TABLE outgoing_to_device (
    id BIGINT NOT NULL PRIMARY KEY,
    destination TEXT NOT NULL,
    edu BYTEA NOT NULL,                          -- JSON
    created_ms BIGINT NOT NULL
);
CREATE INDEX outgoing_to_device_destination ON outgoing_to_device (destination, id);
CREATE INDEX outgoing_to_device_age ON outgoing_to_device (created_ms);
CREATE STREAM outgoing_to_device;
