-- pre
-- Who uploads with a limit takes a turn, so that transactions at once see what each other adds.

CREATE TABLE media_turns (
    user_id TEXT NOT NULL PRIMARY KEY,
    turn BIGINT NOT NULL
);
