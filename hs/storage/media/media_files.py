"""The files behind media: pictures among them, their thumbnails, and how files end."""

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
CONDEMN = """
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


class Picture(NamedTuple):
    """What a file shows; without a content type it is no picture."""

    content_type: str
    width: int
    height: int
    is_animated: bool


class Size(NamedTuple):
    """A thumbnail as it was asked for."""

    width: int
    height: int
    method: str
    is_animated: bool


class Thumbnail(NamedTuple):
    """A thumbnail as it lies in the store."""

    content_type: str
    size_bytes: int
    location: str


async def picture(tx: Tx, location: str) -> Picture | None:
    """Tell what a file shows, if anybody looked before."""
    row = await tx.fetchrow(PICTURE, location)
    return None if row is None else Picture(row[0], row[1], row[2], bool(row[3]))


async def set_picture(tx: Tx, location: str, shown: Picture) -> None:
    """Note what a file shows."""
    await tx.execute(
        SET_PICTURE,
        location,
        shown.content_type,
        shown.width,
        shown.height,
        int(shown.is_animated),
    )


async def thumbnail(tx: Tx, location: str, size: Size) -> Thumbnail | None:
    """Find a thumbnail of a file."""
    row = await tx.fetchrow(THUMBNAIL, location, *_key(size))
    return None if row is None else _thumbnail(row)


async def add_thumbnail(tx: Tx, location: str, size: Size, made: Thumbnail) -> None:
    """Note a thumbnail, unless its file is being removed."""
    await tx.execute(ADD_THUMBNAIL, location, *_key(size), *made)


async def thumbnail_count(tx: Tx, location: str) -> int:
    """Count the thumbnails of a file."""
    return int(await tx.fetchval(THUMBNAIL_COUNT, location))


async def condemn(tx: Tx, location: str, claimed_before_ms: int) -> bool:
    """Mark a file for removal if no address has it; False when it is to stay."""
    return await tx.execute(CONDEMN, location, claimed_before_ms) > 0


async def orphans(tx: Tx, claimed_before_ms: int, limit: int) -> list[str]:
    """Find files without an address, and those whose removal was cut short."""
    return [row[0] for row in await tx.fetch(ORPHANS, claimed_before_ms, limit)]


async def thumbnails_of(tx: Tx, location: str) -> list[str]:
    """Give the locations of a file's thumbnails."""
    return [row[0] for row in await tx.fetch(THUMBNAILS, location)]


async def delete_file(tx: Tx, location: str) -> None:
    """Forget a file that has been removed, and its thumbnails."""
    await tx.execute(DELETE_THUMBNAILS, location)
    await tx.execute(DELETE_FILE, location)


async def exists(tx: Tx, location: str) -> bool:
    """Tell whether a file is known."""
    return await tx.fetchval(EXISTS, location) is not None


async def uncopied(tx: Tx, own_name: str, limit: int) -> list[tuple[str, bool]]:
    """Find files that have yet to be copied, and tell whether they are this server's own."""
    return [(row[0], bool(row[1])) for row in await tx.fetch(UNCOPIED, own_name, limit)]


async def set_copied(tx: Tx, location: str) -> None:
    """Note that every further place has a file."""
    await tx.execute(COPIED, location)


def _key(size: Size) -> tuple[int, int, str, int]:
    return size.width, size.height, size.method, int(size.is_animated)


def _thumbnail(row: Row) -> Thumbnail:
    return Thumbnail(row[0], row[1], row[2])
