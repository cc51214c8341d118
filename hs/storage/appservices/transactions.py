"""The queues and transactions of application services, and the positions read of each stream.

- A service has at most one unconfirmed transaction. It is stored before it is sent, so that a
  retry after a restart sends the same body under the same ID.
- Events are enqueued in the transaction that moves the position up to which events are read;
  `before` makes this a compare-and-swap, so two readers cannot enqueue the same event twice.
- Confirming deletes the transaction, its events from the queue, and its to-device messages.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import orjson

from hs.storage.database import Tx
from hs.storage.devices import to_device
from hs.storage.rows import InsertRows

ALL_SERVICES: Final = ""
"""The service ID under which positions shared by all services are stored."""

QUEUE: Final = "appservice_waiting"
TRANSACTIONS: Final = "appservice_transactions"

# Names under which positions are stored.
EVENTS: Final = "events"
RECEIPTS: Final = "receipts"
DEVICE_LISTS: Final = "device_lists"

POSITIONS = "SELECT stream, position FROM appservice_positions WHERE service_id = $1"
SET_POSITIONS = InsertRows(
    "appservice_positions",
    "service_id text, stream text, position text",
    conflict="ON CONFLICT (service_id, stream) DO UPDATE SET position = excluded.position",
)
SET_FIRST_POSITION = """
INSERT INTO appservice_positions (service_id, stream, position) VALUES ($1, $2, $3)
ON CONFLICT (service_id, stream) DO NOTHING RETURNING stream
"""
ADVANCE_POSITION = """
UPDATE appservice_positions SET position = $4
WHERE service_id = $1 AND stream = $2 AND position = $3
"""
INSERT_WAITING = InsertRows("appservice_waiting", "service_id text, number bigint, event_id text")
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
DELETE_SERVICE: Final = tuple(
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


class PendingEvent(NamedTuple):
    """An event in the queue of a service."""

    number: int
    event_id: str


class StoredTransaction(NamedTuple):
    """A transaction that its service has not confirmed.

    `messages` are (user, device, last stream ID) of its to-device messages.
    """

    txn_id: int
    last_number: int
    body: bytes
    messages: Sequence[tuple[str, str, int]]


class NewTransaction(NamedTuple):
    """A transaction to store, with the positions (stream, position) that it reaches."""

    last_number: int
    body: bytes
    messages: Sequence[tuple[str, str, int]]
    positions: Sequence[tuple[str, str]]


class EventOfInterest(NamedTuple):
    """An event with the fields that decide which services are interested in it."""

    stream_id: int
    writer: str
    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str


class ReceiptChange(NamedTuple):
    """A receipt at its present position."""

    stream_id: int
    room_id: str
    receipt_type: str
    user_id: str
    thread_id: str
    event_id: str
    ts: int


async def positions(tx: Tx, service_id: str) -> dict[str, str]:
    """Return the position read of each stream."""
    return {row[0]: row[1] for row in await tx.fetch(POSITIONS, service_id)}


async def set_positions(tx: Tx, service_id: str, reached: Sequence[tuple[str, str]]) -> None:
    """Store the position read of each stream; each stream at most once."""
    await tx.insert_rows(SET_POSITIONS, [(service_id, *position) for position in reached])


async def enqueue_events(
    tx: Tx, events: Sequence[tuple[str, str]], before: str | None, position: str
) -> bool:
    """Enqueue events (service_id, event_id), and move the position of the event stream.

    Returns: False, with nothing changed, if the position is not `before` any more.
    """
    if not await _advance_position(tx, before, position):
        return False
    if events:
        numbers = await tx.next_ids(QUEUE, len(events))
        rows = [
            (service_id, number, event_id)
            for number, (service_id, event_id) in zip(numbers, events, strict=True)
        ]
        await tx.insert_rows(INSERT_WAITING, rows)
    return True


async def _advance_position(tx: Tx, before: str | None, position: str) -> bool:
    if before is None:
        return await tx.fetchval(SET_FIRST_POSITION, ALL_SERVICES, EVENTS, position) is not None
    return await tx.execute(ADVANCE_POSITION, ALL_SERVICES, EVENTS, before, position) == 1


async def list_pending(tx: Tx, service_id: str, limit: int) -> list[PendingEvent]:
    """List the first events in the queue of a service."""
    return [PendingEvent(*row) for row in await tx.fetch(FIRST_WAITING, service_id, limit)]


async def unconfirmed_transaction(tx: Tx, service_id: str) -> StoredTransaction | None:
    """Return the unconfirmed transaction of a service."""
    row = await tx.fetchrow(TRANSACTION, service_id)
    if row is None:
        return None
    messages = [(user, device, upto) for user, device, upto in orjson.loads(row[3])]
    return StoredTransaction(row[0], row[1], bytes(row[2]), messages)


async def store_transaction(tx: Tx, service_id: str, new: NewTransaction) -> StoredTransaction:
    """Store a transaction before it is sent; the service must have no other."""
    (txn_id,) = await tx.next_ids(TRANSACTIONS, 1)
    messages = orjson.dumps(list(new.messages))
    await tx.execute(INSERT_TRANSACTION, service_id, txn_id, new.last_number, new.body, messages)
    await set_positions(tx, service_id, new.positions)
    return StoredTransaction(txn_id, new.last_number, new.body, new.messages)


async def delete_confirmed(tx: Tx, service_id: str, confirmed: StoredTransaction) -> None:
    """Delete a confirmed transaction with its events and to-device messages."""
    await tx.execute(DELETE_TRANSACTION, service_id, confirmed.txn_id)
    await tx.execute(DELETE_WAITING, service_id, confirmed.last_number)
    await to_device.delete_upto(tx, confirmed.messages)


async def delete_other_services(tx: Tx, service_ids: Collection[str]) -> None:
    """Delete the data of all services not listed; of all services if the list is empty."""
    stored = {row[0] for row in await tx.fetch(SERVICES)}
    remaining = {ALL_SERVICES, *service_ids} if service_ids else set()
    for service_id in stored - remaining:
        for statement in DELETE_SERVICE:
            await tx.execute(statement, service_id)


async def list_events_after(tx: Tx, after: int, limit: int) -> list[EventOfInterest]:
    """List accepted events after a stream ID, in order."""
    return [EventOfInterest(*row) for row in await tx.fetch(NEWER_EVENTS, after, limit)]


async def list_members_after(tx: Tx, after: int, limit: int) -> list[EventOfInterest]:
    """List accepted member events after a stream ID, in order."""
    return [EventOfInterest(*row) for row in await tx.fetch(NEWER_MEMBERS, after, limit)]


async def list_joined(tx: Tx, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """List (user, room) for the joined rooms of local users, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(JOINED, *after, limit)]


async def list_aliases(tx: Tx, after: str, limit: int) -> list[tuple[str, str]]:
    """List (alias, room), in order of aliases."""
    return [(row[0], row[1]) for row in await tx.fetch(ALIASES, after, limit)]


async def list_receipts_after(tx: Tx, after: int, limit: int) -> list[ReceiptChange]:
    """List receipts that moved after a position, in order."""
    return [ReceiptChange(*row) for row in await tx.fetch(MOVED_RECEIPTS, after, limit)]


async def list_device_changes_after(tx: Tx, after: int, limit: int) -> list[tuple[int, str]]:
    """List (position, user) of public device list changes, in order."""
    return [(row[0], row[1]) for row in await tx.fetch(CHANGED_DEVICES, after, limit)]


async def list_devices_with_keys(tx: Tx) -> list[tuple[str, str]]:
    """List the devices with rows of one-time keys, even if all keys were claimed."""
    return [(row[0], row[1]) for row in await tx.fetch(DEVICES_WITH_KEYS)]
