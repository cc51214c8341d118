"""The rows that wait for the duty that sends to application services, within two bounds.

- Rows of tables wait in the order of their arrival, without what the duty does not need: the bytes
  of events and messages, and devices that belong to no service. If more than MAX_ROWS wait, all are
  dropped, and the duty reads the tables. Rows of CACHES are treated alike: all that they say is
  read at the start as well.
- Rows of typing and presence are in no table, so they do not count towards that bound, and are not
  dropped with the others. Only the newest row of each room or user waits; of more than MAX_NEWEST
  in one stream, the oldest is dropped.

An entry among the rows of tables marks that the others wait. So the interest of services in them is
that of the moment when they came, or later.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import attrs
import msgspec

from hs.core.stream_def import StreamDef
from hs.core.streams import (
    CACHES,
    DEVICE_LISTS,
    EVENTS,
    PRESENCE,
    RECEIPTS,
    TO_DEVICE,
    TYPING,
    CacheRow,
    DeviceListRow,
    EventRow,
    ToDeviceRow,
    without_messages,
)
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.appservices.alias_namespaces import ALIASES
from hs.services.appservices.event_interest import EventInterest

MAX_ROWS: Final = 50_000
"""Rows of tables that wait, some 50 MB; a row with a list counts for each entry of it as well."""

MAX_NEWEST: Final = 10_000
"""Rows of typing, and of presence, that wait."""

AT_ONCE: Final = 500

_NEWEST: Final = "newest"
"""Entry of the queue: rows of typing or presence wait."""

Row = Any
Take = Callable[[Batch[Row]], Awaitable[None]]


class RowQueue:
    """The rows of all streams of which something may be sent to a service."""

    def __init__(self, feed: Feed, interest: EventInterest) -> None:
        self._interest = interest
        self._is_open = False
        self._newest = _NewestRows()
        self._queue: FeedQueue[Batch[Row] | str] = FeedQueue(
            "application services", MAX_ROWS, WhenFull.START_OVER, is_open=False, size=_size_of
        )
        registrations = [service.registration for service in interest.services]
        if registrations:
            self._queue.follow(feed, EVENTS, _slim)
            self._queue.follow(feed, CACHES, _caches_followed)
        if any(registration.receives_ephemeral for registration in registrations):
            self._queue.follow(feed, RECEIPTS, partial(_settled, feed))
            self._follow_newest(feed, TYPING, lambda row: row.room_id)
            self._follow_newest(feed, PRESENCE, lambda row: row.user_id)
        if any(registration.receives_encryption for registration in registrations):
            self._queue.follow(feed, DEVICE_LISTS, partial(_settled, feed))
            self._queue.follow(feed, TO_DEVICE, self._owned_devices)

    @property
    def waiting(self) -> int:
        """The number of rows that wait; for metrics."""
        return self._queue.waiting + len(self._newest)

    def __bool__(self) -> bool:
        """Return whether rows wait, or are to be read from the tables after an overflow."""
        return bool(self._queue)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let rows of typing and presence wait during the block."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False
            self._newest.clear()

    @contextmanager
    def tables_opened(self) -> Iterator[None]:
        """Let rows of tables wait during the block, none of them from before; within `opened`."""
        with self._queue.opened():
            if self._newest:
                self._queue.put(_NEWEST)
            yield

    async def wait(self) -> None:
        """Wait until a row waits. Raises: QueueOverflow, until the tables are opened again."""
        await self._queue.wait()

    async def serve_waiting(self, take: Take) -> None:
        """Take rows until none is waiting."""

        async def take_all(entries: list[Batch[Row] | str]) -> None:
            for entry in entries:
                for batch in self._batches_of(entry):
                    await take(batch)

        await self._queue.serve_waiting(take_all)

    def _batches_of(self, entry: Batch[Row] | str) -> list[Batch[Row]]:
        if not isinstance(entry, str):
            return [entry]
        batches = self._newest.take(AT_ONCE)
        if self._newest:
            self._queue.put(_NEWEST)
        return batches

    def _follow_newest(
        self, feed: Feed, stream: StreamDef[Any], key: Callable[[Row], Hashable]
    ) -> None:
        def add(batch: Batch[Row]) -> None:
            if self._is_open:
                for position, row in batch.rows:
                    self._newest.put(key(row), attrs.evolve(batch, rows=[(position, row)]))
                self._queue.put(_NEWEST)

        feed.subscribe(stream, add)

    def _owned_devices(self, batch: Batch[ToDeviceRow]) -> Iterator[Batch[ToDeviceRow]]:
        """Select the devices of users whom a service owns; there are few in a server's traffic."""
        owners = self._interest.owners
        rows: list[tuple[int, ToDeviceRow]] = []
        for position, row in batch.rows:
            devices = tuple(device for device in row.devices if owners(device[0]))
            if devices:
                slim = msgspec.structs.replace(without_messages(row), devices=devices)
                rows.append((position, slim))
        if rows:
            yield attrs.evolve(batch, rows=rows)


@attrs.frozen(eq=False)
class _NewestRows:
    """The newest row of each key in each stream, as a batch of one row."""

    _by_stream: dict[str, dict[Hashable, Batch[Row]]] = attrs.Factory(dict)

    def __len__(self) -> int:
        return sum(map(len, self._by_stream.values()))

    def put(self, key: Hashable, batch: Batch[Row]) -> None:
        rows = self._by_stream.setdefault(batch.stream.name, {})
        rows.pop(key, None)
        rows[key] = batch
        if len(rows) > MAX_NEWEST:
            del rows[next(iter(rows))]

    def take(self, at_most: int) -> list[Batch[Row]]:
        taken: list[Batch[Row]] = []
        for rows in self._by_stream.values():
            taken += [rows.pop(key) for key in list(rows)[: at_most - len(taken)]]
        return taken

    def clear(self) -> None:
        self._by_stream.clear()


def _slim(batch: Batch[Row]) -> Iterator[Batch[Row]]:
    slim = batch.stream.slim
    yield attrs.evolve(batch, rows=[(position, slim(row)) for position, row in batch.rows])


def _settled(feed: Feed, batch: Batch[Row]) -> Iterator[Batch[Row]]:
    """Yield the batch with the position that may be stored once its rows have been sent."""
    for slim in _slim(batch):
        yield attrs.evolve(slim, position=feed.settled(batch))


def _caches_followed(batch: Batch[CacheRow]) -> Iterator[Batch[CacheRow]]:
    rows = [(position, row) for position, row in batch.rows if row.cache == ALIASES]
    if rows or batch.reset:
        yield attrs.evolve(batch, rows=rows)


def _size_of(entry: Batch[Row] | str) -> int:
    if isinstance(entry, str):
        return 0
    return sum(1 + _length_of_list(row) for _, row in entry.rows)


def _length_of_list(row: Row) -> int:
    match row:
        case EventRow():
            return len(row.state_changes or ())
        case DeviceListRow():
            return len(row.targets)
        case ToDeviceRow():
            return len(row.devices)
        case CacheRow():
            return len(row.keys)
    return 0
