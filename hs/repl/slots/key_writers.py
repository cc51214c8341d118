"""Which writer's position says up to where this process has seen the rows about a key.

A process may learn that a slot has passed to another holder before it has the last rows of the one
before. Until it has them, the position of the new holder does not cover them.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

import attrs

from hs.core.stream_def import StreamDef
from hs.core.streams import SLOTS, SlotsRow
from hs.repl.feed import Batch, Feed
from hs.repl.slots.assignment import SLOTS as SLOT_COUNT
from hs.repl.slots.assignment import slot_of
from hs.storage.stream_slots import SlotRecord


@attrs.define(eq=False)
class KeyWriters:
    """The writers by key of a table stream with slots, as the rows that arrived here have them.

    All rows about a key up to the position of its writer have arrived. The holder in `SlotTable`,
    to which calls go, may be a later one. `missed` counts the times that changes were missed.
    """

    stream: StreamDef[Any]
    _feed: Feed
    missed: int = attrs.field(default=0, init=False)
    _holders: list[str] | None = attrs.field(default=None, init=False)
    _epochs: list[int] = attrs.field(factory=list, init=False)
    _coming: deque[SlotsRow] = attrs.field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self._feed.subscribe(SLOTS, self._on_rows)

    @property
    def has_begun(self) -> bool:
        """Whether the writers are known."""
        return self._holders is not None

    def begin(self, records: Iterable[SlotRecord]) -> None:
        """Begin with holders that were read before all that earlier ones wrote had arrived.

        `SlotTable` may know later ones by now, but not what those before them wrote.
        """
        self._holders, self._epochs = [""] * SLOT_COUNT, [0] * SLOT_COUNT
        for record in records:
            if record.stream == self.stream.name:
                self._holders[record.slot] = record.holder
                self._epochs[record.slot] = record.epoch

    def writer_of(self, key: str) -> str | None:
        """Return the writer of a key; None if that is not known, as changes were missed."""
        if self._holders is None:
            return None
        while self._coming and self._has_ended(self._coming[0]):
            self._apply(self._coming.popleft(), self._holders)
        return self._holders[slot_of(key)]

    def _on_rows(self, batch: Batch[SlotsRow]) -> None:
        if batch.reset:
            self._holders = None
            self.missed += 1
            self._coming.clear()
        self._coming += [row for _, row in batch.rows if row.stream == self.stream.name]

    def _has_ended(self, row: SlotsRow) -> bool:
        """Return whether all has arrived that the holder before wrote of these slots."""
        return all(
            (self._feed.position_of(self.stream, writer) or 0) >= end
            for stream, writer, end in row.ends
            if stream == self.stream.name
        )

    def _apply(self, row: SlotsRow, holders: list[str]) -> None:
        for slot, epoch in row.slots:
            if epoch > self._epochs[slot]:
                holders[slot], self._epochs[slot] = row.holder, epoch
