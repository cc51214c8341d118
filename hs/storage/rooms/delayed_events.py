"""Delayed events: scheduled, taken for sending, and finished (sent, failed or cancelled)."""

from typing import Final, NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql

SCHEDULED: Final = 0
TAKEN: Final = 1
FINISHED: Final = 2

_COLUMNS = (
    "delay_id, user_id, device_id, scope, txn_id, room_id, type, state_key, content, "
    "origin_server_ts, delay_ms, started_ms, send_ms, status, event_id, error, finished_ms, "
    "sticky_ms"
)
INSERT = f"""
INSERT INTO delayed_events ({_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
"""
OF_REQUEST = """
SELECT delay_id FROM delayed_events
WHERE user_id = $1 AND device_id = $2 AND scope = $3 AND txn_id = $4
"""
PENDING = """
SELECT COUNT(*), MIN(send_ms) FROM delayed_events WHERE user_id = $1 AND status < 2
"""
FIND = f"SELECT {_COLUMNS} FROM delayed_events WHERE delay_id = $1"
OF_USER = f"""
SELECT {_COLUMNS} FROM delayed_events WHERE user_id = $1 AND status < 2
ORDER BY send_ms, delay_id
"""
FINISHED_OF_USER = f"""
SELECT {_COLUMNS} FROM delayed_events WHERE user_id = $1 AND status = 2
ORDER BY finished_ms DESC, delay_id LIMIT $2
"""
RESTART = """
UPDATE delayed_events SET started_ms = $2, send_ms = $2 + delay_ms
WHERE delay_id = $1 AND status = 0
"""
CANCEL = """
UPDATE delayed_events SET status = 2, finished_ms = $2 WHERE delay_id = $1 AND status = 0
"""
# Cancels delayed state events whose state another user has set since the delay (re)started.
CANCEL_SUPERSEDED = """
UPDATE delayed_events SET status = 2, finished_ms = $1
WHERE status = 0 AND state_key IS NOT NULL AND EXISTS (
    SELECT 1 FROM current_state s JOIN events e ON e.event_id = s.event_id
    WHERE s.room_id = delayed_events.room_id AND s.type = delayed_events.type
      AND s.state_key = delayed_events.state_key AND e.sender <> delayed_events.user_id
      AND e.origin_server_ts > delayed_events.started_ms
)
"""
ROOMS_OF_STATE = """
SELECT DISTINCT room_id FROM delayed_events WHERE status < 2 AND state_key IS NOT NULL
"""
# $1 is now; an event taken before $2 is considered lost and taken again. So is one that was taken
# in the future, before the clock was set back.
DUE = sql(
    lambda d: (
        f"SELECT {_COLUMNS} FROM delayed_events "
        "WHERE status < 2 "
        "AND ((status = 0 AND send_ms <= $1) "
        "OR (status = 1 AND (taken_ms <= $2 OR taken_ms > $1 + 60000))) "
        f"ORDER BY send_ms, delay_id LIMIT $3 {d.row_lock()}"
    )
)
TAKE_ALL = sql(
    lambda d: (
        "UPDATE delayed_events SET status = 1, taken_ms = $2 "
        f"WHERE status < 2 AND {d.any_of('delay_id', 1, 'text')}"
    )
)
TAKE = "UPDATE delayed_events SET status = 1, taken_ms = $2 WHERE delay_id = $1 AND status = 0"
RELEASE = "UPDATE delayed_events SET status = 0 WHERE delay_id = $1 AND status = 1"
FINISH = """
UPDATE delayed_events SET status = 2, event_id = $2, error = $3, finished_ms = $4
WHERE delay_id = $1 AND status = 1
"""
NEXT = """
SELECT MIN(CASE WHEN status = 0 THEN send_ms ELSE taken_ms + $1 END)
FROM delayed_events WHERE status < 2
"""
PRUNE_OLD = "DELETE FROM delayed_events WHERE status = 2 AND finished_ms < $1"
PRUNE_MANY = """
DELETE FROM delayed_events WHERE delay_id IN (
    SELECT delay_id FROM (
        SELECT delay_id, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY finished_ms DESC) AS rank
        FROM delayed_events WHERE status = 2
    ) AS ranked WHERE rank > $1
)
"""


class DelayedRecord(NamedTuple):
    """A delayed event; `content` and `error` are JSON."""

    delay_id: str
    user_id: str
    device_id: str
    scope: str
    txn_id: str | None
    room_id: str
    type: str
    state_key: str | None
    content: bytes
    origin_server_ts: int | None
    delay_ms: int
    started_ms: int
    send_ms: int
    status: int = SCHEDULED
    event_id: str | None = None
    error: bytes | None = None
    finished_ms: int | None = None
    sticky_ms: int | None = None


class DelayedEventLimitReached(NamedTuple):
    """The user has reached the limit of delayed events; the next one is due at `next_ms`."""

    next_ms: int


async def schedule(tx: Tx, record: DelayedRecord, limit: int) -> str | DelayedEventLimitReached:
    """Schedule an event and return its delay ID.

    A request with a known transaction ID returns the delay ID of the first request.
    """
    if record.txn_id is not None:
        delay_id = await tx.fetchval(
            OF_REQUEST, record.user_id, record.device_id, record.scope, record.txn_id
        )
        if delay_id is not None:
            return str(delay_id)
    pending = await tx.fetchrow(PENDING, record.user_id)
    if pending is not None and pending[0] >= limit:
        return DelayedEventLimitReached(pending[1] or 0)
    await tx.execute(INSERT, *record)
    return record.delay_id


async def find(tx: Tx, delay_id: str) -> DelayedRecord | None:
    """Return a delayed event by its delay ID."""
    row = await tx.fetchrow(FIND, delay_id)
    return None if row is None else _record(row)


async def list_scheduled(tx: Tx, user_id: str) -> list[DelayedRecord]:
    """List the scheduled events of a user, the next due first."""
    return [_record(row) for row in await tx.fetch(OF_USER, user_id)]


async def list_finished(tx: Tx, user_id: str, limit: int) -> list[DelayedRecord]:
    """List the finished events of a user, the latest first."""
    return [_record(row) for row in await tx.fetch(FINISHED_OF_USER, user_id, limit)]


async def restart(tx: Tx, delay_id: str, now_ms: int) -> bool:
    """Restart the delay; return False if the event is not scheduled any more."""
    return await tx.execute(RESTART, delay_id, now_ms) == 1


async def cancel(tx: Tx, delay_id: str, now_ms: int) -> bool:
    """Cancel an event; return False if it is not scheduled any more."""
    return await tx.execute(CANCEL, delay_id, now_ms) == 1


async def take_due(tx: Tx, now_ms: int, lost_before_ms: int, limit: int) -> list[DelayedRecord]:
    """Take events that are due, and events whose taker was lost; the earliest first.

    First cancels delayed state events whose state another user has set meanwhile.
    """
    await tx.execute(CANCEL_SUPERSEDED, now_ms)
    rows = await tx.fetch(DUE, now_ms, lost_before_ms, limit)
    due = [_record(row) for row in rows]
    if due:
        await tx.execute(TAKE_ALL, [record.delay_id for record in due], now_ms)
    return due


async def take(tx: Tx, delay_id: str, now_ms: int) -> bool:
    """Take an event before it is due; return False if it is not scheduled any more."""
    return await tx.execute(TAKE, delay_id, now_ms) == 1


async def release(tx: Tx, delay_id: str) -> None:
    """Return a taken event to the schedule, because it could not be sent before its time."""
    await tx.execute(RELEASE, delay_id)


async def finish(
    tx: Tx, delay_id: str, event_id: str | None, error: bytes | None, now_ms: int
) -> None:
    """Record the outcome of a taken event."""
    await tx.execute(FINISH, delay_id, event_id, error, now_ms)


async def next_due(tx: Tx, lost_after_ms: int) -> int | None:
    """Return the time (ms) of the next due event or lost taker; None if nothing is pending."""
    due: int | None = await tx.fetchval(NEXT, lost_after_ms)
    return due


async def rooms_with_scheduled_state(tx: Tx) -> list[str]:
    """List the rooms in which delayed state events are pending."""
    return [row[0] for row in await tx.fetch(ROOMS_OF_STATE)]


async def prune(tx: Tx, before_ms: int, kept_per_user: int) -> int:
    """Delete finished events that are old, or exceed the number kept per user; return the count."""
    old = await tx.execute(PRUNE_OLD, before_ms)
    return old + await tx.execute(PRUNE_MANY, kept_per_user)


def _record(row: Row) -> DelayedRecord:
    return DelayedRecord(*row)
