-- post
-- Rows of transaction IDs and of push results refer to events by number, not by ID.

ALTER TABLE transaction_ids RENAME TO transaction_ids_by_event;
CREATE TABLE transaction_ids (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,                     -- '' for tokens without a device
    scope TEXT NOT NULL,                         -- the request's path without the transaction ID
    txn_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- of the event
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, scope, txn_id)
);
INSERT INTO transaction_ids (user_id, device_id, scope, txn_id, stream_id, created_ms)
SELECT t.user_id, t.device_id, t.scope, t.txn_id, e.stream_id, t.created_ms
FROM transaction_ids_by_event t JOIN events e ON e.event_id = t.event_id;
DROP TABLE transaction_ids_by_event;
CREATE INDEX transaction_ids_event ON transaction_ids (stream_id);
CREATE INDEX transaction_ids_age ON transaction_ids (created_ms);

ALTER TABLE push_outcomes DROP COLUMN event_id;

-- On SQLite nothing looks for the entries of a room: the events of a room tell which they are.
-- only sqlite
DROP INDEX search_entries_room;
