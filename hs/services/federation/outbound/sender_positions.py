"""How far a federation sender has delivered each stream to all of its destinations.

A sender that starts with another list of senders than the one before begins at the lowest position
that any sender has stored, because its destinations were another sender's. The sender that starts
first stores that position for all of them, so a sender that starts much later begins there too.
Positions of earlier lists are deleted when each sender of the present list has stored its own.
"""

from collections.abc import Mapping, Sequence

import attrs
import orjson
from immutables import Map

from hs.core.positions import VectorPosition
from hs.core.streams import DEVICE_LISTS, EVENTS, RECEIPTS
from hs.storage.database import Database
from hs.storage.federation import outbound as storage
from hs.storage.federation.outbound import SenderPositionRecord

_ALL_WRITERS = ""


@attrs.frozen
class SenderPosition:
    """A position in the streams of which nothing may be lost."""

    events: VectorPosition
    receipts: int
    devices: int


@attrs.define(eq=False)
class SenderPositions:
    """The stored positions of one sender among all `senders`."""

    _database: Database
    _sender: str
    _senders: Sequence[str]
    stored: SenderPosition | None = None
    _passed: int = 0

    async def load(self) -> SenderPosition | None:
        """Return the position to begin at; None if no sender has ever stored one."""
        records = await self._database.read(storage.list_positions)
        own = [
            record
            for record in records
            if record.sender == self._sender and record.senders == self._list
        ]
        lowest: dict[tuple[str, str], int] = {}
        for record in own or records:
            key = (record.stream, record.writer)
            lowest[key] = min(record.position, lowest.get(key, record.position))
        if not lowest:
            return None
        events = {writer: at for (stream, writer), at in lowest.items() if stream == EVENTS.name}
        return SenderPosition(
            _vector(events),
            lowest.get((RECEIPTS.name, _ALL_WRITERS), 0),
            lowest.get((DEVICE_LISTS.name, _ALL_WRITERS), 0),
        )

    async def begin(self, position: SenderPosition, writers: Sequence[str]) -> None:
        """Store where all senders begin that have never stored a position."""
        records = [
            row for sender in self._senders for row in self._records(sender, position, writers)
        ]
        await self._database.write(storage.begin_positions, records)

    async def store(self, position: SenderPosition, writers: Sequence[str]) -> None:
        """Store a position; `writers` are the known writers of events."""
        if position == self.stored:
            return
        records = self._records(self._sender, position, writers)
        await self._database.write(storage.set_positions, records, self._list, len(self._senders))
        self._passed = await self._database.write(storage.delete_passed, EVENTS.name, self._passed)
        self.stored = position

    def _records(
        self, sender: str, position: SenderPosition, writers: Sequence[str]
    ) -> list[SenderPositionRecord]:
        rows = [(EVENTS.name, writer, position.events.get(writer)) for writer in writers]
        rows.append((RECEIPTS.name, _ALL_WRITERS, position.receipts))
        rows.append((DEVICE_LISTS.name, _ALL_WRITERS, position.devices))
        return [SenderPositionRecord(sender, *row, self._list) for row in rows]

    @property
    def _list(self) -> str:
        return orjson.dumps(list(self._senders)).decode()


def _vector(positions: Mapping[str, int]) -> VectorPosition:
    floor = min(positions.values(), default=0)
    return VectorPosition(floor, Map({w: at for w, at in positions.items() if at > floor}))
