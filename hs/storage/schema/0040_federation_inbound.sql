-- pre
-- Events of other servers that wait until the events that they cite are here.

CREATE TABLE inbound_pdus (
    room_id TEXT NOT NULL,
    origin TEXT NOT NULL,                        -- the server that sent the event to us
    event_id TEXT NOT NULL,
    depth BIGINT NOT NULL,
    received_ms BIGINT NOT NULL,
    pdu BYTEA NOT NULL,
    PRIMARY KEY (room_id, origin, event_id)
);
CREATE INDEX inbound_pdus_age ON inbound_pdus (room_id, origin, received_ms, depth);

-- Events before which this server lacks some, by their number in the stream of events. Sync does not
-- show a client what is before them as if nothing were missing.
CREATE TABLE timeline_gaps (
    room_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,
    PRIMARY KEY (room_id, stream_id)
);
