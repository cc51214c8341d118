-- pre
-- One-time keys are given out by their device and their order; nothing finds them by their number
-- alone any more, and each index costs every upload 50 entries. On SQLite it is the table itself.

-- only postgres
ALTER TABLE one_time_keys DROP CONSTRAINT one_time_keys_pkey;
