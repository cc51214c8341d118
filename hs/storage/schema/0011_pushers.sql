-- pre
-- Pushers: where notifications of users go, and what still has to be sent there.

CREATE TABLE pushers (
    user_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    kind TEXT NOT NULL,                          -- http, email
    app_display_name TEXT NOT NULL,
    device_display_name TEXT NOT NULL,
    profile_tag TEXT NOT NULL,
    lang TEXT NOT NULL,
    data TEXT NOT NULL,                          -- JSON object
    enabled SMALLINT NOT NULL,
    device_id TEXT NOT NULL,                     -- the device that it belongs to; '' for none
    set_ms BIGINT NOT NULL,
    position BIGINT NOT NULL,                    -- in push_queue: all up to here is done
    PRIMARY KEY (user_id, app_id, pushkey)
);
CREATE INDEX pushers_pushkey ON pushers (pushkey, app_id);

-- Notifications of users who have pushers, until all of these are past them. `seq` grows in the
-- order in which events were evaluated.
CREATE TABLE push_queue (
    user_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,                   -- of the event
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,                     -- 'main', or the root's event ID
    actions TEXT NOT NULL,                       -- JSON
    added_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, seq)
);

-- When a pusher last mailed about a room, and how long it is silent about it after that.
CREATE TABLE push_throttles (
    user_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    room_id TEXT NOT NULL,
    sent_ms BIGINT NOT NULL,
    throttle_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, app_id, pushkey, room_id)
);

-- How far events were evaluated at the end of days, to tell the age of push_outcomes.
CREATE TABLE push_days (
    day BIGINT NOT NULL PRIMARY KEY,             -- days since 1970
    stream_id BIGINT NOT NULL                    -- all events up to here were there before its end
);
