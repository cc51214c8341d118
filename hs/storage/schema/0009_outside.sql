-- pre
-- Where users published their addresses, so that they can be withdrawn there; previews of links.

CREATE TABLE threepid_bindings (
    user_id TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    id_server TEXT NOT NULL,
    PRIMARY KEY (user_id, medium, address, id_server)
);

CREATE TABLE url_previews (
    url_hash TEXT NOT NULL PRIMARY KEY,          -- SHA-256 of the link and the languages, in hex
    url TEXT NOT NULL,
    preview BYTEA NOT NULL,                      -- JSON, as clients get it
    fetched_ts BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL
);

CREATE INDEX url_previews_by_expiry ON url_previews (expires_ts);

-- Images of previews are media of nobody; each content is kept once, as long as previews show it.
CREATE TABLE url_preview_images (
    sha256 TEXT NOT NULL PRIMARY KEY,            -- hexadecimal
    origin TEXT NOT NULL,
    media_id TEXT NOT NULL,
    used_ts BIGINT NOT NULL
);

CREATE INDEX url_preview_images_used ON url_preview_images (used_ts);
