"""Receipts: moved forward by one process, known to all.

Spec: client-server API, Receipts.
"""

from collections.abc import Collection, Iterable
from typing import Final, Protocol

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.repl.feed import Batch, Feed
from hs.repl.rows import ReceiptRow
from hs.repl.rpc import rpc
from hs.repl.streams import RECEIPTS
from hs.repl.writers import StreamIds, TableWriter
from hs.services.ephemeral.room_receipts import UNTHREADED, Receipt, RoomReceipts
from hs.storage.database import Database, Tx
from hs.storage.ephemeral import receipts as storage
from hs.storage.ephemeral.receipts import ReceiptRecord

MAX_CACHE_BYTES: Final = 64 * 1024 * 1024
MAX_ROOMS: Final = 100_000
_ROOM_BYTES: Final = 500
_RECEIPT_BYTES: Final = 700


@attrs.frozen
class Move:
    """A receipt that wants to move; `event_stream_id` is None for an event that is not here."""

    room_id: RoomID
    receipt_type: str
    user_id: UserID
    event_id: EventID
    event_stream_id: int | None
    thread_id: str
    ts: int


class ReceiptWriter(Protocol):
    """The process that moves receipts."""

    @rpc
    async def move(self, moves: list[Move]) -> None:
        """Move receipts forward; those that stand further on already stay."""
        ...


@attrs.frozen(eq=False)
class ReceiptTable:
    """The writer."""

    writer: TableWriter[ReceiptRow]

    async def move(self, moves: list[Move]) -> None:
        """Move receipts forward; those that stand further on already stay."""
        await self.writer.write(_move_all, moves)


class Receipts:
    """The receipts of rooms, in each process, kept exact by the feed."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._rooms: LruCache[RoomID, RoomReceipts] = LruCache(
            "receipts_of_rooms", max_weight=MAX_CACHE_BYTES, weigh=_weigh
        )
        self._flights: SingleFlight[RoomID] = SingleFlight()
        # For each room being read, what the feed brings meanwhile, one list for each reader.
        self._reading: dict[RoomID, list[list[Receipt]]] = {}
        # Position of the last move in each room, in the order of the moves.
        self._changes: dict[RoomID, int] = {}
        self._changes_from: int | None = None
        self._feed = feed
        feed.subscribe(RECEIPTS, self._on_rows)

    @property
    def cache(self) -> LruCache[RoomID, RoomReceipts]:
        """Give what metrics and settings look at."""
        return self._rooms

    def of_room_nowait(self, room_id: RoomID) -> RoomReceipts | None:
        """Give the receipts of a room, if they are in memory."""
        return self._rooms.get(room_id)

    async def of_room(self, room_id: RoomID) -> RoomReceipts:
        """Give the receipts of a room. They live: render before awaiting."""
        held = self._rooms.get(room_id)
        if held is not None:
            return held
        return await self._flights.run(room_id, self._read_one, room_id)

    async def of_rooms(self, room_ids: Collection[RoomID]) -> dict[RoomID, RoomReceipts]:
        """Give the receipts of many rooms, reading those not in memory by one statement."""
        missing = [room_id for room_id in room_ids if room_id not in self._rooms]
        read = await self._read(missing) if missing else {}
        found: dict[RoomID, RoomReceipts] = {}
        for room_id in room_ids:
            held = self._rooms.get(room_id, read.get(room_id))
            found[room_id] = held if held is not None else await self.of_room(room_id)
        return found

    async def in_rooms(
        self, user_id: UserID, room_ids: Collection[RoomID], after: int, upto: int
    ) -> dict[RoomID, bytes]:
        """Give contents of m.receipt events with what moved after a position; 0 is everything.

        Private receipts are the user's own only. Rooms without any are left out. What moved
        after `upto` may be in it as well: it comes again.
        """
        contents: dict[RoomID, bytes] = {}
        for room_id, held in (await self.of_rooms(room_ids)).items():
            content = held.content(user_id, after)
            if content is not None:
                contents[room_id] = content
        return contents

    def changed_rooms(self, after: int) -> list[RoomID] | None:
        """List the rooms where a receipt moved after a position; None: so long ago that any may."""
        if self._changes_from is None:
            # Nothing moved since this process listens.
            return [] if after >= self._feed.position(RECEIPTS).most() else None
        if after < self._changes_from:
            return None
        changed: list[RoomID] = []
        for room_id, position in reversed(self._changes.items()):
            if position <= after:
                break
            changed.append(room_id)
        return changed

    async def _read_one(self, room_id: RoomID) -> RoomReceipts:
        return (await self._read([room_id]))[room_id]

    async def _read(self, room_ids: list[RoomID]) -> dict[RoomID, RoomReceipts]:
        news: dict[RoomID, list[Receipt]] = {room_id: [] for room_id in room_ids}
        for room_id, moved in news.items():
            self._reading.setdefault(room_id, []).append(moved)
        try:
            records = await self._database.read(storage.of_rooms, room_ids)
        finally:
            for room_id, moved in news.items():
                self._stop_listening(room_id, moved)
        found = {room_id: RoomReceipts() for room_id in room_ids}
        for record in records:
            found[RoomID(record.room_id)].put(_of_record(record))
        for room_id, moved in news.items():
            for receipt in moved:
                found[room_id].put(receipt)
            self._keep(room_id, found[room_id])
        return found

    def _stop_listening(self, room_id: RoomID, moved: list[Receipt]) -> None:
        left = [one for one in self._reading[room_id] if one is not moved]
        if left:
            self._reading[room_id] = left
        else:
            del self._reading[room_id]

    def _keep(self, room_id: RoomID, receipts: RoomReceipts) -> None:
        self._rooms.pop(room_id)
        receipts.weighed = len(receipts)
        self._rooms.put(room_id, receipts)

    def _on_rows(self, batch: Batch[ReceiptRow]) -> None:
        if self._changes_from is None:
            self._changes_from = batch.prev
        for position, row in batch.rows:
            room_id = RoomID(row.room_id)
            receipt = _of_row(position, row)
            if room_id in self._rooms:
                held = self._rooms.get(room_id)
                assert held is not None
                held.put(receipt)
                if len(held) > 2 * held.weighed:
                    self._keep(room_id, held)
            for moved in self._reading.get(room_id, ()):
                moved.append(receipt)
            self._note_change(room_id, position)

    def _note_change(self, room_id: RoomID, position: int) -> None:
        self._changes.pop(room_id, None)
        self._changes[room_id] = position
        if len(self._changes) > MAX_ROOMS:
            oldest = next(iter(self._changes))
            self._changes_from = self._changes.pop(oldest)


async def _move_all(
    tx: Tx, ids: StreamIds, moves: Iterable[Move]
) -> tuple[None, list[tuple[int, ReceiptRow]]]:
    rows: list[tuple[int, ReceiptRow]] = []
    for one in moves:
        number = await ids.one()
        record = ReceiptRecord(
            one.room_id,
            one.receipt_type,
            one.user_id,
            one.thread_id,
            one.event_id,
            one.event_stream_id,
            one.ts,
            number,
        )
        if await storage.move(tx, record):
            rows.append((number, _row(one)))
    return None, rows


def _row(move: Move) -> ReceiptRow:
    return ReceiptRow(
        room_id=move.room_id,
        receipt_type=move.receipt_type,
        user_id=move.user_id,
        event_id=move.event_id,
        thread_id=move.thread_id or None,
        ts=move.ts,
        event_stream_id=move.event_stream_id,
    )


def _of_row(position: int, row: ReceiptRow) -> Receipt:
    return Receipt(
        row.receipt_type,
        UserID(row.user_id),
        row.thread_id or UNTHREADED,
        EventID(row.event_id),
        row.event_stream_id,
        row.ts,
        position,
    )


def _of_record(record: ReceiptRecord) -> Receipt:
    return Receipt(
        record.receipt_type,
        UserID(record.user_id),
        record.thread_id,
        EventID(record.event_id),
        record.event_stream_id,
        record.ts,
        record.stream_id,
    )


def _weigh(room_id: RoomID, receipts: RoomReceipts) -> int:
    return _ROOM_BYTES + receipts.weighed * _RECEIPT_BYTES
