-- pre
-- Application services: what waits to be sent to each, and the rooms of their networks.

-- How far streams are read: for all services together (service ''), or for one.
CREATE TABLE appservice_positions (
    service_id TEXT NOT NULL,
    stream TEXT NOT NULL,
    position TEXT NOT NULL,
    PRIMARY KEY (service_id, stream)
);

-- Events that a service is to get, in the order of `number`.
CREATE TABLE appservice_waiting (
    service_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (service_id, number)
);

-- The transaction that a service was sent or is about to be: word for word, until it has it.
CREATE TABLE appservice_transactions (
    service_id TEXT NOT NULL PRIMARY KEY,
    txn_id BIGINT NOT NULL,
    last_number BIGINT NOT NULL,                 -- of the waiting events that it holds
    body BYTEA NOT NULL,                         -- JSON
    messages BYTEA NOT NULL                      -- JSON: to-device messages in it, by device
);

-- Rooms that services list in directories of their own; `instance_id` is "service|network".
CREATE TABLE network_rooms (
    instance_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    PRIMARY KEY (instance_id, room_id)
);
CREATE INDEX network_rooms_room ON network_rooms (room_id);

CREATE STREAM appservice_waiting;
CREATE STREAM appservice_transactions;
