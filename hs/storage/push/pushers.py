"""Tables of pushers and of the queue of notifications.

`push_queue` has a row for each notification and user, numbered in the order of the evaluation;
`pushers.position` is the number up to which a pusher is done. `push_throttles` has the e-mails that
were sent about rooms.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows, UpdateRows

_COLUMNS: Final = (
    "user_id, app_id, pushkey, kind, app_display_name, device_display_name, profile_tag, lang, "
    "data, enabled, device_id, set_ms, position"
)
_QUEUE_COLUMNS: Final = "user_id, seq, stream_id, room_id, event_id, thread_id, actions, added_ms"
FIND = f"SELECT {_COLUMNS} FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3"
OF_USER = f"SELECT {_COLUMNS} FROM pushers WHERE user_id = $1 ORDER BY set_ms, app_id, pushkey"
ENABLED = f"SELECT {_COLUMNS} FROM pushers WHERE enabled = 1"
OTHER_USERS = "SELECT user_id FROM pushers WHERE app_id = $1 AND pushkey = $2 AND user_id <> $3"
PUT = f"""
INSERT INTO pushers ({_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET
    kind = excluded.kind, app_display_name = excluded.app_display_name,
    device_display_name = excluded.device_display_name, profile_tag = excluded.profile_tag,
    lang = excluded.lang, data = excluded.data, enabled = excluded.enabled,
    device_id = excluded.device_id, set_ms = excluded.set_ms, position = excluded.position
"""
DELETE = "DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3"
DELETE_THROTTLES = "DELETE FROM push_throttles WHERE user_id = $1 AND app_id = $2 AND pushkey = $3"
OF_DEVICES = sql(
    lambda d: (
        "SELECT app_id, pushkey FROM pushers "
        f"WHERE user_id = $1 AND {d.any_of('device_id', 2, 'text')}"
    )
)
# Their device or e-mail address was deleted, or their account was deactivated.
ORPHANS = """
SELECT p.user_id, p.app_id, p.pushkey FROM pushers p
WHERE (p.device_id <> '' AND NOT EXISTS (
        SELECT 1 FROM devices d WHERE d.user_id = p.user_id AND d.device_id = p.device_id))
   OR EXISTS (SELECT 1 FROM users u WHERE u.user_id = p.user_id AND u.is_deactivated = 1)
   OR (p.kind = 'email' AND NOT EXISTS (
        SELECT 1 FROM user_threepids t
        WHERE t.medium = 'email' AND t.address = p.pushkey AND t.user_id = p.user_id))
LIMIT $1
"""
LAST_OF_USER = "SELECT max(seq) FROM push_queue WHERE user_id = $1"
LAST_NUMBER = """
SELECT max(last) FROM (
    SELECT max(seq) AS last FROM push_queue UNION ALL SELECT max(position) AS last FROM pushers
) AS lasts
"""
ADD = InsertRows(
    "push_queue",
    "user_id text, seq bigint, stream_id bigint, room_id text, event_id text, thread_id text, "
    "actions text, added_ms bigint",
    conflict="ON CONFLICT (user_id, seq) DO NOTHING",
)
QUEUED = (
    f"SELECT {_QUEUE_COLUMNS} FROM push_queue WHERE user_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
)
WAITING_USERS = """
SELECT DISTINCT user_id FROM push_queue WHERE user_id > $1 ORDER BY user_id LIMIT $2
"""
# Never lowered: a process that had the pusher before may finish a notification late.
SET_POSITIONS = UpdateRows(
    "pushers", "user_id text, app_id text, pushkey text", "position bigint", rising="position"
)
DELETE_SENT = sql(
    lambda d: (
        f"DELETE FROM push_queue WHERE {d.any_of('user_id', 1, 'text')} AND seq <= ("
        "SELECT coalesce(min(p.position), 9223372036854775807) FROM pushers p "
        "WHERE p.user_id = push_queue.user_id AND p.enabled = 1)"
    )
)
# All of it for users without an enabled pusher.
DELETE_ALL_SENT = """
DELETE FROM push_queue WHERE seq <= (
    SELECT coalesce(min(p.position), 9223372036854775807) FROM pushers p
    WHERE p.user_id = push_queue.user_id AND p.enabled = 1)
"""
THROTTLES = """
SELECT room_id, sent_ms, throttle_ms FROM push_throttles
WHERE user_id = $1 AND app_id = $2 AND pushkey = $3
"""
ADDRESS_OWNER = "SELECT user_id FROM user_threepids WHERE medium = $1 AND address = $2"
SET_THROTTLES = InsertRows(
    "push_throttles",
    "user_id text, app_id text, pushkey text, room_id text, sent_ms bigint, throttle_ms bigint",
    conflict=(
        "ON CONFLICT (user_id, app_id, pushkey, room_id) "
        "DO UPDATE SET sent_ms = excluded.sent_ms, throttle_ms = excluded.throttle_ms"
    ),
)


class PusherRecord(NamedTuple):
    """A row of pushers."""

    user_id: str
    app_id: str
    pushkey: str
    kind: str
    app_display_name: str
    device_display_name: str
    profile_tag: str
    lang: str
    data: str
    enabled: int
    device_id: str
    set_ms: int
    position: int


class QueueRecord(NamedTuple):
    """A row of push_queue."""

    user_id: str
    seq: int
    stream_id: int
    room_id: str
    event_id: str
    thread_id: str
    actions: str
    added_ms: int


class PusherKey(NamedTuple):
    """The key of a pusher."""

    user_id: str
    app_id: str
    pushkey: str


class Throttle(NamedTuple):
    """The time of the last e-mail about a room, and the pause that follows it."""

    room_id: str
    sent_ms: int
    throttle_ms: int


async def find(tx: Tx, key: PusherKey) -> PusherRecord | None:
    """Return a pusher."""
    row = await tx.fetchrow(FIND, *key)
    return None if row is None else _pusher(row)


async def list_of_user(tx: Tx, user_id: str) -> list[PusherRecord]:
    """List a user's pushers, the oldest setting first."""
    return [_pusher(row) for row in await tx.fetch(OF_USER, user_id)]


async def list_enabled(tx: Tx) -> list[PusherRecord]:
    """List the enabled pushers of all users."""
    return [_pusher(row) for row in await tx.fetch(ENABLED)]


async def other_users_with(tx: Tx, key: PusherKey) -> list[str]:
    """List the other users who have a pusher with the same app and pushkey."""
    return [row[0] for row in await tx.fetch(OTHER_USERS, key.app_id, key.pushkey, key.user_id)]


async def list_of_devices(tx: Tx, user_id: str, device_ids: Sequence[str]) -> list[PusherKey]:
    """List the pushers of devices."""
    rows = await tx.fetch(OF_DEVICES, user_id, list(device_ids))
    return [PusherKey(user_id, row[0], row[1]) for row in rows]


async def list_orphans(tx: Tx, limit: int) -> list[PusherKey]:
    """List pushers whose device or e-mail address was deleted or whose account is deactivated."""
    return [PusherKey(row[0], row[1], row[2]) for row in await tx.fetch(ORPHANS, limit)]


async def put(tx: Tx, record: PusherRecord) -> None:
    """Store a pusher."""
    await tx.execute(PUT, *record)


async def delete(tx: Tx, key: PusherKey) -> bool:
    """Delete a pusher; return whether it existed."""
    await tx.execute(DELETE_THROTTLES, *key)
    return await tx.execute(DELETE, *key) > 0


async def last_number_of_user(tx: Tx, user_id: str) -> int:
    """Return the number of a user's last queued notification, or 0."""
    return await tx.fetchval(LAST_OF_USER, user_id) or 0


async def last_number(tx: Tx) -> int:
    """Return the number that the numbers of new notifications must exceed."""
    return await tx.fetchval(LAST_NUMBER) or 0


async def add_to_queue(tx: Tx, records: Sequence[QueueRecord]) -> None:
    """Add notifications to the queue; idempotent."""
    await tx.insert_rows(ADD, records)


async def list_queued(tx: Tx, user_id: str, after: int, limit: int) -> list[QueueRecord]:
    """List a user's queued notifications above a number, in order."""
    rows = await tx.fetch(QUEUED, user_id, after, limit)
    return [QueueRecord(*(row[n] for n in range(8))) for row in rows]


async def list_users_with_notifications(tx: Tx, after: str, limit: int) -> list[str]:
    """List the users after a user ID who have queued notifications, in order."""
    return [row[0] for row in await tx.fetch(WAITING_USERS, after, limit)]


async def set_positions(tx: Tx, positions: Sequence[tuple[str, str, str, int]]) -> None:
    """Store the positions of pushers: (user, app, pushkey, number)."""
    await tx.update_rows(SET_POSITIONS, positions)


async def delete_sent(tx: Tx, user_ids: Sequence[str]) -> None:
    """Delete the notifications of users that all their pushers are done with."""
    await tx.execute(DELETE_SENT, list(user_ids))


async def delete_all_sent(tx: Tx) -> None:
    """Delete the notifications that all pushers of a user are done with, for all users."""
    await tx.execute(DELETE_ALL_SENT)


async def list_throttles(tx: Tx, key: PusherKey) -> list[Throttle]:
    """List the e-mails of a pusher about rooms."""
    return [Throttle(row[0], row[1], row[2]) for row in await tx.fetch(THROTTLES, *key)]


async def record_email(tx: Tx, key: PusherKey, position: int, rooms: Sequence[Throttle]) -> None:
    """Store the position of a pusher after an e-mail, and the rooms that it was about."""
    await tx.update_rows(SET_POSITIONS, [(*key, position)])
    await tx.insert_rows(SET_THROTTLES, [(*key, *throttle) for throttle in rooms])


async def owner_of_address(tx: Tx, medium: str, address: str) -> str | None:
    """Return the user to whom an address belongs."""
    owner: str | None = await tx.fetchval(ADDRESS_OWNER, medium, address)
    return owner


def _pusher(row: Row) -> PusherRecord:
    return PusherRecord(*(row[n] for n in range(13)))
