-- pre
-- How often a server has not responded, one time after the other.

ALTER TABLE destinations ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
