-- pre
-- Gaps are filled when a client scrolls back to them: `depth` is that of the deepest event that cites
-- the missing one, `retry_ms` the time before which no server is asked for it again.

ALTER TABLE backward_extremities ADD COLUMN depth BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backward_extremities ADD COLUMN failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backward_extremities ADD COLUMN retry_ms BIGINT NOT NULL DEFAULT 0;
CREATE INDEX backward_extremities_depth ON backward_extremities (room_id, depth);
