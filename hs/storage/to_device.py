"""Messages that wait for devices, and the requests that sent them."""

from collections.abc import Collection, Sequence

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import Rows

WaitingMessage = tuple[int, int, bytes]  # (inbox of the device, stream ID, the event's JSON)

INSERT = Rows("inbox_messages", "inbox bigint, stream_id bigint, message bytea")
_INBOX = "(SELECT inbox FROM devices WHERE user_id = $1 AND device_id = $2)"
PENDING = f"""
SELECT stream_id, message FROM inbox_messages
WHERE inbox = {_INBOX} AND stream_id > $3 AND stream_id <= $4
ORDER BY stream_id LIMIT $5
"""
ENDS = f"SELECT min(stream_id), max(stream_id) FROM inbox_messages WHERE inbox = {_INBOX}"
DELETE_UPTO = f"DELETE FROM inbox_messages WHERE inbox = {_INBOX} AND stream_id <= $3"
DELETE_CLOSED = """
DELETE FROM inbox_messages WHERE inbox IN (SELECT inbox FROM closed_inboxes WHERE user_id = $1)
"""
FORGET_CLOSED = "DELETE FROM closed_inboxes WHERE user_id = $1"
CLOSED = "SELECT DISTINCT user_id FROM closed_inboxes LIMIT $1"
DEVICES = sql(
    lambda d: (
        f"SELECT user_id, device_id, inbox FROM devices WHERE {d.any_of('user_id', 1, 'text')}"
    )
)
NOTE_REQUEST = """
INSERT INTO to_device_requests (user_id, device_id, event_type, txn_id, created_ms)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id, device_id, event_type, txn_id) DO NOTHING
"""
PRUNE_REQUESTS = "DELETE FROM to_device_requests WHERE created_ms < $1"


async def add(tx: Tx, messages: Sequence[WaitingMessage]) -> None:
    """Add messages; those of one inbox have different stream IDs."""
    await tx.insert_rows(INSERT, messages)


async def pending(
    tx: Tx, user_id: str, device_id: str, after: int, upto: int, limit: int
) -> list[tuple[int, bytes]]:
    """List a device's first messages in `(after, upto]` with their numbers, in order."""
    rows = await tx.fetch(PENDING, user_id, device_id, after, upto, limit)
    return [(row[0], bytes(row[1])) for row in rows]


async def ends(tx: Tx, user_id: str, device_id: str) -> tuple[int, int] | None:
    """Give the numbers of the first and the last message that waits for a device."""
    row = await tx.fetchrow(ENDS, user_id, device_id)
    return None if row is None or row[0] is None else (row[0], row[1])


async def delete_upto(tx: Tx, got: Sequence[tuple[str, str, int]]) -> None:
    """Forget the messages that devices have got: (user_id, device_id, number of the last)."""
    await tx.executemany(DELETE_UPTO, got)


async def delete_closed(tx: Tx, user_id: str) -> None:
    """Forget all messages for devices of a user that are gone.

    By the only writer of messages: none can then come after.
    """
    await tx.execute(DELETE_CLOSED, user_id)
    await tx.execute(FORGET_CLOSED, user_id)


async def closed(tx: Tx, limit: int) -> list[str]:
    """List users with devices that are gone, whose messages may still be here."""
    return [row[0] for row in await tx.fetch(CLOSED, limit)]


async def devices(tx: Tx, user_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Give the devices of users with their inboxes; users without any are left out."""
    found: dict[str, dict[str, int]] = {}
    for user_id, device_id, inbox in await tx.fetch(DEVICES, list(user_ids)):
        found.setdefault(user_id, {})[device_id] = inbox
    return found


async def note_request(
    tx: Tx, user_id: str, device_id: str, event_type: str, txn_id: str, now_ms: int
) -> bool:
    """Note a request; False: it was done before."""
    return await tx.execute(NOTE_REQUEST, user_id, device_id, event_type, txn_id, now_ms) == 1


async def prune_requests(tx: Tx, before_ms: int) -> int:
    """Forget requests older than a time; give how many."""
    return await tx.execute(PRUNE_REQUESTS, before_ms)
