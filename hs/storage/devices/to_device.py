"""To-device messages that wait in the inboxes of devices, and the requests that sent them.

A message lies in one of two places. `inbox_messages` has one row per device and message. A request
to many devices is first stored as one row of `inbox_bundles` and *filed* later: moved into one
row for each device that has not acknowledged its message by then. Most have, so filing writes
little. A message's stream ID is the same in both places.

Rules:

- One process writes messages and files bundles, the writer of the stream `to_device`. Any process
  reads, and records acknowledgements.
- A device has acknowledged all messages up to `inbox_reads.upto`. Readers skip these wherever they
  lie, so a message that is filed while its device acknowledges it is not delivered again; its row
  is deleted later (`stale_messages`).
- Filing is one transaction, but a reader runs two statements. It reads bundles first and filed
  messages second: a message that is filed in between is found twice, and never missed.
- The inbox of a deleted device is listed in the table closed_inboxes until the writer has deleted
  its messages. Only the writer adds messages, so none can be added afterwards.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, NamedTuple

import orjson

from hs.storage.database import Row, Tx
from hs.storage.devices import inbox_reads
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

MAX_FILED_AT_ONCE: Final = 2000
"""Maximum number of messages filed in one transaction; a single larger bundle is filed alone."""

MAX_BUNDLES_AT_ONCE: Final = 100

INSERT = InsertRows(
    "inbox_messages",
    "inbox bigint, stream_id bigint, message bytea",
    # A writer that was just replaced may file the same bundle at the same time.
    conflict="ON CONFLICT (inbox, stream_id) DO NOTHING",
)
INSERT_BUNDLE = InsertRows(
    "inbox_bundles", "stream_id bigint, inboxes text, head bytea, messages bytea"
)
_INBOX = "(SELECT inbox FROM devices WHERE user_id = $1 AND device_id = $2)"
_READ = f"COALESCE((SELECT upto FROM inbox_reads WHERE inbox = {_INBOX}), 0)"
_FILED = f"FROM inbox_messages WHERE inbox = {_INBOX} AND stream_id > {_READ}"
_BUNDLED = f"FROM inbox_bundles WHERE inboxes LIKE '%,' || {_INBOX} || ',%' AND stream_id > {_READ}"
PENDING_BUNDLED = f"""
SELECT stream_id, inboxes, head, messages, {_INBOX} {_BUNDLED}
AND stream_id > $3 AND stream_id <= $4 ORDER BY stream_id LIMIT $5
"""
PENDING_FILED = f"""
SELECT stream_id, message {_FILED} AND stream_id > $3 AND stream_id <= $4
ORDER BY stream_id LIMIT $5
"""
ENDS = f"""
SELECT min(low), max(high) FROM (
    SELECT min(stream_id) AS low, max(stream_id) AS high {_FILED}
    UNION ALL
    SELECT min(stream_id), max(stream_id) {_BUNDLED}
) AS ends
"""
DELETE_UPTO = f"DELETE FROM inbox_messages WHERE inbox = {_INBOX} AND stream_id <= $3"
OLDEST_BUNDLES = """
SELECT stream_id, inboxes, head, messages FROM inbox_bundles WHERE stream_id <= $1
ORDER BY stream_id LIMIT $2
"""
DELETE_BUNDLES = sql(
    lambda d: f"DELETE FROM inbox_bundles WHERE {d.any_of('stream_id', 1, 'bigint')}"
)
READ_UPTO = sql(
    lambda d: (
        "SELECT d.inbox, COALESCE(r.upto, 0) FROM devices d "
        f"LEFT JOIN inbox_reads r ON r.inbox = d.inbox WHERE {d.any_of('d.inbox', 1, 'bigint')}"
    )
)
BUNDLED_INBOXES = "SELECT inboxes FROM inbox_bundles"
DEVICES_WITH_MESSAGES = sql(
    lambda d: (
        "SELECT d.user_id, d.device_id FROM devices d "
        "LEFT JOIN inbox_reads r ON r.inbox = d.inbox "
        f"WHERE {d.any_of('d.inbox', 1, 'bigint')} OR EXISTS (SELECT 1 FROM inbox_messages m "
        "WHERE m.inbox = d.inbox AND m.stream_id > COALESCE(r.upto, 0))"
    )
)
LEFTOVERS = """
SELECT m.inbox, m.stream_id FROM inbox_messages m
LEFT JOIN devices d ON d.inbox = m.inbox LEFT JOIN inbox_reads r ON r.inbox = m.inbox
WHERE d.inbox IS NULL OR r.upto >= m.stream_id LIMIT $1
"""
FULL_INBOXES = "SELECT inbox FROM inbox_messages GROUP BY inbox HAVING count(*) > $1 LIMIT $2"
EXCESS = """
SELECT inbox, stream_id FROM inbox_messages WHERE inbox = $1
ORDER BY stream_id DESC LIMIT $3 OFFSET $2
"""
DELETE_ONE = "DELETE FROM inbox_messages WHERE inbox = $1 AND stream_id = $2"
DELETE_ORPHANED_READS = """
DELETE FROM inbox_reads WHERE NOT EXISTS (
    SELECT 1 FROM devices d WHERE d.inbox = inbox_reads.inbox
)
"""
DELETE_CLOSED = """
DELETE FROM inbox_messages WHERE (inbox, stream_id) IN (
    SELECT m.inbox, m.stream_id FROM closed_inboxes c JOIN inbox_messages m ON m.inbox = c.inbox
    WHERE c.user_id = $1 LIMIT $2
)
"""
DELETE_CLOSED_READS = """
DELETE FROM inbox_reads WHERE inbox IN (SELECT inbox FROM closed_inboxes WHERE user_id = $1)
"""
FORGET_CLOSED = "DELETE FROM closed_inboxes WHERE user_id = $1"
ARE_ANY_CLOSED = "SELECT EXISTS (SELECT 1 FROM closed_inboxes)"
CLOSED = "SELECT DISTINCT user_id FROM closed_inboxes LIMIT $1"
DEVICES = sql(
    lambda d: (
        f"SELECT user_id, device_id, inbox FROM devices WHERE {d.any_of('user_id', 1, 'text')}"
    )
)
NAMED = sql(
    lambda d: (
        f"SELECT d.user_id, d.device_id, d.inbox "
        f"FROM {d.unnest('requested', 'user_id text, device_id text')} "
        "JOIN devices d ON d.user_id = requested.user_id AND d.device_id = requested.device_id"
    )
)
ARE_THERE = sql(lambda d: f"SELECT count(*) FROM devices WHERE {d.any_of('inbox', 1, 'bigint')}")
INSERT_REQUESTS: Final = InsertRows(
    "to_device_requests",
    "user_id text, device_id text, event_type text, txn_id text, created_ms bigint",
)
KNOWN_REQUESTS = sql(
    lambda d: (
        "SELECT txn_id FROM to_device_requests WHERE user_id = $1 AND device_id = $2 "
        f"AND event_type = $3 AND {d.any_of('txn_id', 4, 'text')}"
    )
)
_PART: Final = "\n"
"""Separates a transaction ID from the part of the request that is recorded under it."""

PRUNE_REQUESTS = """
DELETE FROM to_device_requests WHERE (user_id, device_id, event_type, txn_id) IN (
    SELECT user_id, device_id, event_type, txn_id FROM to_device_requests
    WHERE created_ms < $1 LIMIT $2
)
"""
PRUNE_REQUESTS_OF_DEVICE = """
DELETE FROM to_device_requests WHERE (user_id, device_id, event_type, txn_id) IN (
    SELECT user_id, device_id, event_type, txn_id FROM to_device_requests
    WHERE user_id = $1 AND device_id = $2 AND created_ms < $3 LIMIT $4
)
"""
DEVICES_WITH_MANY_REQUESTS = """
SELECT user_id, device_id FROM to_device_requests
GROUP BY user_id, device_id HAVING count(*) > $1 LIMIT $2
"""
NTH_LATEST_REQUEST = """
SELECT created_ms FROM to_device_requests WHERE user_id = $1 AND device_id = $2
ORDER BY created_ms DESC LIMIT 1 OFFSET $3
"""


Request = tuple[str, str, str, str]
"""The identity of a request: (user_id, device_id, event_type, txn_id)."""
Record = Callable[[Tx, Request, Collection[int], int], Awaitable[set[int]]]
"""Records a request with these parts at a time (ms); returns the parts that are new."""


class _Bundle(NamedTuple):
    stream_id: int
    inboxes: list[int]
    head: bytes
    messages: list[bytes]


async def add_messages(
    tx: Tx, stream_id: int, inboxes: Collection[int], events: Collection[bytes]
) -> None:
    """Add one message (JSON without line breaks) to each inbox, all under one stream ID."""
    rows = [(inbox, stream_id, event) for inbox, event in zip(inboxes, events, strict=True)]
    await tx.insert_rows(INSERT, rows)


async def add_bundle(
    tx: Tx, stream_id: int, inboxes: list[int], head: bytes, messages: Collection[bytes]
) -> None:
    """Add one message to each inbox as a bundle; for `head` and `messages` see `assemble_event`."""
    # JSON is the fastest way to format many numbers.
    text = f",{orjson.dumps(inboxes)[1:-1].decode()},"
    await tx.insert_rows(INSERT_BUNDLE, [(stream_id, text, head, b"\n".join(messages))])


def assemble_event(head: bytes, message: bytes) -> bytes:
    """Return an event's JSON: `head`, the message and "}"; the message alone if `head` is empty."""
    return head + message + b"}" if head else message


async def pending_messages(
    tx: Tx, user_id: str, device_id: str, after: int, upto: int, limit: int
) -> list[tuple[int, bytes]]:
    """Return the first messages of a device in `(after, upto]` as (stream ID, event), in order."""
    query_args = (user_id, device_id, after, upto, limit)
    # Bundles first: a message that is filed between the two statements is found twice, not missed.
    bundled = await tx.fetch(PENDING_BUNDLED, *query_args)
    filed = await tx.fetch(PENDING_FILED, *query_args)
    messages = {row[0]: bytes(row[1]) for row in filed}
    for row in bundled:
        messages.setdefault(row[0], _message_to(row[4], _bundle(row)))
    return sorted(messages.items())[:limit] if bundled else list(messages.items())


async def pending_range(tx: Tx, user_id: str, device_id: str) -> tuple[int, int] | None:
    """Return the first and the last stream ID of the messages waiting for a device, if any."""
    row = await tx.fetchrow(ENDS, user_id, device_id)
    return None if row is None or row[0] is None else (row[0], row[1])


async def delete_upto(tx: Tx, acknowledged: Collection[tuple[str, str, int]]) -> None:
    """Record acknowledgements (user_id, device_id, last stream ID) and delete those messages."""
    await inbox_reads.record_reads(tx, acknowledged)
    await tx.executemany(DELETE_UPTO, sorted(acknowledged))


async def stale_messages(tx: Tx, limit: int) -> list[tuple[int, int]]:
    """List (inbox, stream ID) of filed messages that will never be delivered.

    They belong to deleted devices, or were filed while their device acknowledged them.
    """
    return [(row[0], row[1]) for row in await tx.fetch(LEFTOVERS, limit)]


async def full_inboxes(tx: Tx, size: int, limit: int) -> list[int]:
    """List inboxes with more than `size` filed messages."""
    return [row[0] for row in await tx.fetch(FULL_INBOXES, size, limit)]


async def excess_messages(tx: Tx, inbox: int, kept: int, limit: int) -> list[tuple[int, int]]:
    """List (inbox, stream ID) of filed messages except the latest `kept`."""
    return [(row[0], row[1]) for row in await tx.fetch(EXCESS, inbox, kept, limit)]


async def delete_messages(tx: Tx, messages: Sequence[tuple[int, int]]) -> None:
    """Delete filed messages: (inbox, stream ID)."""
    await tx.executemany(DELETE_ONE, sorted(messages))


async def delete_stale_messages(tx: Tx, messages: Sequence[tuple[int, int]]) -> None:
    """Delete messages listed by `stale_messages`, and the acknowledgements of deleted devices."""
    await delete_messages(tx, messages)
    await tx.execute(DELETE_ORPHANED_READS)


async def file_bundles(tx: Tx, upto: int) -> int:
    """File the oldest bundles up to a stream ID; called by the only writer of messages.

    Messages to deleted devices and acknowledged messages are dropped.

    Returns: the number of messages in these bundles; 0 if no bundle is left.
    """
    bundles = _limit_messages(
        [_bundle(row) for row in await tx.fetch(OLDEST_BUNDLES, upto, MAX_BUNDLES_AT_ONCE)]
    )
    if not bundles:
        return 0
    inboxes = list({inbox for bundle in bundles for inbox in bundle.inboxes})
    read_upto = {row[0]: row[1] for row in await tx.fetch(READ_UPTO, inboxes)}
    filed = [
        (inbox, bundle.stream_id, assemble_event(bundle.head, message))
        for bundle in bundles
        for inbox, message in zip(bundle.inboxes, bundle.messages, strict=True)
        if inbox in read_upto and bundle.stream_id > read_upto[inbox]
    ]
    # Sorted by inbox, so that each index page is touched once.
    await tx.insert_rows(INSERT, sorted(filed))
    await tx.execute(DELETE_BUNDLES, [bundle.stream_id for bundle in bundles])
    return sum([len(bundle.inboxes) for bundle in bundles])


async def devices_with_messages(tx: Tx) -> list[tuple[str, str]]:
    """List all devices with pending messages: (user_id, device_id)."""
    rows = await tx.fetch(BUNDLED_INBOXES)
    bundled = {inbox for row in rows for inbox in _inboxes(row[0])}
    return [(row[0], row[1]) for row in await tx.fetch(DEVICES_WITH_MESSAGES, list(bundled))]


async def delete_messages_of_deleted_devices(tx: Tx, user_id: str, limit: int) -> bool:
    """Delete messages to deleted devices of a user; called by the only writer of messages.

    Return whether all are deleted. If not, this is to be repeated in another transaction.
    """
    if await tx.execute(DELETE_CLOSED, user_id, limit) >= limit:
        return False
    await tx.execute(DELETE_CLOSED_READS, user_id)
    await tx.execute(FORGET_CLOSED, user_id)
    return True


async def users_with_closed_inboxes(tx: Tx, limit: int) -> list[str]:
    """List users with deleted devices whose messages may not be deleted yet."""
    return [row[0] for row in await tx.fetch(CLOSED, limit)]


async def has_closed_inboxes(tx: Tx) -> bool:
    """Return whether any deleted device may still have messages."""
    return bool(await tx.fetchval(ARE_ANY_CLOSED))


async def inboxes_of_users(tx: Tx, user_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Return {user_id: {device_id: inbox}}; users without devices are left out."""
    inboxes: dict[str, dict[str, int]] = {}
    for user_id, device_id, inbox in await tx.fetch(DEVICES, list(user_ids)):
        inboxes.setdefault(user_id, {})[device_id] = inbox
    return inboxes


async def inboxes_of_devices(
    tx: Tx, names: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Return the inboxes of devices (user_id, device_id); missing devices are left out."""
    columns = [[user_id for user_id, _ in names], [device_id for _, device_id in names]]
    return {(row[0], row[1]): row[2] for row in await tx.fetch(NAMED, *columns)}


async def all_exist(tx: Tx, inboxes: Collection[int]) -> bool:
    """Return whether the devices of all these inboxes exist."""
    distinct = set(inboxes)
    count: int = await tx.fetchval(ARE_THERE, list(distinct))
    return count == len(distinct)


async def record_request(tx: Tx, request: Request, parts: Collection[int], now_ms: int) -> set[int]:
    """Record a request as a whole; return its parts that were not recorded before.

    Called by the only writer of the stream. Parts were recorded if the stream had several.
    """
    *device, txn_id = request
    new = await _new_parts(tx, request, parts)
    if new is None:
        return set()
    await tx.insert_rows(INSERT_REQUESTS, [(*device, txn_id, now_ms)])
    return set(new.values())


async def record_parts(tx: Tx, request: Request, parts: Collection[int], now_ms: int) -> set[int]:
    """Record parts of a request; return the new ones.

    Called by the only writer of these parts. A request that was recorded as a whole, when the
    stream had one writer, has no new ones.
    """
    *device, _ = request
    new = await _new_parts(tx, request, parts) or {}
    await tx.insert_rows(INSERT_REQUESTS, [(*device, name, now_ms) for name in new])
    return set(new.values())


async def _new_parts(tx: Tx, request: Request, parts: Collection[int]) -> dict[str, int] | None:
    """Return the new parts by the names for them; None if the whole request is recorded."""
    *device, txn_id = request
    names = {f"{txn_id}{_PART}{part}": part for part in parts}
    known = {row[0] for row in await tx.fetch(KNOWN_REQUESTS, *device, [txn_id, *names])}
    if txn_id in known:
        return None
    return {name: part for name, part in names.items() if name not in known}


async def prune_requests(tx: Tx, before_ms: int, limit: int) -> int:
    """Delete at most `limit` requests older than a time (ms); return their number."""
    return await tx.execute(PRUNE_REQUESTS, before_ms, limit)


async def excess_requests(tx: Tx, kept: int, limit: int) -> list[tuple[str, str, int]]:
    """List devices with more than `kept` requests.

    Return (user_id, device_id, time in ms): there are `kept` requests since that time.
    """
    rows = await tx.fetch(DEVICES_WITH_MANY_REQUESTS, kept, limit)
    return [
        (row[0], row[1], await tx.fetchval(NTH_LATEST_REQUEST, row[0], row[1], kept - 1))
        for row in rows
    ]


async def prune_requests_of_device(
    tx: Tx, user_id: str, device_id: str, before_ms: int, limit: int
) -> int:
    """Delete at most `limit` requests of a device older than a time (ms); return their number."""
    return await tx.execute(PRUNE_REQUESTS_OF_DEVICE, user_id, device_id, before_ms, limit)


def _message_to(inbox: int, bundle: _Bundle) -> bytes:
    return assemble_event(bundle.head, bundle.messages[bundle.inboxes.index(inbox)])


def _bundle(row: Row) -> _Bundle:
    return _Bundle(row[0], _inboxes(row[1]), bytes(row[2]), bytes(row[3]).split(b"\n"))


def _inboxes(text: str) -> list[int]:
    inboxes: list[int] = orjson.loads(f"[{text[1:-1]}]")
    return inboxes


def _limit_messages(bundles: list[_Bundle]) -> list[_Bundle]:
    """Return the first bundles, at least one, with at most MAX_FILED_AT_ONCE messages."""
    count = 0
    for index, bundle in enumerate(bundles):
        count += len(bundle.inboxes)
        if index and count > MAX_FILED_AT_ONCE:
            return bundles[:index]
    return bundles
