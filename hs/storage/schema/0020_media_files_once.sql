-- pre
-- Of equal files only one is given to new addresses; others from before go on by themselves.

UPDATE media_files SET sha256 = NULL WHERE EXISTS (
    SELECT 1 FROM media_files other
    WHERE other.sha256 = media_files.sha256 AND other.location < media_files.location
);
DROP INDEX media_files_sha256;
CREATE UNIQUE INDEX media_files_sha256 ON media_files (sha256)
    WHERE removing = 0 AND sha256 IS NOT NULL;
