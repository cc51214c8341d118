-- pre
-- Whose keys the user signed, for private changes; NULL: their own, or of a time before this column.

ALTER TABLE device_list_changes ADD COLUMN target_user_id TEXT;
