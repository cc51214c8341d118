"""User accounts, registration tokens, and used nonces of shared-secret registration."""

from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql


class UserRecord(NamedTuple):
    """A row of the users table."""

    user_id: str
    password_hash: str | None
    created_ms: int
    is_guest: bool = False
    is_admin: bool = False
    is_shadow_banned: bool = False
    is_locked: bool = False
    is_suspended: bool = False
    is_deactivated: bool = False
    is_erased: bool = False
    user_type: str | None = None
    appservice_id: str | None = None


_COLUMNS = (
    "user_id, password_hash, created_ms, is_guest, is_admin, is_shadow_banned, is_locked, "
    "is_suspended, is_deactivated, is_erased, user_type, appservice_id"
)
INSERT_USER = f"""
INSERT INTO users ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
FIND_USER = f"SELECT {_COLUMNS} FROM users WHERE user_id = $1"
FIND_IGNORING_CASE = f"SELECT {_COLUMNS} FROM users WHERE lower(user_id) = lower($1) LIMIT 2"
LOCAL_EXIST = sql(lambda d: f"SELECT user_id FROM users WHERE {d.any_of('user_id', 1, 'text')}")
SET_PASSWORD = "UPDATE users SET password_hash = $2 WHERE user_id = $1"
RENEW_PASSWORD = "UPDATE users SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"
SET_LOCKED = "UPDATE users SET is_locked = $2 WHERE user_id = $1"
SET_SUSPENDED = "UPDATE users SET is_suspended = $2 WHERE user_id = $1"
REACTIVATE = """
UPDATE users SET is_deactivated = 0, is_erased = 0, password_hash = $2
WHERE user_id = $1 AND is_deactivated = 1
"""
UPGRADE_GUEST = """
UPDATE users SET password_hash = $2, is_guest = 0
WHERE user_id = $1 AND is_guest = 1 AND is_deactivated = 0
"""
DEACTIVATE = """
UPDATE users SET is_deactivated = 1, password_hash = NULL,
    is_erased = CASE WHEN $2 = 1 THEN 1 ELSE is_erased END
WHERE user_id = $1
"""
SOME_USERS = """
SELECT user_id FROM users WHERE is_guest = 0 AND appservice_id IS NULL AND user_id <> $1 LIMIT 2
"""
ERASED = "SELECT user_id FROM users WHERE is_erased = 1"
INSERT_TOKEN = """
INSERT INTO registration_tokens (token, uses_allowed, expires_ms) VALUES ($1, $2, $3)
"""
# A UIA session in which the token was entered reserves one of its uses.
TOKEN_IS_VALID = """
SELECT 1 FROM registration_tokens t
WHERE t.token = $1 AND (t.expires_ms IS NULL OR t.expires_ms > $2)
  AND (t.uses_allowed IS NULL OR t.uses_allowed > t.uses + (
    SELECT COUNT(*) FROM uia_sessions s
    WHERE s.registration_token = t.token AND s.session_id <> $3 AND s.created_ms > $4))
"""
LOCK_TOKEN = "UPDATE registration_tokens SET uses = uses WHERE token = $1"
USE_TOKEN = "UPDATE registration_tokens SET uses = uses + 1 WHERE token = $1"
USE_NONCE = """
INSERT INTO registration_nonces (nonce, expires_ms) VALUES ($1, $2) ON CONFLICT (nonce) DO NOTHING
"""
PRUNE_NONCES = "DELETE FROM registration_nonces WHERE expires_ms <= $1"


async def insert_user(tx: Tx, user: UserRecord) -> None:
    """Insert an account.

    Raises: UniqueViolation, if the user ID is taken.
    """
    await tx.execute(
        INSERT_USER, *(int(value) if isinstance(value, bool) else value for value in user)
    )


async def find_user(tx: Tx, user_id: str) -> UserRecord | None:
    """Return an account."""
    row = await tx.fetchrow(FIND_USER, user_id)
    return None if row is None else _user(tuple(row))


async def find_user_ignoring_case(tx: Tx, user_id: str) -> UserRecord | None:
    """Return the account with this ID, otherwise the only one whose ID differs in case alone."""
    exact = await find_user(tx, user_id)
    if exact is not None:
        return exact
    rows = await tx.fetch(FIND_IGNORING_CASE, user_id)
    return _user(tuple(rows[0])) if len(rows) == 1 else None


async def existing_users(tx: Tx, user_ids: list[str]) -> set[str]:
    """Return those of the user IDs that have accounts, including deactivated ones."""
    return {row[0] for row in await tx.fetch(LOCAL_EXIST, user_ids)}


async def has_multiple_users(tx: Tx, notices_user: str | None) -> bool:
    """Return whether there are at least two users.

    Guests, users of application services and the sender of server notices do not count.
    """
    return len(await tx.fetch(SOME_USERS, notices_user or "")) > 1


async def set_password(tx: Tx, user_id: str, password_hash: str | None) -> None:
    """Replace the password hash of a user; None removes the password."""
    await tx.execute(SET_PASSWORD, user_id, password_hash)


async def rehash_password(tx: Tx, user_id: str, old_hash: str, new_hash: str) -> None:
    """Replace the hash of an unchanged password, unless the password was changed meanwhile."""
    await tx.execute(RENEW_PASSWORD, user_id, old_hash, new_hash)


async def set_locked(tx: Tx, user_id: str, locked: bool) -> None:
    """Lock or unlock an account."""
    await tx.execute(SET_LOCKED, user_id, int(locked))


async def set_suspended(tx: Tx, user_id: str, suspended: bool) -> None:
    """Suspend or unsuspend an account."""
    await tx.execute(SET_SUSPENDED, user_id, int(suspended))


async def reactivate(tx: Tx, user_id: str, password_hash: str | None) -> bool:
    """Reactivate an account; return False if it is not deactivated."""
    return await tx.execute(REACTIVATE, user_id, password_hash) > 0


async def upgrade_guest(tx: Tx, user_id: str, password_hash: str | None) -> bool:
    """Turn a guest into a regular user; return False if the user is not a guest."""
    return await tx.execute(UPGRADE_GUEST, user_id, password_hash) > 0


async def deactivate(tx: Tx, user_id: str, erase: bool) -> None:
    """Deactivate an account and remove its password; `erase` also marks it as erased."""
    await tx.execute(DEACTIVATE, user_id, int(erase))


async def erased_users(tx: Tx) -> list[str]:
    """List all users who asked to be erased."""
    return [row[0] for row in await tx.fetch(ERASED)]


async def next_guest_number(tx: Tx) -> int:
    """Return a number that no guest has had yet."""
    return (await tx.next_ids("guests", 1))[0]


async def insert_registration_token(
    tx: Tx, token: str, uses_allowed: int | None, expires_ms: int | None
) -> None:
    """Insert a registration token.

    Raises: UniqueViolation, if the token exists.
    """
    await tx.execute(INSERT_TOKEN, token, uses_allowed, expires_ms)


async def registration_token_is_valid(
    tx: Tx, token: str, now_ms: int, session_id: str, sessions_since_ms: int
) -> bool:
    """Return whether a token has a use left that no other session has reserved."""
    row = await tx.fetchval(TOKEN_IS_VALID, token, now_ms, session_id, sessions_since_ms)
    return row is not None


async def lock_registration_token(tx: Tx, token: str) -> None:
    """Lock a token until the transaction ends, so that no other transaction uses it."""
    await tx.execute(LOCK_TOKEN, token)


async def use_registration_token(tx: Tx, token: str) -> None:
    """Increment the number of uses of a token."""
    await tx.execute(USE_TOKEN, token)


async def use_nonce(tx: Tx, nonce: str, now_ms: int, expires_ms: int) -> bool:
    """Store that a nonce was used, until it expires; return False if it was used before."""
    await tx.execute(PRUNE_NONCES, now_ms)
    return await tx.execute(USE_NONCE, nonce, expires_ms) == 1


def _user(row: tuple[object, ...]) -> UserRecord:
    values = [bool(value) if 3 <= index <= 9 else value for index, value in enumerate(row)]
    return UserRecord(*values)  # type: ignore[arg-type]  # the columns are in the fields' order
