-- pre
-- Unread counts: the results of threads and highlights are found without those of the main timeline.

-- only postgres
CREATE INDEX push_outcomes_threads ON push_outcomes (room_id, stream_id) WHERE thread_id <> 'main';
-- only sqlite
CREATE INDEX push_outcomes_threads ON push_outcomes (room_id) WHERE thread_id <> 'main';
CREATE INDEX push_exceptions_threads ON push_exceptions (user_id, room_id, stream_id)
    WHERE thread_id <> 'main';
-- only postgres
CREATE INDEX push_outcomes_highlights ON push_outcomes (room_id, stream_id) WHERE highlight <> 0;
-- only sqlite
CREATE INDEX push_outcomes_highlights ON push_outcomes (room_id) WHERE highlight <> 0;
CREATE INDEX push_exceptions_highlights ON push_exceptions (user_id, room_id, stream_id)
    WHERE highlight <> 0;
