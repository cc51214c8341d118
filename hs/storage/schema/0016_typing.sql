-- pre
-- Where somebody typed a moment ago: after a crash, clients are told that nobody does any more.

CREATE TABLE typing_rooms (
    room_id TEXT NOT NULL PRIMARY KEY
);
