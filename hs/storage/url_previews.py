"""Previews of links, kept for a while."""

from hs.storage.database import Tx

GET = "SELECT preview, expires_ts FROM url_previews WHERE url_hash = $1 AND expires_ts > $2"
PUT = """
INSERT INTO url_previews (url_hash, url, preview, fetched_ts, expires_ts)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (url_hash) DO UPDATE SET preview = excluded.preview,
    fetched_ts = excluded.fetched_ts, expires_ts = excluded.expires_ts
"""
FORGET = "DELETE FROM url_previews WHERE expires_ts <= $1"


async def get(tx: Tx, url_hash: str, now_ms: int) -> tuple[bytes, int] | None:
    """Give a preview that is still good, and until when."""
    row = await tx.fetchrow(GET, url_hash, now_ms)
    return None if row is None else (bytes(row[0]), int(row[1]))


async def put(
    tx: Tx, url_hash: str, url: str, preview: bytes, fetched_ts: int, expires_ts: int
) -> None:
    """Keep a preview, instead of an older one."""
    await tx.execute(PUT, url_hash, url, preview, fetched_ts, expires_ts)


async def forget_expired(tx: Tx, now_ms: int) -> int:
    """Delete what is no longer good; give how many."""
    return await tx.execute(FORGET, now_ms)
