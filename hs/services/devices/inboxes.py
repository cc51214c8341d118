"""What waits for the devices that sync here: given in order, and forgotten when acknowledged.

Each process knows by the feed which devices have messages waiting, so that a device without any
costs no reading; and it keeps the latest of them in memory, so that one that waits for its next
costs none either. What a device has acknowledged is not given again, and deleted.

A device may acknowledge to one process and then go back, by an old token, to another whose memory
still has the messages. So only the table tells whether what lies there already when a request
comes is still to be given. It is asked when there is something to give, and not even then if the
request itself acknowledges something: that tells, too, whether others were told of more.

Spec: client-server API, Send-to-Device messaging.
"""

import logging
from typing import Final, NamedTuple, cast

import trio

from hs.core.ids import UserID
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import ToDeviceRow
from hs.repl.streams import TO_DEVICE
from hs.storage.database import Database, DatabaseError
from hs.storage.devices import inbox_reads, to_device

MAX_DEVICES: Final = 100_000
BATCH: Final = 100
"""Most messages given at once."""

MAX_LATEST: Final = 100
"""Most messages of one device that are kept in memory."""

MAX_LATEST_BYTES: Final = 16 * 1024 * 1024
DELETE_AFTER_S: Final = 1.0
"""How long messages that were acknowledged wait for others, to be deleted together."""

LAST_DELETION_S: Final = 5.0

_Key = tuple[UserID, str]

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """Messages with numbers in `[first, last]` may be stored; `last` 0: none."""

    first: int
    last: int


class Latest(NamedTuple):
    """All messages with numbers behind `after`."""

    after: int
    size_bytes: int
    messages: tuple[tuple[int, bytes], ...]


class Inboxes:
    """Gives devices their messages.

    What was acknowledged is deleted a moment later, together with what other devices have got.
    `is_alone`: no other process serves devices, so that none need know of it before.
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
        self._entries: LruCache[_Key, Waiting] = LruCache("to_device", max_entries=MAX_DEVICES)
        self._waiting = LoadingCache(self._entries, self._read)
        self._latest: LruCache[_Key, Latest] = LruCache(
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
        """Give a device's messages in `(after, upto]` as JSON, and the position of the last.

        That position is below `upto` if there are more of them than `limit`. What came behind
        `began`, where the stream was when the request came, is certain not to be acknowledged;
        0: all is certain, as of this moment.
        """
        key = (user_id, device_id)
        waiting = await self._waiting.get(key)
        after = max(after, self._acknowledged.get(key, 0))
        if waiting.last <= after:
            return [], max(after, upto)
        found = self._kept(key, max(after, waiting.first - 1), upto, limit)
        if found is None or (not self._is_alone and found and found[0][0] <= began):
            found = await self._database.read(to_device.pending, *key, after, upto, limit)
            self._learn(key, after, found[0][0] - 1 if found else upto)
        reached = found[-1][0] if len(found) == limit else max(after, upto)
        return [message for _, message in found], reached

    async def acknowledge(self, user_id: UserID, device_id: str, upto: int) -> bool:
        """Forget the messages that a device has got; False: there are none that it may have got.

        True: what is left is certain not to be acknowledged, as of this moment.
        """
        key = (user_id, device_id)
        waiting = await self._waiting.get(key)
        # Nobody has got what is not written yet, whatever they say.
        upto = min(upto, self._feed.position(TO_DEVICE).most())
        if waiting.last == 0 or waiting.first > upto:
            return False
        self._acknowledged[key] = max(upto, self._acknowledged.get(key, 0))
        self._any_acknowledged.set()
        if not self._is_alone:
            with trio.CancelScope(shield=True):
                upto = await self._database.write(inbox_reads.advance, *key, upto)
            # Others may have been told of more, of what has not even arrived here.
            self._acknowledged[key] = max(upto, self._acknowledged.get(key, 0))
        self._pass_over(key, upto)
        return True

    async def delete(self) -> None:
        """Delete what was acknowledged. Raises: DatabaseError."""
        acknowledged = dict(self._acknowledged)
        if acknowledged:
            rows = [(*key, number) for key, number in acknowledged.items()]
            await self._database.write(to_device.delete_upto, rows)
        for key, number in acknowledged.items():
            if self._acknowledged.get(key) == number:
                del self._acknowledged[key]

    async def run(self) -> None:
        """Delete what was acknowledged, now and then; a last time when cancelled."""
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
                except DatabaseError:
                    log.warning("acknowledged messages are left to be deleted", exc_info=True)

    async def _read(self, key: _Key) -> Waiting:
        ends = await self._database.read(to_device.ends, *key)
        return Waiting(0, 0) if ends is None else Waiting(*ends)

    def _kept(self, key: _Key, after: int, upto: int, limit: int) -> list[tuple[int, bytes]] | None:
        """Give messages from memory; None: some may be in the database only."""
        latest = self._latest.get(key)
        if latest is None or latest.after > after:
            return None
        return [one for one in latest.messages if after < one[0] <= upto][:limit]

    def _learn(self, key: _Key, after: int, read: int) -> None:
        """Take over that all messages in `(after, read]` are acknowledged."""
        known = self._entries.get(key)
        # What lies before was not asked for.
        if known is not None and known.first > after:
            self._pass_over(key, read)

    def _pass_over(self, key: _Key, upto: int) -> None:
        known = self._entries.get(key)
        if known is not None and known.last:
            left = Waiting(max(known.first, upto + 1), known.last)
            self._entries.put(key, left if left.first <= left.last else Waiting(0, 0))
        self._drop_latest(key, upto)

    def _drop_latest(self, key: _Key, upto: int) -> None:
        latest = self._latest.get(key)
        if latest is None or upto <= latest.after:
            return
        left = tuple(one for one in latest.messages if one[0] > upto)
        if left:
            self._latest.put(key, Latest(upto, sum(len(one) for _, one in left), left))
        else:
            self._latest.pop(key)

    def _on_rows(self, batch: Batch[ToDeviceRow]) -> None:
        for number, row in batch.rows:
            if row.gone:
                for user_id, device_id in row.devices:
                    self._forget((UserID(user_id), device_id))
            elif not row.keys:
                self._on_messages(number, row)

    def _on_messages(self, number: int, row: ToDeviceRow) -> None:
        devices = cast(tuple[_Key, ...], row.devices)
        # It may be any of them that is being loaded.
        known = set(devices) if self._waiting.is_loading else self._entries.kept_among(devices)
        # Most devices sync elsewhere, or not now.
        for key in self._latest.kept_among(devices) - known:
            self._latest.pop(key)
        if not known:
            return
        for place, key in enumerate(devices):
            if key in known:
                carried = row.messages and to_device.whole(row.head, row.messages[place])
                self._note(key, number, carried or None)

    def _note(self, key: _Key, number: int, message: bytes | None) -> None:
        known = self._entries.get(key)
        if known is None:
            # It may be being loaded.
            self._forget(key)
        else:
            self._entries.put(key, Waiting(known.first if known.last else number, number))
            self._keep(key, number, message)

    def _forget(self, key: _Key) -> None:
        self._waiting.invalidate(key)
        self._latest.pop(key)

    def _keep(self, key: _Key, number: int, message: bytes | None) -> None:
        latest = self._latest.get(key) or Latest(number - 1, 0, ())
        if message is None or len(latest.messages) == MAX_LATEST:
            self._latest.pop(key)
            return
        size_bytes = latest.size_bytes + len(message)
        messages = (*latest.messages, (number, message))
        self._latest.put(key, Latest(latest.after, size_bytes, messages))


def _weigh(key: _Key, latest: Latest) -> int:
    return latest.size_bytes + 200 * len(latest.messages)
