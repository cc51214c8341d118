"""What waits for application services, what is on its way to them, and how far streams are read."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import orjson

from hs.storage.database import Tx
from hs.storage.devices import to_device
from hs.storage.rows import Rows

ALL: Final = ""
"""The service under which is stored what holds for all of them."""

WAITING: Final = "appservice_waiting"
TRANSACTIONS: Final = "appservice_transactions"

# Names under which positions are stored.
EVENTS: Final = "events"
RECEIPTS: Final = "receipts"
DEVICE_LISTS: Final = "device_lists"

POSITIONS = "SELECT stream, position FROM appservice_positions WHERE service_id = $1"
SET_POSITIONS = Rows(
    "appservice_positions",
    "service_id text, stream text, position text",
    conflict="ON CONFLICT (service_id, stream) DO UPDATE SET position = excluded.position",
)
BEGIN_READING = """
INSERT INTO appservice_positions (service_id, stream, position) VALUES ($1, $2, $3)
ON CONFLICT (service_id, stream) DO NOTHING RETURNING stream
"""
READ_ON = """
UPDATE appservice_positions SET position = $4
WHERE service_id = $1 AND stream = $2 AND position = $3
"""
INSERT_WAITING = Rows("appservice_waiting", "service_id text, number bigint, event_id text")
FIRST_WAITING = """
SELECT number, event_id FROM appservice_waiting WHERE service_id = $1 ORDER BY number LIMIT $2
"""
DELETE_WAITING = "DELETE FROM appservice_waiting WHERE service_id = $1 AND number <= $2"
TRANSACTION = """
SELECT txn_id, last_number, body, messages FROM appservice_transactions WHERE service_id = $1
"""
INSERT_TRANSACTION = """
INSERT INTO appservice_transactions (service_id, txn_id, last_number, body, messages)
VALUES ($1, $2, $3, $4, $5)
"""
DELETE_TRANSACTION = "DELETE FROM appservice_transactions WHERE service_id = $1 AND txn_id = $2"
SERVICES = """
SELECT service_id FROM appservice_positions UNION SELECT service_id FROM appservice_waiting
UNION SELECT service_id FROM appservice_transactions
"""
FORGET: Final = tuple(
    f"DELETE FROM {table} WHERE service_id = $1"
    for table in ("appservice_positions", "appservice_waiting", "appservice_transactions")
)

NEWER_EVENTS = """
SELECT stream_id, writer, event_id, room_id, type, state_key, sender FROM events
WHERE stream_id > $1 AND status = 0 ORDER BY stream_id LIMIT $2
"""
NEWER_MEMBERS = """
SELECT stream_id, writer, event_id, room_id, type, state_key, sender FROM events
WHERE stream_id > $1 AND status = 0 AND type = 'm.room.member' ORDER BY stream_id LIMIT $2
"""
JOINED = """
SELECT user_id, room_id FROM local_memberships
WHERE membership = 'join' AND (user_id, room_id) > ($1, $2) ORDER BY user_id, room_id LIMIT $3
"""
ALIASES = """
SELECT alias, room_id FROM room_aliases WHERE room_id <> '' AND alias > $1 ORDER BY alias LIMIT $2
"""
MOVED_RECEIPTS = """
SELECT stream_id, room_id, receipt_type, user_id, thread_id, event_id, ts FROM receipts
WHERE stream_id > $1 ORDER BY stream_id LIMIT $2
"""
CHANGED_DEVICES = """
SELECT stream_id, user_id FROM device_list_changes
WHERE stream_id > $1 AND is_private = 0 ORDER BY stream_id LIMIT $2
"""
DEVICES_WITH_KEYS = """
SELECT d.user_id, d.device_id FROM devices d
WHERE EXISTS (SELECT 1 FROM one_time_keys k WHERE k.inbox = d.inbox)
"""


class WaitingEvent(NamedTuple):
    """An event that a service is to get."""

    number: int
    event_id: str


class Transaction(NamedTuple):
    """A transaction that a service has not confirmed; `messages` are (user, device, up to)."""

    txn_id: int
    last_number: int
    body: bytes
    messages: Sequence[tuple[str, str, int]]


class NewTransaction(NamedTuple):
    """A transaction to be stored, and how far streams are read with it: (stream, position)."""

    last_number: int
    body: bytes
    messages: Sequence[tuple[str, str, int]]
    positions: Sequence[tuple[str, str]]


class NewerEvent(NamedTuple):
    """An event with what decides who is interested in it."""

    stream_id: int
    writer: str
    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str


class MovedReceipt(NamedTuple):
    """A receipt where it stands now."""

    stream_id: int
    room_id: str
    receipt_type: str
    user_id: str
    thread_id: str
    event_id: str
    ts: int


async def positions(tx: Tx, service_id: str) -> dict[str, str]:
    """Tell how far each stream is read."""
    return {row[0]: row[1] for row in await tx.fetch(POSITIONS, service_id)}


async def set_positions(tx: Tx, service_id: str, reached: Sequence[tuple[str, str]]) -> None:
    """Note how far streams are read; no stream twice."""
    await tx.insert_rows(SET_POSITIONS, [(service_id, *one) for one in reached])


async def add_waiting(
    tx: Tx, wanted: Sequence[tuple[str, str]], before: str | None, position: str
) -> bool:
    """Have events wait, (service, event) each, and note how far events are read with them.

    `before` is how far they were read; False, and nothing done, if somebody has read on meanwhile.
    """
    if not await _read_on(tx, before, position):
        return False
    if wanted:
        numbers = await tx.next_ids(WAITING, len(wanted))
        rows = [(service, n, event) for n, (service, event) in zip(numbers, wanted, strict=True)]
        await tx.insert_rows(INSERT_WAITING, rows)
    return True


async def _read_on(tx: Tx, before: str | None, position: str) -> bool:
    if before is None:
        return await tx.fetchval(BEGIN_READING, ALL, EVENTS, position) is not None
    return await tx.execute(READ_ON, ALL, EVENTS, before, position) == 1


async def first_waiting(tx: Tx, service_id: str, limit: int) -> list[WaitingEvent]:
    """List the first events that wait for a service."""
    return [WaitingEvent(*row) for row in await tx.fetch(FIRST_WAITING, service_id, limit)]


async def transaction(tx: Tx, service_id: str) -> Transaction | None:
    """Give the transaction that a service has not confirmed."""
    row = await tx.fetchrow(TRANSACTION, service_id)
    if row is None:
        return None
    messages = [(one[0], one[1], one[2]) for one in orjson.loads(row[3])]
    return Transaction(row[0], row[1], bytes(row[2]), messages)


async def begin(tx: Tx, service_id: str, new: NewTransaction) -> Transaction:
    """Store a transaction before it is sent; there must be none."""
    (txn_id,) = await tx.next_ids(TRANSACTIONS, 1)
    messages = orjson.dumps(list(new.messages))
    await tx.execute(INSERT_TRANSACTION, service_id, txn_id, new.last_number, new.body, messages)
    await set_positions(tx, service_id, new.positions)
    return Transaction(txn_id, new.last_number, new.body, new.messages)


async def confirm(tx: Tx, service_id: str, done: Transaction) -> None:
    """Forget a transaction that a service has got, and all that was in it."""
    await tx.execute(DELETE_TRANSACTION, service_id, done.txn_id)
    await tx.execute(DELETE_WAITING, service_id, done.last_number)
    await to_device.delete_upto(tx, done.messages)


async def forget_others(tx: Tx, service_ids: Collection[str]) -> None:
    """Forget what is stored of all but some services; of everything if there are none."""
    known = {row[0] for row in await tx.fetch(SERVICES)}
    kept = {ALL, *service_ids} if service_ids else set()
    for service_id in known - kept:
        for statement in FORGET:
            await tx.execute(statement, service_id)


async def newer_events(tx: Tx, after: int, limit: int) -> list[NewerEvent]:
    """List accepted events after a number, in order."""
    return [NewerEvent(*row) for row in await tx.fetch(NEWER_EVENTS, after, limit)]


async def newer_members(tx: Tx, after: int, limit: int) -> list[NewerEvent]:
    """List accepted member events after a number, in order."""
    return [NewerEvent(*row) for row in await tx.fetch(NEWER_MEMBERS, after, limit)]


async def joined(tx: Tx, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """List users of ours with rooms they are joined to, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(JOINED, *after, limit)]


async def aliases(tx: Tx, after: str, limit: int) -> list[tuple[str, str]]:
    """List aliases with their rooms, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(ALIASES, after, limit)]


async def moved_receipts(tx: Tx, after: int, limit: int) -> list[MovedReceipt]:
    """List receipts that moved after a position, in order."""
    return [MovedReceipt(*row) for row in await tx.fetch(MOVED_RECEIPTS, after, limit)]


async def changed_devices(tx: Tx, after: int, limit: int) -> list[tuple[int, str]]:
    """List (position, user) of changed device lists, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(CHANGED_DEVICES, after, limit)]


async def devices_with_keys(tx: Tx) -> list[tuple[str, str]]:
    """List the devices that have one-time keys, or had until others claimed the last."""
    return [(row[0], row[1]) for row in await tx.fetch(DEVICES_WITH_KEYS)]
