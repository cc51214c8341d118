-- post
-- What a user stores is limited: the number and the bytes of the keys in each version of a backup are
-- counted as they change. A deleted version loses its keys in several transactions.

ALTER TABLE key_backups ADD COLUMN key_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE key_backups ADD COLUMN key_bytes BIGINT NOT NULL DEFAULT 0;
UPDATE key_backups SET key_count = stored.key_count, key_bytes = stored.key_bytes FROM (
    SELECT user_id, version, count(*) AS key_count, sum(length(session_data)) AS key_bytes
    FROM key_backup_sessions GROUP BY user_id, version
) AS stored WHERE stored.user_id = key_backups.user_id AND stored.version = key_backups.version;
-- only postgres
UPDATE key_backups SET auth_data = '' WHERE is_deleted = 1;
-- only sqlite
UPDATE key_backups SET auth_data = x'' WHERE is_deleted = 1;
CREATE INDEX key_backups_deleted ON key_backups (user_id, version)
    WHERE is_deleted = 1 AND key_count > 0;

-- Of each user, only the latest reports are kept.
CREATE INDEX reports_reporter ON reports (reporter, id);
