-- post
-- On SQLite, the words of a message are stored without what its event says already: hits are read
-- with their events anyway.

-- only sqlite
DROP TRIGGER search_entry_added;
-- only sqlite
DROP TRIGGER search_entry_removed;
-- only sqlite
ALTER TABLE search_entries RENAME TO search_entries_with_rooms;
-- only sqlite
CREATE TABLE search_entries (
    stream_id BIGINT NOT NULL PRIMARY KEY,       -- of the event
    words TEXT NOT NULL
);
-- only sqlite
INSERT INTO search_entries (stream_id, words)
SELECT stream_id, words FROM search_entries_with_rooms ORDER BY stream_id;
-- only sqlite
DROP TABLE search_entries_with_rooms;
-- only sqlite
CREATE TRIGGER search_entry_added AFTER INSERT ON search_entries BEGIN
    INSERT INTO search_words (rowid, words) VALUES (new.stream_id, new.words);
END;
-- only sqlite
CREATE TRIGGER search_entry_removed AFTER DELETE ON search_entries BEGIN
    INSERT INTO search_words (search_words, rowid, words)
    VALUES ('delete', old.stream_id, old.words);
END;
