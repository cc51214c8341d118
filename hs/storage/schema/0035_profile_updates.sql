-- pre
-- The latest change of each profile field, also of fields that were deleted.

CREATE TABLE profile_updates (
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    is_set SMALLINT NOT NULL,                    -- 0: the field was deleted
    stream_id BIGINT NOT NULL,
    PRIMARY KEY (user_id, field)
);
CREATE INDEX profile_updates_order ON profile_updates (stream_id);
