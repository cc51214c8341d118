-- pre
-- Messages to many devices wait in one row at first, instead of one in each device's page of the
-- index: most are got and acknowledged before they are put under their devices.

CREATE TABLE inbox_bundles (
    stream_id BIGINT NOT NULL PRIMARY KEY,
    inboxes TEXT NOT NULL,                       -- ',1,-2,3,'
    messages BYTEA NOT NULL                      -- the events, one in a line, in the same order
);
CREATE UNIQUE INDEX devices_inbox ON devices (inbox);

-- What a device has acknowledged is not given again, wherever it still lies.
CREATE TABLE inbox_reads (
    inbox BIGINT NOT NULL PRIMARY KEY,
    upto BIGINT NOT NULL
);
