-- pre
-- Addresses of users, proofs that somebody holds an address, and consent to the terms of use.

CREATE TABLE user_threepids (
    medium TEXT NOT NULL,
    address TEXT NOT NULL,                       -- in the form that is compared
    user_id TEXT NOT NULL,
    validated_ms BIGINT NOT NULL,
    added_ms BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX user_threepids_user ON user_threepids (user_id);

-- Validation of an address under way, or done: then it proves for a while who holds it.
CREATE TABLE threepid_sessions (
    sid TEXT NOT NULL PRIMARY KEY,
    purpose TEXT NOT NULL,                       -- register, password or 3pid; it proves no other
    client_secret TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    attempt BIGINT NOT NULL DEFAULT 0,           -- the last for which a message was sent
    remote_sid TEXT,                             -- its name at the server that sends text messages
    next_link TEXT,
    created_ms BIGINT NOT NULL,
    validated_ms BIGINT,
    UNIQUE (medium, address, client_secret, purpose)
);
CREATE INDEX threepid_sessions_age ON threepid_sessions (created_ms);

-- Each message has a token of its own; each of them confirms the session's address.
CREATE TABLE threepid_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY,
    sid TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX threepid_tokens_session ON threepid_tokens (sid);
CREATE INDEX threepid_tokens_age ON threepid_tokens (expires_ms);

CREATE TABLE user_consents (
    user_id TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,                       -- of the terms that were last agreed to
    given_ms BIGINT NOT NULL
);

-- What stages found out: JSON, by stage.
ALTER TABLE uia_sessions ADD COLUMN proved TEXT;
