-- pre
-- What is the same in all messages of a bundle is written once; '' if each is whole.

-- only postgres
ALTER TABLE inbox_bundles ADD COLUMN head BYTEA NOT NULL DEFAULT '';
-- only sqlite
ALTER TABLE inbox_bundles ADD COLUMN head BYTEA NOT NULL DEFAULT x'';
