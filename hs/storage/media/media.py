"""Media: the rows behind mxc:// URIs, from reservation to deletion."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.rows import UpdateRows

_COLUMNS = """origin, media_id, user_id, content_type, upload_name, location, size_bytes,
created_ms, expires_ms, needs_token, is_protected, quarantined_by"""
GET = f"SELECT {_COLUMNS} FROM media WHERE origin = $1 AND media_id = $2"
ANNOUNCE = """
INSERT INTO media (origin, media_id, user_id, created_ms, expires_ms, used_ms, needs_token)
VALUES ($1, $2, $3, $4, $5, $4, $6)
"""
PENDING = """
SELECT count(*), min(expires_ms) FROM media
WHERE user_id = $1 AND location IS NULL AND expires_ms > $2
"""
ADD = """
INSERT INTO media (origin, media_id, user_id, content_type, upload_name, location, size_bytes,
    created_ms, used_ms, needs_token)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)
ON CONFLICT (origin, media_id) DO NOTHING
"""
FILL = """
UPDATE media SET content_type = $3, upload_name = $4, location = $5, size_bytes = $6,
    needs_token = $7, used_ms = $8, created_ms = $8, expires_ms = NULL
WHERE origin = $1 AND media_id = $2 AND location IS NULL AND expires_ms > $8
"""
CLAIM = """
UPDATE media_files SET claimed_ms = $2 WHERE location = (
    SELECT min(location) FROM media_files WHERE sha256 = $1 AND removing = 0
) AND removing = 0
RETURNING location
"""
# If an equal file is inserted at the same time, one transaction conflicts, is run again, and then
# claims the other's file.
ADD_FILE = """
INSERT INTO media_files (location, sha256, size_bytes, claimed_ms, is_copied)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
UPLOADED = """
SELECT coalesce(sum(size_bytes), 0) FROM media
WHERE user_id = $1 AND created_ms > $2 AND location IS NOT NULL
"""
TAKE_TURN = """
INSERT INTO media_turns (user_id, turn) VALUES ($1, 1)
ON CONFLICT (user_id) DO UPDATE SET turn = media_turns.turn + 1
"""
DELETE = "DELETE FROM media WHERE origin = $1 AND media_id = $2 RETURNING location"
QUARANTINE = """
UPDATE media SET quarantined_by = $3 WHERE origin = $1 AND media_id = $2 AND is_protected = 0
"""
EXPIRE = "DELETE FROM media WHERE location IS NULL AND expires_ms <= $1"
UNUSED = """
SELECT origin, media_id FROM media
WHERE used_ms < $2 AND origin = $1 AND location IS NOT NULL
    AND is_protected = 0 AND quarantined_by IS NULL
ORDER BY used_ms LIMIT $3
"""
UNUSED_REMOTE = """
SELECT origin, media_id FROM media
WHERE used_ms < $2 AND origin <> $1 AND location IS NOT NULL
    AND is_protected = 0 AND quarantined_by IS NULL
ORDER BY used_ms LIMIT $3
"""
USED = UpdateRows("media", "origin text, media_id text", "used_ms bigint")


class Media(NamedTuple):
    """A media item; `location` is None until its content is uploaded."""

    origin: str
    media_id: str
    user_id: str | None
    content_type: str
    upload_name: str | None
    location: str | None
    size_bytes: int
    created_ms: int
    expires_ms: int | None
    needs_token: bool
    is_protected: bool
    quarantined_by: str | None

    @property
    def uri(self) -> str:
        """The mxc:// URI."""
        return f"mxc://{self.origin}/{self.media_id}"


class StoredFile(NamedTuple):
    """A file in the media store; `sha256` is None if unknown, and then it is never shared."""

    location: str
    sha256: str | None
    size_bytes: int
    is_copied: bool


async def get(tx: Tx, origin: str, media_id: str) -> Media | None:
    """Return a media item."""
    row = await tx.fetchrow(GET, origin, media_id)
    return None if row is None else _media(row)


async def reserve(tx: Tx, media: Media) -> None:
    """Insert a media item whose user will upload the content later."""
    await tx.execute(
        ANNOUNCE,
        media.origin,
        media.media_id,
        media.user_id,
        media.created_ms,
        media.expires_ms,
        int(media.needs_token),
    )


async def pending_uploads(tx: Tx, user_id: str, now_ms: int) -> tuple[int, int]:
    """Return the number of a user's pending uploads and when the first expires (ms)."""
    row = await tx.fetchrow(PENDING, user_id, now_ms)
    assert row is not None
    return row[0], row[1] or now_ms


async def claim_file(tx: Tx, file: StoredFile, now_ms: int) -> str | None:
    """Return the location of a stored file with equal content, otherwise insert this file.

    Returns: None if there is no equal file and `file` has no location yet.
    """
    if file.sha256 is not None:
        existing: str | None = await tx.fetchval(CLAIM, file.sha256, now_ms)
        if existing is not None:
            return existing
    if not file.location:
        return None
    await tx.execute(
        ADD_FILE, file.location, file.sha256, file.size_bytes, now_ms, int(file.is_copied)
    )
    return file.location


async def add(tx: Tx, media: Media) -> None:
    """Insert a media item with its content; an existing one is not changed."""
    await tx.execute(
        ADD,
        media.origin,
        media.media_id,
        media.user_id,
        media.content_type,
        media.upload_name,
        media.location,
        media.size_bytes,
        media.created_ms,
        int(media.needs_token),
    )


async def complete_upload(tx: Tx, media: Media, now_ms: int) -> bool:
    """Set the content of a reserved media item; return False if it is filled or expired."""
    filled = await tx.execute(
        FILL,
        media.origin,
        media.media_id,
        media.content_type,
        media.upload_name,
        media.location,
        media.size_bytes,
        int(media.needs_token),
        now_ms,
    )
    return filled > 0


async def serialize_uploads(tx: Tx, user_id: str) -> None:
    """Make transactions of a user conflict that count uploads first and then add one.

    Of two at the same time, one is run again and counts the upload of the other.
    """
    await tx.execute(TAKE_TURN, user_id)


async def uploaded_bytes_since(tx: Tx, user_id: str, since_ms: int) -> int:
    """Return the total size (bytes) of a user's uploads since a time (ms)."""
    return int(await tx.fetchval(UPLOADED, user_id, since_ms))


async def delete(tx: Tx, origin: str, media_id: str) -> str | None:
    """Delete a media item; return the location of its file, which other items may share."""
    location: str | None = await tx.fetchval(DELETE, origin, media_id)
    return location


async def set_quarantined(tx: Tx, origin: str, media_id: str, by: str | None) -> bool:
    """Set who quarantined a media item; return False if it does not exist or is protected."""
    return await tx.execute(QUARANTINE, origin, media_id, by) > 0


async def delete_expired(tx: Tx, now_ms: int) -> int:
    """Delete reserved media items that were not uploaded in time; return their number."""
    return await tx.execute(EXPIRE, now_ms)


async def list_unused_local(
    tx: Tx, own_name: str, before_ms: int, limit: int
) -> list[tuple[str, str]]:
    """List local media items that were not used since a time (ms), oldest use first."""
    return [(row[0], row[1]) for row in await tx.fetch(UNUSED, own_name, before_ms, limit)]


async def list_unused_remote(
    tx: Tx, own_name: str, before_ms: int, limit: int
) -> list[tuple[str, str]]:
    """List remote media items that were not used since a time (ms), oldest use first."""
    return [(row[0], row[1]) for row in await tx.fetch(UNUSED_REMOTE, own_name, before_ms, limit)]


async def record_uses(tx: Tx, uses: Sequence[tuple[str, str, int]]) -> None:
    """Store when media items were last used: (origin, media_id, time in ms)."""
    await tx.update_rows(USED, uses)


def _media(row: Row) -> Media:
    origin, media_id, user_id, content_type, name, location, size, created, expires = list(row)[:9]
    needs_token, is_protected, quarantined_by = list(row)[9:]
    return Media(
        origin=origin,
        media_id=media_id,
        user_id=user_id,
        content_type=content_type,
        upload_name=name,
        location=location,
        size_bytes=size,
        created_ms=created,
        expires_ms=expires,
        needs_token=bool(needs_token),
        is_protected=bool(is_protected),
        quarantined_by=quarantined_by,
    )
