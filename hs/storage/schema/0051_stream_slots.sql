-- pre
-- Which process writes what, of a stream that several processes may write: each key (a room, say)
-- belongs to one of 256 slots. `epoch` grows whenever a slot passes to another process.

CREATE TABLE stream_slots (
    stream TEXT NOT NULL,
    slot BIGINT NOT NULL,
    holder TEXT NOT NULL,                        -- name of the process
    epoch BIGINT NOT NULL,
    PRIMARY KEY (stream, slot)
);

-- Signs of life of the processes that may hold slots.
CREATE TABLE process_beats (
    instance TEXT NOT NULL PRIMARY KEY,
    life TEXT NOT NULL,                          -- random, another one after each start
    beat BIGINT NOT NULL,                        -- grows as long as the process runs
    streams TEXT NOT NULL                        -- of which it takes slots, separated by commas
);
