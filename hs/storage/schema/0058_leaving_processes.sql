-- pre
-- A process that stops takes no slots any more, and passes on those that it has.

ALTER TABLE process_beats ADD COLUMN is_leaving SMALLINT NOT NULL DEFAULT 0;
