"""Device inboxes: pending to-device messages, returned in order and deleted once acknowledged.

Rules:

- For each device that syncs here, the process tracks by the feed the range of numbers of its
  pending messages, so that a device without messages needs no database read. It also caches the
  latest messages, as long as it has all of them after a position, so that a device that is waiting
  for its next message needs none either.
- A row that arrives while a device's range is being loaded invalidates the load.
- Acknowledged messages are never returned again. With several processes, an acknowledgement is
  committed (`inbox_reads`) before the response; the messages themselves are deleted later, in
  batches. A single process keeps acknowledgements in memory until the deletion; if it crashes
  before, the messages are delivered again to a client that repeats an older token.
- A device may acknowledge to one process, and then use an older token at another one whose cache
  still has the messages. Cached messages from before the request are therefore returned only if
  the database confirms that they are pending, or if the request itself acknowledged something:
  committing that returns the highest acknowledgement of any process. Messages that arrived after
  the request cannot have been acknowledged.
- A device may be deleted and created again before the deletion is announced. A request without a
  token, which may be the first of a new device, therefore gets cached messages from before the
  request only if the database confirms them.
- An acknowledgement never exceeds the position of the stream, whatever the client sends.

Spec: client-server API, Send-to-Device messaging.
"""

import logging
from typing import Final, NamedTuple, cast

import trio

from hs.core.ids import UserID
from hs.core.streams import TO_DEVICE, ToDeviceRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.storage.database import Database, DatabaseError
from hs.storage.devices import inbox_reads, to_device

MAX_DEVICES: Final = 100_000
BATCH: Final = 100
"""Limit on the messages in one response."""

MAX_LATEST: Final = 100
"""Limit on the cached messages of one device."""

MAX_LATEST_BYTES: Final = 16 * 1024 * 1024
DELETE_AFTER_S: Final = 1.0
"""How long acknowledged messages wait to be deleted in one batch with others."""

LAST_DELETION_S: Final = 5.0

_Key = tuple[UserID, str]

log = logging.getLogger(__name__)


class PendingRange(NamedTuple):
    """The range `[first, last]` of numbers of pending messages; empty if `last` is 0."""

    first: int
    last: int


class LatestMessages(NamedTuple):
    """All messages with numbers above `after`."""

    after: int
    size_bytes: int
    messages: tuple[tuple[int, bytes], ...]


class InboxReader:
    """The reader of device inboxes.

    With `is_alone` no other process serves devices, so acknowledgements need not be committed
    before the messages are deleted.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        *,
        is_alone: bool = False,
        delete_after_s: float = DELETE_AFTER_S,
    ) -> None:
        self._database = database
        self._feed = feed
        self._is_alone = is_alone
        self._delete_after_s = delete_after_s
        self._ranges: LruCache[_Key, PendingRange] = LruCache("to_device", max_entries=MAX_DEVICES)
        self._loading_ranges = LoadingCache(self._ranges, self._read)
        self._latest: LruCache[_Key, LatestMessages] = LruCache(
            "to_device_latest", max_weight=MAX_LATEST_BYTES, weigh=_weigh
        )
        self._acknowledged: dict[_Key, int] = {}
        self._any_acknowledged = trio.Event()
        feed.subscribe(TO_DEVICE, self._on_rows)

    async def messages(
        self,
        user_id: UserID,
        device_id: str,
        after: int,
        upto: int,
        began: int,
        limit: int = BATCH,
    ) -> tuple[list[bytes], int]:
        """Return a device's messages in `(after, upto]` as JSON, and the position reached.

        The position is below `upto` if more than `limit` messages are pending. `began` is the
        position of the stream when the request arrived: messages after it cannot have been
        acknowledged. 0 means that no pending message can have been.
        """
        key = (user_id, device_id)
        pending_range = await self._loading_ranges.get(key)
        must_confirm = after == 0 or not self._is_alone
        after = max(after, self._acknowledged.get(key, 0))
        if pending_range.last <= after:
            return [], max(after, upto)
        messages = self._cached(key, max(after, pending_range.first - 1), upto, limit)
        if messages is None or (must_confirm and messages and messages[0][0] <= began):
            messages = await self._database.read(
                to_device.pending_messages, *key, after, upto, limit
            )
            self._skip_acknowledged(key, after, messages[0][0] - 1 if messages else upto)
        reached = messages[-1][0] if len(messages) == limit else max(after, upto)
        return [message for _, message in messages], reached

    async def acknowledge(self, user_id: UserID, device_id: str, upto: int) -> bool:
        """Acknowledge messages up to a position; return False if none of them are pending.

        True means that no message that is still pending has been acknowledged elsewhere.
        """
        key = (user_id, device_id)
        pending_range = await self._loading_ranges.get(key)
        # A device cannot have received messages that are not written yet.
        upto = min(upto, self._feed.position(TO_DEVICE).most())
        if pending_range.last == 0 or pending_range.first > upto:
            return False
        self._acknowledged[key] = max(upto, self._acknowledged.get(key, 0))
        self._any_acknowledged.set()
        if not self._is_alone:
            with trio.CancelScope(shield=True):
                upto = await self._database.write(inbox_reads.advance, *key, upto)
            # The device may have acknowledged more to another process, even messages that have not
            # arrived here.
            self._acknowledged[key] = max(upto, self._acknowledged.get(key, 0))
        self._drop_upto(key, upto)
        return True

    async def delete(self) -> None:
        """Delete acknowledged messages. Raises: DatabaseError."""
        acknowledged = dict(self._acknowledged)
        if acknowledged:
            rows = [(*key, number) for key, number in acknowledged.items()]
            await self._database.write(to_device.delete_upto, rows)
        for key, number in acknowledged.items():
            if self._acknowledged.get(key) == number:
                del self._acknowledged[key]

    async def run(self) -> None:
        """Delete acknowledged messages periodically, and a last time when cancelled."""
        try:
            while True:
                if not self._acknowledged:
                    self._any_acknowledged = trio.Event()
                    await self._any_acknowledged.wait()
                await trio.sleep(self._delete_after_s)
                await self.delete()
        finally:
            with trio.move_on_after(LAST_DELETION_S, shield=True):
                try:
                    await self.delete()
                except DatabaseError as error:
                    log.warning("could not delete acknowledged to-device messages: %s", error)

    async def _read(self, key: _Key) -> PendingRange:
        ends = await self._database.read(to_device.pending_range, *key)
        return PendingRange(0, 0) if ends is None else PendingRange(*ends)

    def _cached(
        self, key: _Key, after: int, upto: int, limit: int
    ) -> list[tuple[int, bytes]] | None:
        """Return messages from the cache; None if it may not have all of them."""
        latest = self._latest.get(key)
        if latest is None or latest.after > after:
            return None
        return [message for message in latest.messages if after < message[0] <= upto][:limit]

    def _skip_acknowledged(self, key: _Key, after: int, upto: int) -> None:
        """Record that all messages in `(after, upto]` are acknowledged."""
        pending_range = self._ranges.get(key)
        # Nothing is known about messages up to `after`.
        if pending_range is not None and pending_range.first > after:
            self._drop_upto(key, upto)

    def _drop_upto(self, key: _Key, upto: int) -> None:
        pending_range = self._ranges.get(key)
        if pending_range is not None and pending_range.last:
            remaining = PendingRange(max(pending_range.first, upto + 1), pending_range.last)
            self._ranges.put(
                key, remaining if remaining.first <= remaining.last else PendingRange(0, 0)
            )
        self._drop_latest_upto(key, upto)

    def _drop_latest_upto(self, key: _Key, upto: int) -> None:
        latest = self._latest.get(key)
        if latest is None or upto <= latest.after:
            return
        remaining = tuple(entry for entry in latest.messages if entry[0] > upto)
        if remaining:
            size_bytes = sum(len(message) for _, message in remaining)
            self._latest.put(key, LatestMessages(upto, size_bytes, remaining))
        else:
            self._latest.pop(key)

    def _on_rows(self, batch: Batch[ToDeviceRow]) -> None:
        for number, row in batch.rows:
            if row.gone:
                for user_id, device_id in row.devices:
                    self._invalidate((UserID(user_id), device_id))
            elif not row.keys:
                self._on_messages(number, row)

    def _on_messages(self, number: int, row: ToDeviceRow) -> None:
        devices = cast(tuple[_Key, ...], row.devices)
        # While ranges are being loaded, any of the devices may be among them.
        tracked = (
            set(devices) if self._loading_ranges.is_loading else self._ranges.cached_among(devices)
        )
        # Most devices sync with other processes, or not now.
        for key in self._latest.cached_among(devices) - tracked:
            self._latest.pop(key)
        if not tracked:
            return
        for index, key in enumerate(devices):
            if key in tracked:
                carried = row.messages and to_device.assemble_event(row.head, row.messages[index])
                self._add(key, number, carried or None)

    def _add(self, key: _Key, number: int, message: bytes | None) -> None:
        pending_range = self._ranges.get(key)
        if pending_range is None:
            # The range may be being loaded.
            self._invalidate(key)
        else:
            self._ranges.put(
                key, PendingRange(pending_range.first if pending_range.last else number, number)
            )
            self._add_latest(key, number, message)

    def _invalidate(self, key: _Key) -> None:
        self._loading_ranges.invalidate(key)
        self._latest.pop(key)

    def _add_latest(self, key: _Key, number: int, message: bytes | None) -> None:
        latest = self._latest.get(key) or LatestMessages(number - 1, 0, ())
        if message is None or len(latest.messages) == MAX_LATEST:
            self._latest.pop(key)
            return
        size_bytes = latest.size_bytes + len(message)
        messages = (*latest.messages, (number, message))
        self._latest.put(key, LatestMessages(latest.after, size_bytes, messages))


def _weigh(key: _Key, latest: LatestMessages) -> int:
    return latest.size_bytes + 200 * len(latest.messages)
