-- pre
-- Accounts: users, their devices and tokens, profiles, account data, filters.
-- Tokens are kept as the SHA-256 of their text, in hexadecimal.

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY,
    password_hash TEXT,                          -- bcrypt; NULL: nobody logs in with a password
    created_ms BIGINT NOT NULL,
    is_guest SMALLINT NOT NULL DEFAULT 0,
    is_admin SMALLINT NOT NULL DEFAULT 0,
    is_shadow_banned SMALLINT NOT NULL DEFAULT 0,
    is_locked SMALLINT NOT NULL DEFAULT 0,
    is_suspended SMALLINT NOT NULL DEFAULT 0,
    is_deactivated SMALLINT NOT NULL DEFAULT 0,
    is_erased SMALLINT NOT NULL DEFAULT 0,
    user_type TEXT,
    appservice_id TEXT                           -- the application service that made the account
);
CREATE INDEX users_lower ON users (lower(user_id));
CREATE INDEX users_erased ON users (user_id) WHERE is_erased = 1;

CREATE TABLE devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_ms BIGINT NOT NULL,
    last_seen_ms BIGINT,
    last_seen_ip TEXT,
    last_seen_user_agent TEXT,
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE access_tokens (
    id BIGINT NOT NULL PRIMARY KEY,
    token_hash TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    device_id TEXT,
    created_ms BIGINT NOT NULL,
    valid_until_ms BIGINT,
    refresh_id BIGINT,                           -- the refresh token that came with it
    is_used SMALLINT NOT NULL DEFAULT 0,         -- kept only for those that came with one
    proved_ms BIGINT NOT NULL DEFAULT 0          -- when its holder last proved who they are
);
CREATE INDEX access_tokens_device ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_refresh ON access_tokens (refresh_id) WHERE refresh_id IS NOT NULL;

-- A refresh token lives until one that came after it, or its access token, is used.
CREATE TABLE refresh_tokens (
    id BIGINT NOT NULL PRIMARY KEY,
    token_hash TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    next_id BIGINT,                              -- the one it was exchanged for
    expires_ms BIGINT,
    session_ends_ms BIGINT                       -- no token of this session outlives this
);
CREATE INDEX refresh_tokens_device ON refresh_tokens (user_id, device_id);
CREATE INDEX refresh_tokens_next ON refresh_tokens (next_id) WHERE next_id IS NOT NULL;

-- For m.login.token; each serves once.
CREATE TABLE login_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE TABLE openid_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX openid_tokens_age ON openid_tokens (expires_ms);

CREATE TABLE registration_tokens (
    token TEXT NOT NULL PRIMARY KEY,
    uses_allowed BIGINT,                         -- NULL: any number
    uses BIGINT NOT NULL DEFAULT 0,
    expires_ms BIGINT                            -- NULL: never
);

-- Nonces given out for registration with the shared secret.
CREATE TABLE registration_nonces (
    nonce TEXT NOT NULL PRIMARY KEY,
    expires_ms BIGINT NOT NULL
);

-- User-interactive authentication under way.
CREATE TABLE uia_sessions (
    session_id TEXT NOT NULL PRIMARY KEY,
    operation TEXT NOT NULL,                     -- what it is for; it serves nothing else
    user_id TEXT NOT NULL,                       -- '' before registration
    created_ms BIGINT NOT NULL,
    completed TEXT NOT NULL,                     -- JSON array of stages
    registration_token TEXT,
    remembered TEXT,                             -- JSON object: what the first request asked for
    outcome TEXT                                 -- what came of it; such a session proves no more
);
CREATE INDEX uia_sessions_age ON uia_sessions (created_ms);
CREATE INDEX uia_sessions_token ON uia_sessions (registration_token)
    WHERE registration_token IS NOT NULL;

CREATE TABLE profiles (
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    value BYTEA NOT NULL,                        -- JSON
    PRIMARY KEY (user_id, field)
);

-- Tags of rooms are the type m.tag.
CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,                       -- '' for data of the account
    type TEXT NOT NULL,
    content BYTEA NOT NULL,                      -- JSON
    stream_id BIGINT NOT NULL,                   -- of its last change
    PRIMARY KEY (user_id, room_id, type)
);

CREATE TABLE filters (
    user_id TEXT NOT NULL,
    filter_id BIGINT NOT NULL,
    digest TEXT NOT NULL,                        -- of the content, so that equal ones are one
    content BYTEA NOT NULL,                      -- JSON
    PRIMARY KEY (user_id, filter_id),
    UNIQUE (user_id, digest)
);

CREATE STREAM access_tokens;
CREATE STREAM refresh_tokens;
CREATE STREAM filters;
CREATE STREAM guests;
