-- pre
-- Servers that respond, and want no requests until `retry_ms` (status 429).

ALTER TABLE destinations ADD COLUMN is_limited SMALLINT NOT NULL DEFAULT 0;
