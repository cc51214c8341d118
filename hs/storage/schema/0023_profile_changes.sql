-- pre
-- Users whose name or avatar is to be shown in their rooms still: until all of them show it.

CREATE STREAM profile_changes;
CREATE TABLE profile_changes (
    user_id TEXT NOT NULL PRIMARY KEY,
    change_id BIGINT NOT NULL                    -- of the latest change
);
CREATE INDEX profile_changes_order ON profile_changes (change_id);
