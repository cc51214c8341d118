"""Addresses of users, and the sessions in which somebody proves to hold an address."""

from typing import Final, NamedTuple

from hs.storage.database import Tx


class ThreepidRecord(NamedTuple):
    """One address of a user."""

    medium: str
    address: str
    user_id: str
    validated_ms: int
    added_ms: int


class SessionRecord(NamedTuple):
    """One validation."""

    sid: str
    purpose: str
    client_secret: str
    medium: str
    address: str
    attempt: int
    remote_sid: str | None
    next_link: str | None
    created_ms: int
    validated_ms: int | None


_THREEPID: Final = "medium, address, user_id, validated_ms, added_ms"
_SESSION: Final = (
    "sid, purpose, client_secret, medium, address, attempt, remote_sid, next_link, created_ms, "
    "validated_ms"
)
OF_USER = f"SELECT {_THREEPID} FROM user_threepids WHERE user_id = $1 ORDER BY added_ms, address"
FIND = f"SELECT {_THREEPID} FROM user_threepids WHERE medium = $1 AND address = $2"
INSERT = f"""
INSERT INTO user_threepids ({_THREEPID}) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (medium, address) DO NOTHING
"""
RENEW = """
UPDATE user_threepids SET validated_ms = $4 WHERE medium = $1 AND address = $2 AND user_id = $3
"""
DELETE = "DELETE FROM user_threepids WHERE medium = $1 AND address = $2 AND user_id = $3"
DELETE_OF_USER = "DELETE FROM user_threepids WHERE user_id = $1"
FIND_SESSION = f"""
SELECT {_SESSION} FROM threepid_sessions WHERE sid = $1 AND created_ms > $2
"""
FIND_SAME = f"""
SELECT {_SESSION} FROM threepid_sessions
WHERE medium = $1 AND address = $2 AND client_secret = $3 AND purpose = $4
"""
INSERT_SESSION = f"""
INSERT INTO threepid_sessions ({_SESSION}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (medium, address, client_secret, purpose) DO NOTHING
"""
SET_SENT = """
UPDATE threepid_sessions SET attempt = $2, next_link = $3, remote_sid = $4 WHERE sid = $1
"""
SET_VALIDATED = """
UPDATE threepid_sessions SET validated_ms = $2 WHERE sid = $1 AND validated_ms IS NULL
"""
DELETE_SESSION = "DELETE FROM threepid_sessions WHERE sid = $1"
DELETE_TOKENS = "DELETE FROM threepid_tokens WHERE sid = $1"
INSERT_TOKEN = "INSERT INTO threepid_tokens (token_hash, sid, expires_ms) VALUES ($1, $2, $3)"
FIND_TOKEN = "SELECT sid FROM threepid_tokens WHERE token_hash = $1 AND expires_ms > $2"
PRUNE_TOKENS = "DELETE FROM threepid_tokens WHERE expires_ms <= $1"
PRUNE_SESSIONS = "DELETE FROM threepid_sessions WHERE created_ms <= $1"


async def of_user(tx: Tx, user_id: str) -> list[ThreepidRecord]:
    """List a user's addresses, oldest first."""
    return [ThreepidRecord(*row) for row in await tx.fetch(OF_USER, user_id)]


async def find(tx: Tx, medium: str, address: str) -> ThreepidRecord | None:
    """Give the user who has an address."""
    row = await tx.fetchrow(FIND, medium, address)
    return None if row is None else ThreepidRecord(*row)


async def insert(tx: Tx, record: ThreepidRecord) -> bool:
    """Give a user an address; False: another user has it."""
    if await tx.execute(INSERT, *record) > 0:
        return True
    own = (record.medium, record.address, record.user_id, record.validated_ms)
    return await tx.execute(RENEW, *own) > 0


async def delete(tx: Tx, user_id: str, medium: str, address: str) -> bool:
    """Take an address from a user; tell whether they had it."""
    return await tx.execute(DELETE, medium, address, user_id) > 0


async def delete_all(tx: Tx, user_id: str) -> int:
    """Take all addresses from a user; give how many they had."""
    return await tx.execute(DELETE_OF_USER, user_id)


async def find_session(tx: Tx, sid: str, since_ms: int) -> SessionRecord | None:
    """Give a validation begun after a time."""
    row = await tx.fetchrow(FIND_SESSION, sid, since_ms)
    return None if row is None else SessionRecord(*row)


async def begin(tx: Tx, session: SessionRecord, since_ms: int) -> SessionRecord:
    """Begin a validation, or give the one that the same client has begun after a time."""
    # Two requests may begin at once; then the second of them finds what the first one wrote.
    while await tx.execute(INSERT_SESSION, *session) == 0:
        row = await tx.fetchrow(
            FIND_SAME, session.medium, session.address, session.client_secret, session.purpose
        )
        if row is None:
            continue
        known = SessionRecord(*row)
        if known.created_ms > since_ms:
            return known
        await end_session(tx, known.sid)
    return session


async def set_sent(
    tx: Tx, sid: str, attempt: int, next_link: str | None, remote_sid: str | None = None
) -> None:
    """Note that a message was sent."""
    await tx.execute(SET_SENT, sid, attempt, next_link, remote_sid)


async def add_token(tx: Tx, token_hash: str, sid: str, expires_ms: int) -> None:
    """Add a token that confirms the session's address."""
    await tx.execute(INSERT_TOKEN, token_hash, sid, expires_ms)


async def token_confirms(tx: Tx, token_hash: str, sid: str, now_ms: int) -> bool:
    """Tell whether a token is one of the session's."""
    found: str | None = await tx.fetchval(FIND_TOKEN, token_hash, now_ms)
    return found == sid


async def set_validated(tx: Tx, sid: str, now_ms: int) -> None:
    """Note that a session's address is confirmed; the first time counts."""
    await tx.execute(SET_VALIDATED, sid, now_ms)


async def end_session(tx: Tx, sid: str) -> None:
    """Forget a validation, so that it serves nobody again."""
    await tx.execute(DELETE_TOKENS, sid)
    await tx.execute(DELETE_SESSION, sid)


async def prune(tx: Tx, tokens_until_ms: int, sessions_until_ms: int) -> None:
    """Forget tokens that ran out and sessions begun before a time."""
    await tx.execute(PRUNE_TOKENS, tokens_until_ms)
    await tx.execute(PRUNE_SESSIONS, sessions_until_ms)
