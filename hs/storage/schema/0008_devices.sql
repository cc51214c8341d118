-- pre
-- End-to-end encryption: keys of devices and users, messages to devices, key backups.

-- What a device said of itself, as uploaded but without `unsigned`.
CREATE TABLE device_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    content BYTEA NOT NULL,                      -- canonical JSON
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage TEXT NOT NULL,                         -- master, self_signing, user_signing
    public_key TEXT NOT NULL,
    content BYTEA NOT NULL,                      -- canonical JSON, signatures included
    PRIMARY KEY (user_id, usage)
);

-- Signatures that came after the key they are on.
CREATE TABLE key_signatures (
    target_user_id TEXT NOT NULL,
    target_id TEXT NOT NULL,                     -- a device ID, or a public key
    signer_user_id TEXT NOT NULL,
    key_id TEXT NOT NULL,                        -- with its algorithm
    signature TEXT NOT NULL,
    PRIMARY KEY (target_user_id, target_id, signer_user_id, key_id)
);
CREATE INDEX key_signatures_signer ON key_signatures (signer_user_id, key_id);

-- `id` grows in the order of the uploads: the lowest is given out first.
CREATE TABLE one_time_keys (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,                        -- without its algorithm
    content BYTEA NOT NULL,                      -- canonical JSON
    UNIQUE (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_keys_order ON one_time_keys (user_id, device_id, algorithm, id);

CREATE TABLE fallback_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    content BYTEA NOT NULL,                      -- canonical JSON
    is_used SMALLINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- One row per change that others must hear of; superseded ones are pruned by age.
CREATE TABLE device_list_changes (
    stream_id BIGINT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT,                              -- NULL: of the user's own keys
    is_private SMALLINT NOT NULL,                -- 1: only the user's own devices see it
    created_ms BIGINT NOT NULL
);
CREATE INDEX device_list_changes_user ON device_list_changes (user_id, stream_id);

-- Messages that wait for devices of ours.
CREATE TABLE to_device_messages (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,
    message BYTEA NOT NULL,                      -- the event as its device gets it
    PRIMARY KEY (user_id, device_id, stream_id)
);

-- Idempotency: the requests to send that were done.
CREATE TABLE to_device_requests (
    user_id TEXT NOT NULL,                       -- the sender, or a server that sent an EDU
    device_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, event_type, txn_id)
);
CREATE INDEX to_device_requests_age ON to_device_requests (created_ms);

CREATE TABLE key_backups (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data BYTEA NOT NULL,                    -- JSON
    etag BIGINT NOT NULL DEFAULT 0,              -- grows with every change of the keys
    is_deleted SMALLINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE key_backup_sessions (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified SMALLINT NOT NULL,
    session_data BYTEA NOT NULL,                 -- JSON
    PRIMARY KEY (user_id, version, room_id, session_id)
);

-- A device of no client, that takes messages until the user logs in again (MSC3814).
CREATE TABLE dehydrated_devices (
    user_id TEXT NOT NULL PRIMARY KEY,
    device_id TEXT NOT NULL,
    device_data BYTEA NOT NULL                   -- JSON
);

CREATE STREAM one_time_keys;
CREATE STREAM key_backups;
