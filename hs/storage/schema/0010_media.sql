-- pre
-- Media: what each mxc:// address stands for, the files behind them, and thumbnails of these.

-- Without `location` it was announced but not uploaded: until `expires_ms`.
CREATE TABLE media (
    origin TEXT NOT NULL,                        -- server name
    media_id TEXT NOT NULL,
    user_id TEXT,                                -- who uploaded it; NULL: another server, or nobody
    content_type TEXT NOT NULL DEFAULT '',
    upload_name TEXT,
    location TEXT,                               -- of its file, in the media store
    size_bytes BIGINT NOT NULL DEFAULT 0,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    used_ms BIGINT NOT NULL,                     -- when somebody last asked for it, roughly
    needs_token SMALLINT NOT NULL,               -- 1: not shown by the endpoints without one
    is_protected SMALLINT NOT NULL DEFAULT 0,    -- 1: neither quarantine nor retention takes it
    quarantined_by TEXT,
    PRIMARY KEY (origin, media_id)
);
CREATE INDEX media_location ON media (location) WHERE location IS NOT NULL;
CREATE INDEX media_user ON media (user_id, created_ms) WHERE user_id IS NOT NULL;
CREATE INDEX media_pending ON media (expires_ms) WHERE location IS NULL;
CREATE INDEX media_used ON media (used_ms);

-- A file may stand behind many addresses. `removing` is set before it is taken from the disk, and
-- no address gets it from then on.
CREATE TABLE media_files (
    location TEXT NOT NULL PRIMARY KEY,
    sha256 TEXT,                                 -- hexadecimal; NULL for files found in the store
    size_bytes BIGINT NOT NULL,
    claimed_ms BIGINT NOT NULL,                  -- when an address last got it
    removing SMALLINT NOT NULL DEFAULT 0,
    is_copied SMALLINT NOT NULL,                 -- 0: further places are to get a copy
    picture_type TEXT,                           -- '': no picture; NULL: nobody looked yet
    width BIGINT NOT NULL DEFAULT 0,
    height BIGINT NOT NULL DEFAULT 0,
    is_animated SMALLINT NOT NULL DEFAULT 0
);
CREATE INDEX media_files_sha256 ON media_files (sha256);
CREATE INDEX media_files_uncopied ON media_files (location) WHERE is_copied = 0;
CREATE INDEX media_files_removing ON media_files (location) WHERE removing = 1;

CREATE TABLE media_thumbnails (
    location TEXT NOT NULL,                      -- of the file it was made of
    width BIGINT NOT NULL,                       -- what was asked for, not what came out
    height BIGINT NOT NULL,
    method TEXT NOT NULL,                        -- crop, scale
    is_animated SMALLINT NOT NULL,
    content_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    thumbnail_location TEXT NOT NULL,
    PRIMARY KEY (location, width, height, method, is_animated)
);
