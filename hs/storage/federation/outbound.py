"""What federation senders store and read: positions, destinations that are behind, and events."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Row, Tx
from hs.storage.dialect import sql
from hs.storage.rooms.stored_pdus import expand_pdu
from hs.storage.rows import InsertRows

POSITIONS = "SELECT sender, stream, writer, position, senders FROM federation_positions"
SET_POSITIONS = InsertRows(
    "federation_positions",
    "sender text, stream text, writer text, position bigint, senders text",
    conflict=(
        "ON CONFLICT (sender, stream, writer) DO UPDATE SET position = excluded.position, "
        "senders = excluded.senders"
    ),
)
BEGIN_POSITIONS = InsertRows(
    "federation_positions",
    "sender text, stream text, writer text, position bigint, senders text",
    conflict="ON CONFLICT (sender, stream, writer) DO NOTHING",
)
SENDERS_OF = "SELECT count(DISTINCT sender) FROM federation_positions WHERE senders = $1"
DELETE_OTHERS = "DELETE FROM federation_positions WHERE senders <> $1"
LOWEST = "SELECT min(position) FROM federation_positions WHERE stream = $1"
# An event that was an outlier is found by its position as long as it is the last one of its room.
DELETE_RELAYED = """
DELETE FROM relayed_events WHERE stream_id <= $1 AND NOT EXISTS (
    SELECT 1 FROM events e JOIN room_heads h ON h.room_id = e.room_id
    WHERE e.event_id = relayed_events.event_id AND e.stream_id <> relayed_events.stream_id
    AND h.sent_id = relayed_events.stream_id
)
"""
# Whether a destination is behind is stored before a position that passes the event.
DELETE_REMOVALS = """
DELETE FROM outside_removals WHERE stream_id <= $1 AND stream_id > $2 AND NOT EXISTS (
    SELECT 1 FROM behind_destinations b WHERE b.server = outside_removals.server
    AND b.events_after < outside_removals.stream_id
)
"""

BEHIND = """
SELECT b.server, b.since_ms, b.events_after, b.devices_after, coalesce(d.failures, 0)
FROM behind_destinations b LEFT JOIN destinations d ON d.server = b.server
"""
SET_BEHIND = InsertRows(
    "behind_destinations",
    "server text, since_ms bigint, events_after bigint, devices_after bigint",
    conflict=(
        "ON CONFLICT (server) DO UPDATE SET since_ms = excluded.since_ms, "
        "events_after = excluded.events_after, devices_after = excluded.devices_after"
    ),
)
DELETE_BEHIND = sql(
    lambda d: f"DELETE FROM behind_destinations WHERE {d.any_of('server', 1, 'text')}"
)
DELETE_REMOVALS_OF = sql(
    lambda d: (
        f"DELETE FROM outside_removals WHERE {d.any_of('server', 1, 'text')} AND stream_id <= $2"
    )
)

_EVENT = "e.stream_id, e.writer, e.event_id, e.room_id, e.type, e.state_key, e.sender, e.pdu"
_RELAYED_EVENT = _EVENT.replace("e.stream_id", "r.stream_id")
# Server names have no characters that LIKE treats specially.
OWN_EVENTS = f"""
SELECT {_EVENT} FROM events e
WHERE e.stream_id > $1 AND e.status = 0 AND e.sender LIKE $2 ORDER BY e.stream_id LIMIT $3
"""
RELAYED_EVENTS = f"""
SELECT {_RELAYED_EVENT} FROM relayed_events r
JOIN events e ON e.event_id = r.event_id
WHERE r.stream_id > $1 AND e.status = 0 ORDER BY r.stream_id LIMIT $2
"""
EVENTS_OF = sql(
    lambda d: (
        f"SELECT {_EVENT} FROM events e WHERE e.status = 0 "
        f"AND {d.any_of('e.stream_id', 1, 'bigint')} "
        f"UNION ALL SELECT {_RELAYED_EVENT} FROM relayed_events r "
        "JOIN events e ON e.event_id = r.event_id WHERE e.status = 0 "
        f"AND e.stream_id <> r.stream_id AND {d.any_of('r.stream_id', 1, 'bigint')} ORDER BY 1"
    )
)
_LAST_ID = "CASE WHEN s.joined_members > 0 THEN h.sent_id ELSE s.left_id END"
MISSED_EVENTS = f"""
SELECT {_LAST_ID} AS last_id, CASE WHEN s.joined_members > 0 THEN 1 ELSE 0 END
FROM room_servers s JOIN room_heads h ON h.room_id = s.room_id
WHERE s.server = $1 AND {_LAST_ID} > $2 AND {_LAST_ID} >= s.joined_id
UNION SELECT stream_id, 0 FROM outside_removals WHERE server = $1 AND stream_id > $2
ORDER BY last_id LIMIT $3
"""

RECEIPTS = """
SELECT room_id, receipt_type, user_id, thread_id, event_id, ts, stream_id FROM receipts
WHERE stream_id > $1 AND user_id LIKE $2 ORDER BY stream_id LIMIT $3
"""
DEVICE_CHANGES = """
SELECT stream_id, user_id, device_id FROM device_list_changes
WHERE stream_id > $1 AND is_private = 0 AND user_id LIKE $2 ORDER BY stream_id LIMIT $3
"""
# Of each user who shares a room with a server, the last change of a device and of the user's keys.
MISSED_CHANGES = """
SELECT c.user_id, max(CASE WHEN c.device_id IS NULL THEN 0 ELSE c.stream_id END),
       max(CASE WHEN c.device_id IS NULL THEN c.stream_id ELSE 0 END), max(c.stream_id) AS last_id
FROM device_list_changes c WHERE c.stream_id > $2 AND c.is_private = 0 AND EXISTS (
    SELECT 1 FROM local_memberships m JOIN room_servers s ON s.room_id = m.room_id
    WHERE m.user_id = c.user_id AND m.membership = 'join'
    AND s.server = $1 AND s.joined_members > 0
)
GROUP BY c.user_id ORDER BY last_id LIMIT $3
"""
DEVICE_OF_CHANGE = "SELECT device_id FROM device_list_changes WHERE stream_id = $1"
PREVIOUS_CHANGE = """
SELECT max(stream_id) FROM device_list_changes
WHERE user_id = $1 AND stream_id < $2 AND is_private = 0 AND device_id IS NOT NULL
"""
DEVICE_NAME = "SELECT display_name FROM devices WHERE user_id = $1 AND device_id = $2"


class SenderPositionRecord(NamedTuple):
    """A row of `federation_positions`."""

    sender: str
    stream: str
    writer: str
    position: int
    senders: str


class BehindRecord(NamedTuple):
    """A row of `behind_destinations`; `failures` is known if the server still fails."""

    server: str
    since_ms: int
    events_after: int
    devices_after: int
    failures: int = 0


class SentEventRecord(NamedTuple):
    """An event that this server sends to others."""

    stream_id: int
    writer: str
    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str
    pdu: bytes


class DeviceChangeRecord(NamedTuple):
    """A change of a device, or without `device_id` of a user's keys."""

    stream_id: int
    user_id: str
    device_id: str | None


class MissedChangesRecord(NamedTuple):
    """The last changes of a user's devices and of the user's keys; 0 if there is none."""

    user_id: str
    device_change: int
    keys_change: int
    last_id: int


class MovedReceiptRecord(NamedTuple):
    """A receipt of a user of this server."""

    room_id: str
    receipt_type: str
    user_id: str
    thread_id: str
    event_id: str
    ts: int
    stream_id: int


async def list_positions(tx: Tx) -> list[SenderPositionRecord]:
    """List the stored positions of all senders."""
    return [SenderPositionRecord(*row) for row in await tx.fetch(POSITIONS)]


async def begin_positions(tx: Tx, rows: Sequence[SenderPositionRecord]) -> None:
    """Store where senders begin that have never stored a position."""
    await tx.insert_rows(BEGIN_POSITIONS, rows)


async def set_positions(
    tx: Tx, rows: Sequence[SenderPositionRecord], senders: str, count: int
) -> None:
    """Store the positions of a sender.

    `senders` are the present senders, `count` of them: once each has stored its positions, those
    of earlier lists are deleted.
    """
    if await tx.fetchval(SENDERS_OF, senders) == count:
        await tx.execute(DELETE_OTHERS, senders)
    await tx.insert_rows(SET_POSITIONS, rows)


async def delete_passed(tx: Tx, stream: str, after: int) -> int:
    """Delete the marks of relayed events, and removals, that all senders are done with.

    Return the position up to which this was done; `after` is what was returned the last time.
    """
    lowest: int | None = await tx.fetchval(LOWEST, stream)
    if lowest is None:
        return after
    await tx.execute(DELETE_RELAYED, lowest)
    await tx.execute(DELETE_REMOVALS, lowest, after)
    return lowest


async def list_behind(tx: Tx) -> list[BehindRecord]:
    """List the destinations that are behind."""
    return [BehindRecord(*row) for row in await tx.fetch(BEHIND)]


async def set_behind(tx: Tx, rows: Sequence[BehindRecord]) -> None:
    """Store destinations that are behind, each at most once."""
    await tx.insert_rows(SET_BEHIND, [row[:4] for row in rows])


async def delete_behind(tx: Tx, servers: Sequence[str], events: int) -> None:
    """Delete destinations that have caught up, and were sent all events up to a stream ID."""
    await tx.execute(DELETE_BEHIND, list(servers))
    await tx.execute(DELETE_REMOVALS_OF, list(servers), events)


async def list_own_events(tx: Tx, server: str, after: int, limit: int) -> list[SentEventRecord]:
    """List accepted events of this server after a stream ID, in order."""
    return _sent_events(await tx.fetch(OWN_EVENTS, after, f"%:{server}", limit))


async def list_relayed_events(tx: Tx, after: int, limit: int) -> list[SentEventRecord]:
    """List relayed events whose rows are after a position, in order."""
    return _sent_events(await tx.fetch(RELAYED_EVENTS, after, limit))


async def find_events(tx: Tx, stream_ids: Sequence[int]) -> list[SentEventRecord]:
    """Return the accepted events among these, in order."""
    return _sent_events(await tx.fetch(EVENTS_OF, list(stream_ids)))


async def missed_events(tx: Tx, server: str, after: int, limit: int) -> list[tuple[int, bool]]:
    """List, in order, the last events of a server's rooms after a stream ID.

    Each is (stream_id, whether the server is in the room). Of a room that the server has left it
    is the event by which it left. Events from before it joined are left out, except for those that
    removed users of the server while it was not in the room.
    """
    rows = await tx.fetch(MISSED_EVENTS, server, after, limit)
    return [(row[0], bool(row[1])) for row in rows]


async def list_receipts(tx: Tx, server: str, after: int, limit: int) -> list[MovedReceiptRecord]:
    """List receipts of local users that moved after a position, in order."""
    rows = await tx.fetch(RECEIPTS, after, f"%:{server}", limit)
    return [MovedReceiptRecord(*row) for row in rows]


async def list_device_changes(
    tx: Tx, server: str, after: int, limit: int
) -> list[DeviceChangeRecord]:
    """List public changes of the devices of local users after a position, in order."""
    rows = await tx.fetch(DEVICE_CHANGES, after, f"%:{server}", limit)
    return [DeviceChangeRecord(*row) for row in rows]


async def missed_device_changes(
    tx: Tx, server: str, after: int, limit: int
) -> list[MissedChangesRecord]:
    """List what changed after a position, of users who share a room with a server, in order."""
    rows = await tx.fetch(MISSED_CHANGES, server, after, limit)
    return [MissedChangesRecord(*row) for row in rows]


async def device_of_change(tx: Tx, stream_id: int) -> str | None:
    """Return the device that changed at a position."""
    device_id: str | None = await tx.fetchval(DEVICE_OF_CHANGE, stream_id)
    return device_id


async def previous_change(tx: Tx, user_id: str, stream_id: int) -> int | None:
    """Return the position of the last public change of any device of a user before one."""
    previous: int | None = await tx.fetchval(PREVIOUS_CHANGE, user_id, stream_id)
    return previous


async def find_device(tx: Tx, user_id: str, device_id: str) -> tuple[bool, str | None]:
    """Return whether a device exists, and its display name."""
    row = await tx.fetchrow(DEVICE_NAME, user_id, device_id)
    return (False, None) if row is None else (True, row[0])


def _sent_events(rows: Sequence[Row]) -> list[SentEventRecord]:
    return [SentEventRecord._make((*row[:7], expand_pdu(row[7]))) for row in rows]
