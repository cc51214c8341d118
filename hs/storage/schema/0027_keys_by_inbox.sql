-- post
-- A device's one-time keys of an algorithm lie in one row, under the number of its inbox, and are
-- given out by counting; they go with their device.

CREATE TABLE one_time_keys (
    inbox BIGINT NOT NULL REFERENCES devices (inbox) ON DELETE CASCADE,
    algorithm TEXT NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0,            -- how many were given out
    amount INTEGER NOT NULL,                     -- how many there were
    width INTEGER NOT NULL,                      -- bytes of each
    keys BYTEA NOT NULL,                         -- each as claimed, '{"algorithm:id":…}', and spaces
    PRIMARY KEY (inbox, algorithm)
);

-- Claims read a few bytes of many, and change how many are taken.
-- only postgres
ALTER TABLE one_time_keys ALTER COLUMN keys SET STORAGE EXTERNAL;
-- only postgres
ALTER TABLE one_time_keys SET (fillfactor = 70);

-- What no device may leave any more is left out: no client has so many keys, or so long ones.
-- only postgres
INSERT INTO one_time_keys (inbox, algorithm, amount, width, keys)
SELECT d.inbox, k.algorithm, count(*), kind.width, string_agg(
    substr(k.keys, places.place * k.width + 1, k.width)
        || convert_to(repeat(' ', kind.width - k.width), 'UTF8'),
    ''::bytea ORDER BY k.number, places.place
) FROM (
    SELECT user_id, device_id, algorithm, max(width) AS width FROM key_batches WHERE taken < amount
    GROUP BY user_id, device_id, algorithm HAVING max(width) * sum(amount - taken) <= 131072
) AS kind
JOIN key_batches k ON k.user_id = kind.user_id AND k.device_id = kind.device_id
    AND k.algorithm = kind.algorithm
JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
CROSS JOIN LATERAL generate_series(k.taken, k.amount - 1) AS places(place)
GROUP BY d.inbox, k.algorithm, kind.width;
-- only sqlite
INSERT INTO one_time_keys (inbox, algorithm, amount, width, keys)
WITH RECURSIVE places (place) AS (
    SELECT 0
    UNION ALL SELECT place + 1 FROM places WHERE place + 1 < (SELECT max(amount) FROM key_batches)
), kinds AS (
    SELECT user_id, device_id, algorithm, max(width) AS width FROM key_batches WHERE taken < amount
    GROUP BY user_id, device_id, algorithm HAVING max(width) * sum(amount - taken) <= 131072
), held AS (
    SELECT d.inbox, k.algorithm, k.number, places.place, kinds.width,
        CAST(substr(k.keys, places.place * k.width + 1, k.width) AS TEXT)
            || replace(hex(zeroblob(kinds.width - k.width)), '00', ' ') AS filled_up
    FROM kinds
    JOIN key_batches k ON k.user_id = kinds.user_id AND k.device_id = kinds.device_id
        AND k.algorithm = kinds.algorithm
    JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
    JOIN places ON places.place >= k.taken AND places.place < k.amount
)
SELECT DISTINCT inbox, algorithm, count(*) OVER whole, width,
    CAST(group_concat(filled_up, '') OVER whole AS BLOB)
FROM held WINDOW whole AS (
    PARTITION BY inbox, algorithm ORDER BY number, place
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
);

DROP TABLE key_batches;
ALTER TABLE devices DROP COLUMN last_batch;

ALTER TABLE fallback_keys RENAME TO fallback_keys_by_name;
CREATE TABLE fallback_keys (
    inbox BIGINT NOT NULL REFERENCES devices (inbox) ON DELETE CASCADE,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    content BYTEA NOT NULL,                      -- canonical JSON
    is_used SMALLINT NOT NULL DEFAULT 0,
    PRIMARY KEY (inbox, algorithm)
);
INSERT INTO fallback_keys (inbox, algorithm, key_id, content, is_used)
SELECT d.inbox, k.algorithm, k.key_id, k.content, k.is_used FROM fallback_keys_by_name k
JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id;
DROP TABLE fallback_keys_by_name;
