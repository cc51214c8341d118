"""Sessions of user-interactive authentication (UIA), shared by all processes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import orjson

from hs.core.canonical_json import JsonObject
from hs.storage.database import Tx


class UiaSessionRecord(NamedTuple):
    """A UIA session.

    `remembered` holds parameters of the first request, `proved` what each completed stage found
    out, and `outcome` what the operation returned once it is done.
    """

    session_id: str
    operation: str
    user_id: str
    created_ms: int
    completed: tuple[str, ...]
    registration_token: str | None
    request_parameters: JsonObject | None = None
    outcome: str | None = None
    results: Mapping[str, JsonObject] = MappingProxyType({})


INSERT = """
INSERT INTO uia_sessions (session_id, operation, user_id, created_ms, completed, remembered)
VALUES ($1, $2, $3, $4, '[]', $5)
"""
FIND = """
SELECT session_id, operation, user_id, created_ms, completed, registration_token, remembered,
    outcome, proved
FROM uia_sessions WHERE session_id = $1 AND created_ms > $2
"""
COMPLETE = "UPDATE uia_sessions SET completed = $2, proved = $3 WHERE session_id = $1"
RESERVE_TOKEN = "UPDATE uia_sessions SET registration_token = $2 WHERE session_id = $1"
CONCLUDE = """
UPDATE uia_sessions SET outcome = $2, remembered = NULL, registration_token = NULL
WHERE session_id = $1 AND outcome IS NULL
"""
DELETE = "DELETE FROM uia_sessions WHERE session_id = $1"
PRUNE = "DELETE FROM uia_sessions WHERE created_ms <= $1"
PRUNE_OLDEST = """
DELETE FROM uia_sessions
WHERE created_ms <= (SELECT created_ms FROM uia_sessions ORDER BY created_ms DESC LIMIT 1 OFFSET $1)
"""


async def insert(tx: Tx, record: UiaSessionRecord) -> None:
    """Insert a session without completed stages."""
    remembered = record.request_parameters
    text = orjson.dumps(remembered).decode() if remembered else None
    await tx.execute(
        INSERT, record.session_id, record.operation, record.user_id, record.created_ms, text
    )


async def find(tx: Tx, session_id: str, since_ms: int) -> UiaSessionRecord | None:
    """Return a session created after a time (ms)."""
    row = await tx.fetchrow(FIND, session_id, since_ms)
    if row is None:
        return None
    return UiaSessionRecord(
        session_id=row[0],
        operation=row[1],
        user_id=row[2],
        created_ms=row[3],
        completed=tuple(orjson.loads(row[4])),
        registration_token=row[5],
        request_parameters=None if row[6] is None else orjson.loads(row[6]),
        outcome=row[7],
        results={} if row[8] is None else orjson.loads(row[8]),
    )


async def record_completed(
    tx: Tx, session_id: str, completed: tuple[str, ...], proved: Mapping[str, JsonObject]
) -> None:
    """Store the completed stages and what they found out."""
    proved_json = orjson.dumps(dict(proved)).decode() if proved else None
    await tx.execute(COMPLETE, session_id, orjson.dumps(completed).decode(), proved_json)


async def reserve_registration_token(tx: Tx, session_id: str, token: str) -> None:
    """Reserve one use of a registration token for a session."""
    await tx.execute(RESERVE_TOKEN, session_id, token)


async def set_outcome(tx: Tx, session_id: str, outcome: str) -> bool:
    """Store the outcome of a session; return False if it has one already."""
    return await tx.execute(CONCLUDE, session_id, outcome) == 1


async def delete(tx: Tx, session_id: str) -> None:
    """Delete a session."""
    await tx.execute(DELETE, session_id)


async def prune(tx: Tx, before_ms: int, max_sessions: int) -> int:
    """Delete sessions created before a time (ms), and the oldest ones beyond a number.

    Return how many were deleted.
    """
    expired = await tx.execute(PRUNE, before_ms)
    return expired + await tx.execute(PRUNE_OLDEST, max_sessions)
