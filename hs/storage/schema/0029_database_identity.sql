-- pre
-- A random name of this database, which is also written to the media folder: a database that is new
-- or was restored in the wrong place does not clean up a folder of another one.

CREATE TABLE database_identity (
    row_number SMALLINT NOT NULL PRIMARY KEY,    -- always 1
    identity TEXT NOT NULL
);
