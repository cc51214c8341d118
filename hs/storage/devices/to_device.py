"""Messages that wait for devices, and the requests that sent them.

A message to few devices lies in a row for each of them at once. Those of a request to many lie
together in a bundle, until somebody files them: then there is a row for each device that has not
acknowledged its message meanwhile.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import orjson

from hs.storage.database import Row, Tx
from hs.storage.devices import inbox_reads
from hs.storage.dialect import sql
from hs.storage.rows import Rows

MAX_FILED_AT_ONCE: Final = 2000
"""Most messages filed in one transaction, but for a larger bundle alone."""

MAX_BUNDLES_AT_ONCE: Final = 100

INSERT = Rows(
    "inbox_messages",
    "inbox bigint, stream_id bigint, message bytea",
    # Who was replaced may file the same bundle at the same moment.
    conflict="ON CONFLICT (inbox, stream_id) DO NOTHING",
)
INSERT_BUNDLE = Rows("inbox_bundles", "stream_id bigint, inboxes text, head bytea, messages bytea")
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
DELETE_ONE = "DELETE FROM inbox_messages WHERE inbox = $1 AND stream_id = $2"
LEFT_READS = """
DELETE FROM inbox_reads WHERE NOT EXISTS (
    SELECT 1 FROM devices d WHERE d.inbox = inbox_reads.inbox
)
"""
DELETE_CLOSED = """
DELETE FROM inbox_messages WHERE inbox IN (SELECT inbox FROM closed_inboxes WHERE user_id = $1)
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
        f"FROM {d.unnest('wanted', 'user_id text, device_id text')} "
        "JOIN devices d ON d.user_id = wanted.user_id AND d.device_id = wanted.device_id"
    )
)
ARE_THERE = sql(lambda d: f"SELECT count(*) FROM devices WHERE {d.any_of('inbox', 1, 'bigint')}")
NOTE_REQUEST = """
INSERT INTO to_device_requests (user_id, device_id, event_type, txn_id, created_ms)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id, device_id, event_type, txn_id) DO NOTHING
"""
PRUNE_REQUESTS = "DELETE FROM to_device_requests WHERE created_ms < $1"


class _Bundle(NamedTuple):
    stream_id: int
    inboxes: list[int]
    head: bytes
    messages: list[bytes]


async def add(tx: Tx, number: int, inboxes: Collection[int], events: Collection[bytes]) -> None:
    """Add a message, the event's JSON in one line, to each of some inboxes under one number."""
    rows = [(inbox, number, event) for inbox, event in zip(inboxes, events, strict=True)]
    await tx.insert_rows(INSERT, rows)


async def add_bundle(
    tx: Tx, number: int, inboxes: list[int], head: bytes, messages: Collection[bytes]
) -> None:
    """Add messages in the same way, in a row that is to be filed; see `whole`."""
    # Of all ways to write many numbers JSON is the quickest.
    text = f",{orjson.dumps(inboxes)[1:-1].decode()},"
    await tx.insert_rows(INSERT_BUNDLE, [(number, text, head, b"\n".join(messages))])


def whole(head: bytes, message: bytes) -> bytes:
    """Give an event's JSON from what it has in common with others; without that, it is whole."""
    return head + message + b"}" if head else message


async def pending(
    tx: Tx, user_id: str, device_id: str, after: int, upto: int, limit: int
) -> list[tuple[int, bytes]]:
    """List a device's first messages in `(after, upto]` with their numbers, in order."""
    asked = (user_id, device_id, after, upto, limit)
    # Bundles first: what is filed between the two questions is found twice, not missed.
    bundled = await tx.fetch(PENDING_BUNDLED, *asked)
    filed = await tx.fetch(PENDING_FILED, *asked)
    found = {row[0]: bytes(row[1]) for row in filed}
    for row in bundled:
        found.setdefault(row[0], _message_to(row[4], _bundle(row)))
    return sorted(found.items())[:limit] if bundled else list(found.items())


async def ends(tx: Tx, user_id: str, device_id: str) -> tuple[int, int] | None:
    """Give the numbers of the first and the last message that waits for a device."""
    row = await tx.fetchrow(ENDS, user_id, device_id)
    return None if row is None or row[0] is None else (row[0], row[1])


async def delete_upto(tx: Tx, got: Collection[tuple[str, str, int]]) -> None:
    """Forget the messages that devices have got: (user_id, device_id, number of the last)."""
    await inbox_reads.mark(tx, got)
    await tx.executemany(DELETE_UPTO, sorted(got))


async def leftovers(tx: Tx, limit: int) -> list[tuple[int, int]]:
    """List messages that nobody is given any more: (inbox, number).

    Of devices that are gone, and of those that acknowledged something just while it was filed.
    """
    return [(row[0], row[1]) for row in await tx.fetch(LEFTOVERS, limit)]


async def delete_leftovers(tx: Tx, found: Sequence[tuple[int, int]]) -> None:
    """Forget what `leftovers` found, and what was read by devices that are gone."""
    await tx.executemany(DELETE_ONE, sorted(found))
    await tx.execute(LEFT_READS)


async def file_bundles(tx: Tx, upto: int) -> int:
    """Put the messages of the oldest bundles under their devices; give how many were in them.

    Messages to devices that are gone, or that have acknowledged them, are dropped. By the only
    writer of messages; 0: there are no bundles left with numbers up to `upto`.
    """
    bundles = _few(
        [_bundle(row) for row in await tx.fetch(OLDEST_BUNDLES, upto, MAX_BUNDLES_AT_ONCE)]
    )
    if not bundles:
        return 0
    inboxes = list({inbox for one in bundles for inbox in one.inboxes})
    read = {row[0]: row[1] for row in await tx.fetch(READ_UPTO, inboxes)}
    filed = [
        (inbox, one.stream_id, whole(one.head, message))
        for one in bundles
        for inbox, message in zip(one.inboxes, one.messages, strict=True)
        if inbox in read and one.stream_id > read[inbox]
    ]
    # By inbox, so that each page of the index is touched once.
    await tx.insert_rows(INSERT, sorted(filed))
    await tx.execute(DELETE_BUNDLES, [one.stream_id for one in bundles])
    return sum([len(one.inboxes) for one in bundles])


async def devices_with_messages(tx: Tx) -> list[tuple[str, str]]:
    """List all devices for which messages wait: (user_id, device_id)."""
    rows = await tx.fetch(BUNDLED_INBOXES)
    bundled = {inbox for row in rows for inbox in _inboxes(row[0])}
    return [(row[0], row[1]) for row in await tx.fetch(DEVICES_WITH_MESSAGES, list(bundled))]


async def delete_closed(tx: Tx, user_id: str) -> None:
    """Forget all messages for devices of a user that are gone.

    By the only writer of messages: none can then come after.
    """
    await tx.execute(DELETE_CLOSED, user_id)
    await tx.execute(DELETE_CLOSED_READS, user_id)
    await tx.execute(FORGET_CLOSED, user_id)


async def closed(tx: Tx, limit: int) -> list[str]:
    """List users with devices that are gone, whose messages may still be here."""
    return [row[0] for row in await tx.fetch(CLOSED, limit)]


async def are_any_closed(tx: Tx) -> bool:
    """Tell whether there are devices that are gone, and may still be written to."""
    return bool(await tx.fetchval(ARE_ANY_CLOSED))


async def devices(tx: Tx, user_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Give the devices of users with their inboxes; users without any are left out."""
    found: dict[str, dict[str, int]] = {}
    for user_id, device_id, inbox in await tx.fetch(DEVICES, list(user_ids)):
        found.setdefault(user_id, {})[device_id] = inbox
    return found


async def named(tx: Tx, devices: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Give the inboxes of devices (user, device) that are there."""
    lists = [[user_id for user_id, _ in devices], [device_id for _, device_id in devices]]
    return {(row[0], row[1]): row[2] for row in await tx.fetch(NAMED, *lists)}


async def are_there(tx: Tx, inboxes: Collection[int]) -> bool:
    """Tell whether the devices of all these inboxes are still there."""
    wanted = set(inboxes)
    number: int = await tx.fetchval(ARE_THERE, list(wanted))
    return number == len(wanted)


async def note_request(
    tx: Tx, user_id: str, device_id: str, event_type: str, txn_id: str, now_ms: int
) -> bool:
    """Note a request; False: it was done before."""
    return await tx.execute(NOTE_REQUEST, user_id, device_id, event_type, txn_id, now_ms) == 1


async def prune_requests(tx: Tx, before_ms: int) -> int:
    """Forget requests older than a time; give how many."""
    return await tx.execute(PRUNE_REQUESTS, before_ms)


def _message_to(inbox: int, bundle: _Bundle) -> bytes:
    return whole(bundle.head, bundle.messages[bundle.inboxes.index(inbox)])


def _bundle(row: Row) -> _Bundle:
    return _Bundle(row[0], _inboxes(row[1]), bytes(row[2]), bytes(row[3]).split(b"\n"))


def _inboxes(text: str) -> list[int]:
    inboxes: list[int] = orjson.loads(f"[{text[1:-1]}]")
    return inboxes


def _few(bundles: list[_Bundle]) -> list[_Bundle]:
    """Give the first of them, at least one, with few enough messages."""
    taken = 0
    for place, one in enumerate(bundles):
        taken += len(one.inboxes)
        if place and taken > MAX_FILED_AT_ONCE:
            return bundles[:place]
    return bundles
