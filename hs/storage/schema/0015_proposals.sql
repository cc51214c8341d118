-- pre
-- Events to be sent later, and threads that users subscribe to.

CREATE TABLE delayed_events (
    delay_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,                     -- '' for requesters without a device
    scope TEXT NOT NULL,                         -- the path of the request, but for its txn_id
    txn_id TEXT,                                 -- NULL: the request had none
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,                              -- NULL: no state event
    content BYTEA NOT NULL,                      -- JSON
    origin_server_ts BIGINT,                     -- as an application service chose it
    delay_ms BIGINT NOT NULL,
    started_ms BIGINT NOT NULL,                  -- scheduled, or last restarted
    send_ms BIGINT NOT NULL,
    status SMALLINT NOT NULL,                    -- 0 scheduled, 1 being sent, 2 over
    taken_ms BIGINT,                             -- since when it is being sent
    event_id TEXT,                               -- of the event sent
    error BYTEA,                                 -- JSON: why none was
    finished_ms BIGINT
);
CREATE UNIQUE INDEX delayed_events_request ON delayed_events (user_id, device_id, scope, txn_id)
    WHERE txn_id IS NOT NULL;
CREATE INDEX delayed_events_due ON delayed_events (send_ms) WHERE status < 2;
CREATE INDEX delayed_events_user ON delayed_events (user_id, status);
CREATE INDEX delayed_events_age ON delayed_events (finished_ms) WHERE status = 2;

-- Those who unsubscribed stay, so that nobody is subscribed again by what they had seen.
CREATE TABLE thread_subscriptions (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    root_id TEXT NOT NULL,
    is_subscribed SMALLINT NOT NULL,
    is_automatic SMALLINT NOT NULL,
    events_upto BIGINT NOT NULL,                 -- number of the last event when it changed
    stream_id BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, root_id)
);
CREATE INDEX thread_subscriptions_changes ON thread_subscriptions (user_id, stream_id);
CREATE INDEX thread_subscriptions_thread ON thread_subscriptions (room_id, root_id);

CREATE STREAM thread_subscriptions;
