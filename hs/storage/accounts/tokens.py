"""Access tokens, refresh tokens, login tokens and OpenID tokens, all stored as hashes."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx


class AccessTokenRecord(NamedTuple):
    """An access token to insert; `proved_ms` is when its holder last authenticated."""

    token_hash: str
    user_id: str
    device_id: str | None
    created_ms: int
    valid_until_ms: int | None
    refresh_id: int | None = None
    proved_ms: int = 0


class AccessTokenOwner(NamedTuple):
    """An access token as found: its user and device, and the restrictions of the account."""

    token_id: int
    user_id: str
    device_id: str | None
    valid_until_ms: int | None
    refresh_id: int | None
    consent_version: str | None
    is_used: bool
    is_guest: bool
    is_admin: bool
    is_shadow_banned: bool
    is_locked: bool
    is_suspended: bool
    is_deactivated: bool
    is_exempt: bool


class RefreshTokenRecord(NamedTuple):
    """A stored refresh token; `next_id` is the refresh token that it was exchanged for."""

    refresh_id: int
    user_id: str
    device_id: str
    next_id: int | None
    expires_ms: int | None
    session_ends_ms: int | None
    is_locked: int


INSERT = """
INSERT INTO access_tokens
    (id, token_hash, user_id, device_id, created_ms, valid_until_ms, refresh_id, proved_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
FIND = """
SELECT t.id, t.user_id, t.device_id, t.valid_until_ms, t.refresh_id, c.version, t.is_used,
       u.is_guest,
       u.is_admin, u.is_shadow_banned, u.is_locked, u.is_suspended, u.is_deactivated,
       CASE WHEN u.appservice_id IS NOT NULL OR u.user_type IN ('bot', 'support')
           THEN 1 ELSE 0 END
FROM access_tokens t JOIN users u ON u.user_id = t.user_id
LEFT JOIN user_consents c ON c.user_id = t.user_id
WHERE t.token_hash = $1
"""
SET_USED = "UPDATE access_tokens SET is_used = 1 WHERE id = $1"
PROVED = "SELECT proved_ms FROM access_tokens WHERE id = $1"
SET_PROVED = "UPDATE access_tokens SET proved_ms = $2 WHERE id = $1"
DELETE = "DELETE FROM access_tokens WHERE id = $1 RETURNING token_hash"
DELETE_OF_DEVICE = """
DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2 RETURNING token_hash
"""
DELETE_OF_USER = "DELETE FROM access_tokens WHERE user_id = $1 RETURNING token_hash"
DELETE_REFRESH_OF_DEVICE = "DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2"
DELETE_REFRESH_OF_USER = "DELETE FROM refresh_tokens WHERE user_id = $1"
DELETE_OF_REFRESH = "DELETE FROM access_tokens WHERE refresh_id = $1 RETURNING token_hash"
DELETE_REFRESH = "DELETE FROM refresh_tokens WHERE id = $1"
PREDECESSORS = "SELECT id FROM refresh_tokens WHERE next_id = $1"
INSERT_REFRESH = """
INSERT INTO refresh_tokens (id, token_hash, user_id, device_id, expires_ms, session_ends_ms)
VALUES ($1, $2, $3, $4, $5, $6)
"""
FIND_REFRESH = """
SELECT r.id, r.user_id, r.device_id, r.next_id, r.expires_ms, r.session_ends_ms,
       u.is_locked
FROM refresh_tokens r JOIN users u ON u.user_id = r.user_id
WHERE r.token_hash = $1 AND u.is_deactivated = 0
"""
IS_REFRESH = "SELECT 1 FROM refresh_tokens WHERE token_hash = $1"
LOCK_REFRESH = "UPDATE refresh_tokens SET next_id = next_id WHERE token_hash = $1"
SET_NEXT = "UPDATE refresh_tokens SET next_id = $2 WHERE id = $1"
INSERT_LOGIN = "INSERT INTO login_tokens (token_hash, user_id, expires_ms) VALUES ($1, $2, $3)"
USE_LOGIN = "DELETE FROM login_tokens WHERE token_hash = $1 RETURNING user_id, expires_ms"
PRUNE_LOGIN = "DELETE FROM login_tokens WHERE expires_ms <= $1"
DELETE_LOGIN_OF_USER = "DELETE FROM login_tokens WHERE user_id = $1"
INSERT_OPENID = "INSERT INTO openid_tokens (token_hash, user_id, expires_ms) VALUES ($1, $2, $3)"
FIND_OPENID = "SELECT user_id FROM openid_tokens WHERE token_hash = $1 AND expires_ms > $2"
PRUNE_OPENID = "DELETE FROM openid_tokens WHERE expires_ms <= $1"


async def insert(tx: Tx, token: AccessTokenRecord) -> int:
    """Insert an access token; return its ID."""
    (token_id,) = await tx.next_ids("access_tokens", 1)
    await tx.execute(INSERT, token_id, *token)
    return token_id


async def find(tx: Tx, token_hash: str) -> AccessTokenOwner | None:
    """Return the token with this hash, with its user's flags."""
    row = await tx.fetchrow(FIND, token_hash)
    if row is None:
        return None
    first, flags = tuple(row)[:6], (bool(flag) for flag in tuple(row)[6:])
    return AccessTokenOwner(*first, *flags)


async def mark_used(tx: Tx, token_id: int, refresh_id: int) -> list[str]:
    """Mark a token as used and delete the tokens it replaces; return the access tokens' hashes."""
    await tx.execute(SET_USED, token_id)
    return await delete_predecessors(tx, refresh_id)


async def delete_predecessors(tx: Tx, refresh_id: int) -> list[str]:
    """Delete the tokens that were exchanged for this refresh token; return their access hashes."""
    hashes: list[str] = []
    for row in await tx.fetch(PREDECESSORS, refresh_id):
        hashes += await delete_refresh(tx, row[0])
    return hashes


async def delete_refresh(tx: Tx, refresh_id: int) -> list[str]:
    """Delete a refresh token and its access tokens; return the access tokens' hashes."""
    hashes = _hashes(await tx.fetch(DELETE_OF_REFRESH, refresh_id))
    await tx.execute(DELETE_REFRESH, refresh_id)
    return hashes


async def proved_ms(tx: Tx, token_id: int) -> int:
    """Return when the holder of a token last authenticated (ms); 0 if never."""
    return int(await tx.fetchval(PROVED, token_id) or 0)


async def set_proved(tx: Tx, token_id: int, now_ms: int) -> None:
    """Store when the holder of a token authenticated."""
    await tx.execute(SET_PROVED, token_id, now_ms)


async def delete(tx: Tx, token_id: int) -> list[str]:
    """Delete an access token; return its hash in a list, empty if there was none."""
    return _hashes(await tx.fetch(DELETE, token_id))


async def delete_of_device(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """Delete all tokens of a device; return the hashes of its access tokens."""
    await tx.execute(DELETE_REFRESH_OF_DEVICE, user_id, device_id)
    return _hashes(await tx.fetch(DELETE_OF_DEVICE, user_id, device_id))


async def delete_of_user(tx: Tx, user_id: str) -> list[str]:
    """Delete all tokens of a user; return the hashes of the access tokens."""
    await tx.execute(DELETE_REFRESH_OF_USER, user_id)
    await tx.execute(DELETE_LOGIN_OF_USER, user_id)
    return _hashes(await tx.fetch(DELETE_OF_USER, user_id))


async def insert_refresh(
    tx: Tx,
    token_hash: str,
    user_id: str,
    device_id: str,
    expires_ms: int | None,
    session_ends_ms: int | None,
) -> int:
    """Insert a refresh token; return its ID."""
    (refresh_id,) = await tx.next_ids("refresh_tokens", 1)
    await tx.execute(
        INSERT_REFRESH, refresh_id, token_hash, user_id, device_id, expires_ms, session_ends_ms
    )
    return refresh_id


async def is_refresh_token(tx: Tx, token_hash: str) -> bool:
    """Return whether there is a refresh token with this hash."""
    return await tx.fetchval(IS_REFRESH, token_hash) is not None


async def lock_refresh(tx: Tx, token_hash: str) -> RefreshTokenRecord | None:
    """Return a refresh token, locked until the transaction ends against a second exchange."""
    await tx.execute(LOCK_REFRESH, token_hash)
    row = await tx.fetchrow(FIND_REFRESH, token_hash)
    return None if row is None else RefreshTokenRecord(*row)


async def set_next(tx: Tx, refresh_id: int, next_id: int) -> None:
    """Store the refresh token that another one was exchanged for."""
    await tx.execute(SET_NEXT, refresh_id, next_id)


async def insert_login_token(
    tx: Tx, token_hash: str, user_id: str, now_ms: int, expires_ms: int
) -> None:
    """Insert a login token and delete expired ones."""
    await tx.execute(PRUNE_LOGIN, now_ms)
    await tx.execute(INSERT_LOGIN, token_hash, user_id, expires_ms)


async def consume_login_token(tx: Tx, token_hash: str, now_ms: int) -> str | None:
    """Delete a login token; return its user, or None if it does not exist or has expired."""
    row = await tx.fetchrow(USE_LOGIN, token_hash)
    return None if row is None or row[1] <= now_ms else str(row[0])


async def insert_openid(
    tx: Tx, token_hash: str, user_id: str, now_ms: int, expires_ms: int
) -> None:
    """Insert an OpenID token and delete expired ones."""
    await tx.execute(PRUNE_OPENID, now_ms)
    await tx.execute(INSERT_OPENID, token_hash, user_id, expires_ms)


async def find_openid(tx: Tx, token_hash: str, now_ms: int) -> str | None:
    """Return the user of an OpenID token that has not expired."""
    user_id = await tx.fetchval(FIND_OPENID, token_hash, now_ms)
    return None if user_id is None else str(user_id)


def _hashes(rows: Sequence[Row]) -> list[str]:
    return [row[0] for row in rows]
