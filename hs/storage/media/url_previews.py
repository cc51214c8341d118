"""Cached URL previews and their images."""

from hs.storage.database import Tx
from hs.storage.media import media
from hs.storage.media.media import Media

GET = "SELECT preview, expires_ts FROM url_previews WHERE url_hash = $1 AND expires_ts > $2"
PUT = """
INSERT INTO url_previews (url_hash, url, preview, fetched_ts, expires_ts)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (url_hash) DO UPDATE SET preview = excluded.preview,
    fetched_ts = excluded.fetched_ts, expires_ts = excluded.expires_ts
"""
DELETE_EXPIRED = "DELETE FROM url_previews WHERE expires_ts <= $1"
USED_IMAGE = """
UPDATE url_preview_images SET used_ts = $2 WHERE sha256 = $1 RETURNING origin, media_id
"""
PUT_IMAGE = """
INSERT INTO url_preview_images (sha256, origin, media_id, used_ts) VALUES ($1, $2, $3, $4)
ON CONFLICT (sha256) DO UPDATE SET origin = excluded.origin, media_id = excluded.media_id,
    used_ts = excluded.used_ts
"""
UNUSED_IMAGES = """
DELETE FROM url_preview_images WHERE used_ts < $1 RETURNING origin, media_id
"""


async def get(tx: Tx, url_hash: str, now_ms: int) -> tuple[bytes, int] | None:
    """Return an unexpired preview (JSON) and when it expires (ms)."""
    row = await tx.fetchrow(GET, url_hash, now_ms)
    return None if row is None else (bytes(row[0]), int(row[1]))


async def put(
    tx: Tx, url_hash: str, url: str, preview: bytes, fetched_ts: int, expires_ts: int
) -> None:
    """Insert or replace a preview."""
    await tx.execute(PUT, url_hash, url, preview, fetched_ts, expires_ts)


async def delete_expired(tx: Tx, now_ms: int) -> int:
    """Delete expired previews; return their number."""
    return await tx.execute(DELETE_EXPIRED, now_ms)


async def find_image(tx: Tx, sha256: str, now_ms: int) -> Media | None:
    """Return the media item that holds an image, and mark the image as used."""
    row = await tx.fetchrow(USED_IMAGE, sha256, now_ms)
    return None if row is None else await media.get(tx, str(row[0]), str(row[1]))


async def put_image(tx: Tx, sha256: str, stored: Media, now_ms: int) -> None:
    """Store which media item holds an image."""
    await tx.execute(PUT_IMAGE, sha256, stored.origin, stored.media_id, now_ms)


async def delete_unused_images(tx: Tx, before_ms: int) -> list[tuple[str, str]]:
    """Delete images not used since a time (ms); return (origin, media ID) of their media items."""
    rows = await tx.fetch(UNUSED_IMAGES, before_ms)
    return [(str(origin), str(media_id)) for origin, media_id in rows]
