-- post
-- One-time keys lie as they were uploaded, many in one row, and are given out by counting.

CREATE TABLE key_batches (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    number BIGINT NOT NULL,                      -- grows: the lowest is given out first
    taken INTEGER NOT NULL DEFAULT 0,            -- how many were given out
    amount INTEGER NOT NULL,                     -- how many there were
    width INTEGER NOT NULL,                      -- bytes of each
    keys BYTEA NOT NULL,                         -- each as claimed, '{"algorithm:id":…}'
    PRIMARY KEY (user_id, device_id, algorithm, number)
);

ALTER TABLE devices ADD COLUMN last_batch BIGINT NOT NULL DEFAULT 0;

-- Claims read a few bytes of many, and change how many are taken.
-- only postgres
ALTER TABLE key_batches ALTER COLUMN keys SET STORAGE EXTERNAL;
-- only postgres
ALTER TABLE key_batches SET (fillfactor = 70);

-- only postgres
INSERT INTO key_batches (user_id, device_id, algorithm, number, amount, width, keys)
SELECT user_id, device_id, algorithm, number, 1, length(shown), shown FROM (
    SELECT user_id, device_id, algorithm,
        row_number() OVER (PARTITION BY user_id, device_id ORDER BY id) AS number,
        convert_to('{' || to_json(algorithm || ':' || key_id)::text || ':', 'UTF8')
            || content || '}'::bytea AS shown
    FROM one_time_keys
) AS held;
-- only sqlite
INSERT INTO key_batches (user_id, device_id, algorithm, number, amount, width, keys)
SELECT user_id, device_id, algorithm, number, 1, length(shown), shown FROM (
    SELECT user_id, device_id, algorithm,
        row_number() OVER (PARTITION BY user_id, device_id ORDER BY id) AS number,
        CAST('{' || json_quote(algorithm || ':' || key_id) || ':' || CAST(content AS TEXT) || '}'
            AS BLOB) AS shown
    FROM one_time_keys
) AS held;

UPDATE devices SET last_batch = COALESCE((
    SELECT max(k.number) FROM key_batches k
    WHERE k.user_id = devices.user_id AND k.device_id = devices.device_id
), 0);

DROP TABLE one_time_keys;
-- only postgres
DROP SEQUENCE IF EXISTS one_time_keys_ids;
-- only sqlite
DELETE FROM stream_ids WHERE stream = 'one_time_keys';
