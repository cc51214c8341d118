-- pre
-- Which life of a writer's process may move its position: the one that began last.

ALTER TABLE stream_positions ADD COLUMN life TEXT NOT NULL DEFAULT '';
