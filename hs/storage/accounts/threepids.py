"""Third-party identifiers of users, and the sessions that validate them."""

from typing import Final, NamedTuple

from hs.storage.database import Tx


class ThreepidRecord(NamedTuple):
    """A third-party identifier of a user."""

    medium: str
    address: str
    user_id: str
    validated_ms: int
    added_ms: int


class ThreepidSessionRecord(NamedTuple):
    """A validation session."""

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


async def list_of_user(tx: Tx, user_id: str) -> list[ThreepidRecord]:
    """List a user's identifiers, oldest first."""
    return [ThreepidRecord(*row) for row in await tx.fetch(OF_USER, user_id)]


async def find(tx: Tx, medium: str, address: str) -> ThreepidRecord | None:
    """Return the user's record of an identifier."""
    row = await tx.fetchrow(FIND, medium, address)
    return None if row is None else ThreepidRecord(*row)


async def insert(tx: Tx, record: ThreepidRecord) -> bool:
    """Add an identifier to a user; return False if another user has it."""
    if await tx.execute(INSERT, *record) > 0:
        return True
    renewal = (record.medium, record.address, record.user_id, record.validated_ms)
    return await tx.execute(RENEW, *renewal) > 0


async def delete(tx: Tx, user_id: str, medium: str, address: str) -> bool:
    """Remove an identifier from a user; return False if the user did not have it."""
    return await tx.execute(DELETE, medium, address, user_id) > 0


async def delete_all(tx: Tx, user_id: str) -> int:
    """Remove all identifiers of a user; return their number."""
    return await tx.execute(DELETE_OF_USER, user_id)


async def find_session(tx: Tx, sid: str, since_ms: int) -> ThreepidSessionRecord | None:
    """Return a session created after a time (ms)."""
    row = await tx.fetchrow(FIND_SESSION, sid, since_ms)
    return None if row is None else ThreepidSessionRecord(*row)


async def begin_session(
    tx: Tx, session: ThreepidSessionRecord, since_ms: int
) -> ThreepidSessionRecord:
    """Create a session, or return one that the same client created after a time (ms).

    An older session of the client is replaced.
    """
    # Two requests may create a session at once; the second one finds the row of the first.
    while await tx.execute(INSERT_SESSION, *session) == 0:
        row = await tx.fetchrow(
            FIND_SAME, session.medium, session.address, session.client_secret, session.purpose
        )
        if row is None:
            continue
        existing = ThreepidSessionRecord(*row)
        if existing.created_ms > since_ms:
            return existing
        await delete_session(tx, existing.sid)
    return session


async def record_message_sent(
    tx: Tx, sid: str, attempt: int, next_link: str | None, remote_sid: str | None = None
) -> None:
    """Store the number of the attempt for which a message was sent."""
    await tx.execute(SET_SENT, sid, attempt, next_link, remote_sid)


async def add_token(tx: Tx, token_hash: str, sid: str, expires_ms: int) -> None:
    """Insert a token that validates the session's identifier."""
    await tx.execute(INSERT_TOKEN, token_hash, sid, expires_ms)


async def token_belongs_to_session(tx: Tx, token_hash: str, sid: str, now_ms: int) -> bool:
    """Return whether an unexpired token belongs to the session."""
    token_sid: str | None = await tx.fetchval(FIND_TOKEN, token_hash, now_ms)
    return token_sid == sid


async def set_validated(tx: Tx, sid: str, now_ms: int) -> None:
    """Store when a session's identifier was validated; only the first time counts."""
    await tx.execute(SET_VALIDATED, sid, now_ms)


async def delete_session(tx: Tx, sid: str) -> None:
    """Delete a session and its tokens, so that it cannot be used again."""
    await tx.execute(DELETE_TOKENS, sid)
    await tx.execute(DELETE_SESSION, sid)


async def prune(tx: Tx, tokens_until_ms: int, sessions_until_ms: int) -> None:
    """Delete expired tokens and sessions created before a time (ms)."""
    await tx.execute(PRUNE_TOKENS, tokens_until_ms)
    await tx.execute(PRUNE_SESSIONS, sessions_until_ms)
