"""Users' subscriptions to threads (MSC4306)."""

from typing import Final, NamedTuple

from hs.storage.database import Row, Tx

_COLUMNS = "user_id, room_id, root_id, is_subscribed, is_automatic, events_upto, stream_id"
GET = f"""
SELECT {_COLUMNS} FROM thread_subscriptions WHERE user_id = $1 AND room_id = $2 AND root_id = $3
"""
PUT = f"""
INSERT INTO thread_subscriptions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (user_id, room_id, root_id) DO UPDATE SET
    is_subscribed = excluded.is_subscribed, is_automatic = excluded.is_automatic,
    events_upto = excluded.events_upto, stream_id = excluded.stream_id
"""
CHANGES = f"""
SELECT {_COLUMNS} FROM thread_subscriptions
WHERE user_id = $1 AND stream_id > $2 AND stream_id <= $3 AND is_subscribed >= $4
ORDER BY stream_id DESC LIMIT $5
"""
HAS_MANY = "SELECT 1 FROM thread_subscriptions WHERE user_id = $1 LIMIT 1 OFFSET $2"
SUBSCRIBERS = """
SELECT user_id FROM thread_subscriptions
WHERE room_id = $1 AND root_id = $2 AND is_subscribed = 1
"""

NEWEST: Final = 2**62


class SubscriptionRecord(NamedTuple):
    """A user's subscription to a thread; `events_upto` is the last event when it changed."""

    user_id: str
    room_id: str
    root_id: str
    is_subscribed: bool
    is_automatic: bool
    events_upto: int
    stream_id: int


async def get(tx: Tx, user_id: str, room_id: str, root_id: str) -> SubscriptionRecord | None:
    """Return a user's subscription to a thread, also if it was ended."""
    row = await tx.fetchrow(GET, user_id, room_id, root_id)
    return None if row is None else _record(row)


async def put(tx: Tx, record: SubscriptionRecord) -> None:
    """Insert or replace a subscription."""
    await tx.execute(PUT, *(int(value) if isinstance(value, bool) else value for value in record))


async def has_as_many(tx: Tx, user_id: str, limit: int) -> bool:
    """Return whether a user has at least `limit` subscriptions, those that were ended included."""
    return await tx.fetchval(HAS_MANY, user_id, limit - 1) is not None


async def list_changes(
    tx: Tx, user_id: str, after: int, upto: int, limit: int, *, gone_too: bool
) -> list[SubscriptionRecord]:
    """List subscriptions that changed in `(after, upto]`, latest first.

    `gone_too` includes those that were ended.
    """
    rows = await tx.fetch(CHANGES, user_id, after, upto, 0 if gone_too else 1, limit)
    return [_record(row) for row in rows]


async def list_subscribers(tx: Tx, room_id: str, root_id: str) -> frozenset[str]:
    """Return the subscribers of a thread."""
    return frozenset(row[0] for row in await tx.fetch(SUBSCRIBERS, room_id, root_id))


def _record(row: Row) -> SubscriptionRecord:
    user_id, room_id, root_id, subscribed, automatic, events_upto, stream_id = row
    return SubscriptionRecord(
        user_id=user_id,
        room_id=room_id,
        root_id=root_id,
        is_subscribed=bool(subscribed),
        is_automatic=bool(automatic),
        events_upto=events_upto,
        stream_id=stream_id,
    )
