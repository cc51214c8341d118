"""Receipts: those of each user moved forward by one process, followed by all.

Spec: client-server API, Receipts.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import RECEIPTS, ReceiptRow
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.followers import KeyFollower
from hs.repl.rpc import rpc
from hs.repl.sharding import KeyGuard, OwnerCalls, unguarded
from hs.repl.writers import StreamIds, TableWriter
from hs.services.ephemeral.room_receipts import UNTHREADED, Receipt, RoomReceipts
from hs.storage.database import Database, Tx
from hs.storage.ephemeral import receipts as storage
from hs.storage.ephemeral.receipts import ReceiptRecord

MAX_CACHE_BYTES: Final = 64 * 1024 * 1024
ROOMS_AT_ONCE: Final = 500
_ROOM_BYTES: Final = 500
_RECEIPT_BYTES: Final = 700


@attrs.frozen
class Move:
    """A move of a receipt to an event; `event_stream_id` is None if the event is not here."""

    room_id: RoomID
    receipt_type: str
    user_id: UserID
    event_id: EventID
    event_stream_id: int | None
    thread_id: str
    ts: int


class ReceiptWriter(Protocol):
    """The writer of receipts: local, the proxy of another process, or several by user."""

    @rpc
    async def move(self, moves: list[Move]) -> None:
        """Move receipts forward; a receipt that is further on already stays."""
        ...


@attrs.frozen(eq=False)
class ShardedReceipts:
    """A ReceiptWriter that passes each move to the process that owns its user.

    `writer_of` returns the writer in a process, or a proxy of it.
    """

    _writer_of: Callable[[str], ReceiptWriter]
    _owners: OwnerCalls

    async def move(self, moves: list[Move]) -> None:
        """Move receipts forward; a repetition after a failure moves nothing twice."""
        await self._owners.call_all(
            moves, lambda each: each.user_id, lambda owner, own: self._writer_of(owner).move(own)
        )


@attrs.frozen(eq=False)
class ReceiptTable:
    """The writer of the receipts stream, or of its share of the users.

    It remembers nothing: a new owner of a user goes on with what is stored.
    """

    writer: TableWriter[ReceiptRow]
    guard: KeyGuard = unguarded

    async def move(self, moves: list[Move]) -> None:
        """Move receipts forward; a receipt that is further on already stays."""
        with self.guard(move.user_id for move in moves):
            await self.writer.write(_move_all, moves)


class Receipts:
    """The receipts of rooms; they follow the feed.

    A process that reads none has another `interest` than ALL.
    """

    def __init__(self, database: Database, feed: Feed, interest: Interest = Interest.ALL) -> None:
        self._database = database
        self._rooms: LruCache[RoomID, RoomReceipts] = LruCache(
            "receipts_of_rooms", max_weight=MAX_CACHE_BYTES, weigh=_weigh
        )
        self._follower = KeyFollower(self._rooms, self._read, _with_receipt, self._keep)
        feed.subscribe(RECEIPTS, self._on_rows, interest)

    @property
    def cache(self) -> LruCache[RoomID, RoomReceipts]:
        """Return the cache, for metrics and settings."""
        return self._rooms

    def of_room_nowait(self, room_id: RoomID) -> RoomReceipts | None:
        """Return the receipts of a room if they are in memory."""
        return self._rooms.get(room_id)

    async def of_room(self, room_id: RoomID) -> RoomReceipts:
        """Return the receipts of a room. They change with the feed: render before awaiting."""
        return await self._follower.get(room_id)

    async def of_rooms(self, room_ids: Collection[RoomID]) -> dict[RoomID, RoomReceipts]:
        """Return the receipts of many rooms, reading those not in memory together."""
        return await self._follower.get_many(room_ids, at_once=ROOMS_AT_ONCE)

    async def in_rooms(
        self, user_id: UserID, room_ids: Collection[RoomID], after: int, upto: int
    ) -> dict[RoomID, bytes]:
        """Return contents of m.receipt events with the receipts that moved after a position.

        A position of 0 means all receipts. Private receipts are the user's own only. Rooms without
        receipts are left out. Receipts that moved after `upto` may be included: they come again.
        """
        contents: dict[RoomID, bytes] = {}
        for room_id, receipts in (await self.of_rooms(room_ids)).items():
            content = receipts.content(user_id, after)
            if content is not None:
                contents[room_id] = content
        return contents

    async def _read(self, room_ids: list[RoomID]) -> dict[RoomID, RoomReceipts]:
        records = await self._database.read(storage.list_of_rooms, room_ids)
        rooms = {room_id: RoomReceipts() for room_id in room_ids}
        for record in records:
            rooms[RoomID(record.room_id)].put(_of_record(record))
        return rooms

    def _keep(self, room_id: RoomID, receipts: RoomReceipts) -> None:
        self._rooms.pop(room_id)
        receipts.weighed = len(receipts)
        self._rooms.put(room_id, receipts)

    def _on_rows(self, batch: Batch[ReceiptRow]) -> None:
        for position, row in batch.rows:
            room_id = RoomID(row.room_id)
            if room_id in self._follower:
                receipts = self._follower.update(room_id, _of_row(position, row))
                if receipts is not None and len(receipts) > 2 * receipts.weighed:
                    self._keep(room_id, receipts)


async def _move_all(
    tx: Tx, ids: StreamIds, moves: Iterable[Move]
) -> tuple[None, list[tuple[int, ReceiptRow]]]:
    rows: list[tuple[int, ReceiptRow]] = []
    for move in moves:
        number = await ids.next_id()
        record = ReceiptRecord(
            room_id=move.room_id,
            receipt_type=move.receipt_type,
            user_id=move.user_id,
            thread_id=move.thread_id,
            event_id=move.event_id,
            event_stream_id=move.event_stream_id,
            ts=move.ts,
            stream_id=number,
        )
        if await storage.move_receipt(tx, record):
            rows.append((number, _row(move)))
    return None, rows


def _with_receipt(receipts: RoomReceipts, receipt: Receipt) -> RoomReceipts:
    receipts.put(receipt)
    return receipts


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
        receipt_type=row.receipt_type,
        user_id=UserID(row.user_id),
        thread_id=row.thread_id or UNTHREADED,
        event_id=EventID(row.event_id),
        event_stream_id=row.event_stream_id,
        ts=row.ts,
        position=position,
    )


def _of_record(record: ReceiptRecord) -> Receipt:
    return Receipt(
        receipt_type=record.receipt_type,
        user_id=UserID(record.user_id),
        thread_id=record.thread_id,
        event_id=EventID(record.event_id),
        event_stream_id=record.event_stream_id,
        ts=record.ts,
        position=record.stream_id,
    )


def _weigh(room_id: RoomID, receipts: RoomReceipts) -> int:
    return _ROOM_BYTES + receipts.weighed * _RECEIPT_BYTES
