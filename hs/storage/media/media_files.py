"""The files behind media: image properties, thumbnails, removal, and copies in other stores.

Removal has two steps, so that a file is never deleted while an upload claims it:

1. `mark_for_removal` marks a file that no media item refers to and no upload has claimed
   recently. A marked file is neither claimed nor given thumbnails.
2. The caller deletes the file from the store and calls `delete_file`.

A removal that was interrupted is listed again by `list_orphans`.
"""

from typing import NamedTuple

from hs.storage.database import Row, Tx

PICTURE = """
SELECT picture_type, width, height, is_animated FROM media_files
WHERE location = $1 AND picture_type IS NOT NULL
"""
SET_PICTURE = """
UPDATE media_files SET picture_type = $2, width = $3, height = $4, is_animated = $5
WHERE location = $1
"""
THUMBNAIL = """
SELECT content_type, size_bytes, thumbnail_location FROM media_thumbnails
WHERE location = $1 AND width = $2 AND height = $3 AND method = $4 AND is_animated = $5
"""
ADD_THUMBNAIL = """
INSERT INTO media_thumbnails (location, width, height, method, is_animated, content_type,
    size_bytes, thumbnail_location)
SELECT $1, $2, $3, $4, $5, $6, $7, $8
FROM media_files WHERE location = $1 AND removing = 0
ON CONFLICT (location, width, height, method, is_animated) DO UPDATE
SET content_type = excluded.content_type, size_bytes = excluded.size_bytes,
    thumbnail_location = excluded.thumbnail_location
"""
THUMBNAIL_COUNT = "SELECT count(*) FROM media_thumbnails WHERE location = $1"
THUMBNAILS = "SELECT thumbnail_location FROM media_thumbnails WHERE location = $1"
DELETE_THUMBNAILS = "DELETE FROM media_thumbnails WHERE location = $1"
MARK_FOR_REMOVAL = """
UPDATE media_files SET removing = 1
WHERE location = $1 AND (removing = 1 OR (claimed_ms < $2
    AND NOT EXISTS (SELECT 1 FROM media WHERE media.location = media_files.location)))
"""
ORPHANS = """
SELECT location FROM media_files
WHERE removing = 1 OR (claimed_ms < $1
    AND NOT EXISTS (SELECT 1 FROM media WHERE media.location = media_files.location))
ORDER BY location LIMIT $2
"""
DELETE_FILE = "DELETE FROM media_files WHERE location = $1 AND removing = 1"
EXISTS = "SELECT 1 FROM media_files WHERE location = $1"
UNCOPIED = """
SELECT location, (
    SELECT count(*) FROM media WHERE media.location = media_files.location AND origin = $1
) FROM media_files WHERE is_copied = 0 AND removing = 0 LIMIT $2
"""
COPIED = "UPDATE media_files SET is_copied = 1 WHERE location = $1"


class ImageProperties(NamedTuple):
    """The image properties of a file; an empty content type means that it is not an image."""

    content_type: str
    width: int
    height: int
    is_animated: bool


class ThumbnailSize(NamedTuple):
    """The size and method of a thumbnail, as requested."""

    width: int
    height: int
    method: str
    is_animated: bool


class ThumbnailRecord(NamedTuple):
    """A stored thumbnail."""

    content_type: str
    size_bytes: int
    location: str


async def image_properties(tx: Tx, location: str) -> ImageProperties | None:
    """Return the image properties of a file; None if they were not determined yet."""
    row = await tx.fetchrow(PICTURE, location)
    return None if row is None else ImageProperties(row[0], row[1], row[2], bool(row[3]))


async def set_image_properties(tx: Tx, location: str, properties: ImageProperties) -> None:
    """Store the image properties of a file."""
    await tx.execute(
        SET_PICTURE,
        location,
        properties.content_type,
        properties.width,
        properties.height,
        int(properties.is_animated),
    )


async def find_thumbnail(tx: Tx, location: str, size: ThumbnailSize) -> ThumbnailRecord | None:
    """Return a thumbnail of a file."""
    row = await tx.fetchrow(THUMBNAIL, location, *_key(size))
    return None if row is None else _thumbnail(row)


async def add_thumbnail(
    tx: Tx, location: str, size: ThumbnailSize, record: ThumbnailRecord
) -> None:
    """Insert or replace a thumbnail, unless its file is being removed."""
    await tx.execute(ADD_THUMBNAIL, location, *_key(size), *record)


async def thumbnail_count(tx: Tx, location: str) -> int:
    """Count the thumbnails of a file."""
    return int(await tx.fetchval(THUMBNAIL_COUNT, location))


async def mark_for_removal(tx: Tx, location: str, claimed_before_ms: int) -> bool:
    """Mark a file for removal if no media item refers to it; return whether it is marked."""
    return await tx.execute(MARK_FOR_REMOVAL, location, claimed_before_ms) > 0


async def list_orphans(tx: Tx, claimed_before_ms: int, limit: int) -> list[str]:
    """List files that no media item refers to, and those whose removal was interrupted."""
    return [row[0] for row in await tx.fetch(ORPHANS, claimed_before_ms, limit)]


async def thumbnail_locations(tx: Tx, location: str) -> list[str]:
    """Return the locations of a file's thumbnails."""
    return [row[0] for row in await tx.fetch(THUMBNAILS, location)]


async def delete_file(tx: Tx, location: str) -> None:
    """Delete the rows of a removed file and its thumbnails."""
    await tx.execute(DELETE_THUMBNAILS, location)
    await tx.execute(DELETE_FILE, location)


async def exists(tx: Tx, location: str) -> bool:
    """Return whether a file is known."""
    return await tx.fetchval(EXISTS, location) is not None


async def list_uncopied(tx: Tx, own_name: str, limit: int) -> list[tuple[str, bool]]:
    """List (location, is local) of files that are not yet copied to all further stores."""
    return [(row[0], bool(row[1])) for row in await tx.fetch(UNCOPIED, own_name, limit)]


async def set_copied(tx: Tx, location: str) -> None:
    """Mark a file as copied to all further stores."""
    await tx.execute(COPIED, location)


def _key(size: ThumbnailSize) -> tuple[int, int, str, int]:
    return size.width, size.height, size.method, int(size.is_animated)


def _thumbnail(row: Row) -> ThumbnailRecord:
    return ThumbnailRecord(row[0], row[1], row[2])
