-- post
-- Messages wait under a number of their device instead of its long name: with many devices each
-- message is in another page of the index, and the smaller the index the fewer pages are written.

CREATE STREAM inboxes;
ALTER TABLE devices ADD COLUMN inbox BIGINT;
UPDATE devices SET inbox = numbered.inbox FROM (
    SELECT user_id, device_id, -row_number() OVER (ORDER BY user_id, device_id) AS inbox FROM devices
) AS numbered WHERE numbered.user_id = devices.user_id AND numbered.device_id = devices.device_id;

CREATE TABLE inbox_messages (
    inbox BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    message BYTEA NOT NULL,                      -- the event as its device gets it
    PRIMARY KEY (inbox, stream_id)
);
INSERT INTO inbox_messages (inbox, stream_id, message)
SELECT d.inbox, m.stream_id, m.message FROM to_device_messages m
JOIN devices d ON d.user_id = m.user_id AND d.device_id = m.device_id;
DROP TABLE to_device_messages;

-- Of devices that are gone: what waits there, or is just being written, is still to be deleted.
CREATE TABLE closed_inboxes (
    inbox BIGINT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL
);
CREATE INDEX closed_inboxes_user ON closed_inboxes (user_id);
