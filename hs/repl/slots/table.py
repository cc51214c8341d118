"""The slots as this process knows them: who holds them, and which of them it may write itself.

Rules:

- The table `stream_slots` decides. The configured list of a stream's writers only says which
  processes may hold its slots, so processes with different lists never write the same key.
- `holder` is where a call goes. It may be out of date: a process that does not hold the slot
  answers NotOwner, with what it knows, and the caller tries again (`hs/repl/sharding.py`).
- `holds` is what this process may write, and never out of date in a way that does harm. A slot is
  added only by what was read from the table after the last `lose_all`, by which time this process's
  writers have a generation that a takeover fences. It is removed by this process before it gives
  the slot away, and by `lose_all` when this process finds that it was taken for dead; until then
  the fence rejects its commits. No other process takes a slot away without that fence.
- What is written is checked without an await before it is handed to the writer, by `check`.
- Nothing fences the writer of a memory stream. So a process writes the keys of such streams
  (`unfenced`) only until `trusted_until`: `silent_s` after its last sign of life, before which no
  other process takes its slots. One that was stopped finds that out before it writes anything. What
  such a writer stores has a fence of its own (`hs/repl/slots/fences.py`).
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from hs.core.errors import NotOwner
from hs.core.stream_def import StreamDef
from hs.core.streams import SLOTS as SLOTS_STREAM
from hs.core.streams import SlotsRow
from hs.repl.feed import Batch, Feed
from hs.repl.slots.assignment import SLOTS, first_holders, slot_of
from hs.storage.stream_slots import SlotRecord

Matches = Callable[[str], bool]
"""Returns whether a key belongs to some slots."""

Listener = Callable[[str, Matches], None]
"""Called with a stream, and with a function that returns whether a key belongs to its slots."""

Departure = Callable[[str], None]
"""Called with a process that has lost slots to others."""

Unfinished = Callable[[Matches], bool]
"""Returns whether something about keys is pending for which the function returns true."""


@attrs.define(eq=False)
class SlotTable:
    """The slots of the streams in `configured`, which has the list of writers of each.

    `unfenced` are the memory streams; see the rules above. `era` counts the times that this process
    lost everything; it `must_return` since. `is_behind` says that changes were missed. Of a stream
    in `unfinished`, a function returns what is pending; of another stream, that are the running
    calls, and what a function in `unsaved` returns and one in `savers` stores.
    """

    instance: str
    configured: Mapping[str, Sequence[str]]
    unfenced: Collection[str] = ()
    trusted_until: float = attrs.field(default=math.inf, init=False)
    era: int = attrs.field(default=0, init=False)
    must_return: bool = attrs.field(default=False, init=False)
    is_behind: bool = attrs.field(default=False, init=False)
    changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    unfinished: dict[str, Unfinished] = attrs.field(factory=dict, init=False)
    unsaved: dict[str, Unfinished] = attrs.field(factory=dict, init=False)
    savers: dict[str, Callable[[], Awaitable[None]]] = attrs.field(factory=dict, init=False)
    on_lost: list[Listener] = attrs.field(factory=list, init=False)
    on_gained: list[Listener] = attrs.field(factory=list, init=False)
    on_departed: list[Departure] = attrs.field(factory=list, init=False)
    _holders: dict[str, list[str]] = attrs.field(factory=dict, init=False)
    _epochs: dict[str, list[int]] = attrs.field(factory=dict, init=False)
    _held: dict[str, set[int]] = attrs.field(factory=dict, init=False)
    _leaving: set[tuple[str, int]] = attrs.field(factory=set, init=False)
    _calls: Counter[tuple[str, int]] = attrs.field(factory=Counter, init=False)

    def __attrs_post_init__(self) -> None:
        for stream, writers in self.configured.items():
            self._holders[stream] = first_holders(writers)
            self._epochs[stream] = [0] * SLOTS
            self._held[stream] = set()

    def follow(self, feed: Feed) -> None:
        """Subscribe to the changes that processes publish."""
        feed.subscribe(SLOTS_STREAM, self._on_rows)

    def has_slots(self, stream: StreamDef[Any]) -> bool:
        """Return whether the slots of a stream may pass to other processes."""
        return stream.writer_setting in self.configured

    # Who holds what

    def holder(self, stream: str, key: str) -> str:
        """Return the process that holds the slot of a key, as far as this process knows."""
        return self._holders[stream][slot_of(key)]

    def holders(self, stream: str) -> Sequence[str]:
        """Return the process that holds each slot, as far as this process knows."""
        return self._holders[stream]

    def epochs(self, stream: str) -> Sequence[int]:
        """Return the epoch of each slot, as far as this process knows."""
        return self._epochs[stream]

    def note(self, stream: str, slot: int, holder: str, epoch: int) -> None:
        """Note who holds a slot, unless something newer is known."""
        self._note((SlotRecord(stream, slot, holder, epoch),))

    def note_all(self, records: Iterable[SlotRecord]) -> None:
        """Note what was read from the table."""
        self._note(records)
        self.is_behind = False

    def _note(self, records: Iterable[SlotRecord]) -> None:
        lost: dict[str, list[int]] = {}
        has_changed, former = False, set[str]()
        for record in records:
            stream, slot = record.stream, record.slot
            epochs = self._epochs.get(stream)
            if epochs is None or not 0 <= slot < SLOTS or record.epoch <= epochs[slot]:
                continue
            epochs[slot] = record.epoch
            former.add(self._holders[stream][slot])
            self._holders[stream][slot] = record.holder
            has_changed = True
            if record.holder != self.instance and slot in self._held[stream]:
                lost.setdefault(stream, []).append(slot)
        for stream, slots in lost.items():
            self._lose(stream, slots)
        if has_changed:
            self._wake()
        for process in sorted(former):
            for depart in self.on_departed:
                depart(process)

    async def wait_changed(self, timeout_s: float) -> None:
        """Wait until something changes, not longer than the timeout."""
        with trio.move_on_after(timeout_s):
            await self.changed.wait()

    # What this process holds

    def holds(self, stream: str, key: str) -> bool:
        """Return whether this process may write a key."""
        return self._may_write(stream, slot_of(key))

    def may_finish(self, stream: str, key: str) -> bool:
        """Return whether this process may write what it had begun for a key.

        It may so while it is about to give the slot away, until nothing is pending.
        """
        slot = slot_of(key)
        is_own = slot in self._held[stream] or (stream, slot) in self._leaving
        return is_own and self._is_trusted(stream)

    def held(self, stream: str) -> frozenset[int]:
        """Return the slots of a stream that this process may write."""
        return frozenset(self._held[stream])

    def check(self, stream: str, key: str) -> None:
        """Raise NotOwner unless this process may write a key."""
        slot = slot_of(key)
        if not self._may_write(stream, slot):
            raise NotOwner(stream, slot, self._holders[stream][slot], self._epochs[stream][slot])

    @contextmanager
    def calling(self, stream: str, keys: Iterable[str]) -> Iterator[None]:
        """Count a call about keys, for which a hand-over of their slots waits. Raises: NotOwner."""
        slots = set[int]()
        for key in keys:
            self.check(stream, key)
            slots.add(slot_of(key))
        counted = [(stream, slot) for slot in slots]
        self._calls.update(counted)
        try:
            yield
        finally:
            for each in counted:
                self._calls[each] -= 1
                if not self._calls[each]:
                    del self._calls[each]

    def is_busy(self, stream: str, slots: Collection[int]) -> bool:
        """Return whether something about these slots is pending."""
        unfinished = self.unfinished.get(stream)
        if unfinished is not None:
            return unfinished(_is_in(set(slots)))
        if any((stream, slot) in self._calls for slot in slots):
            return True
        return stream in self.unsaved and self.unsaved[stream](_is_in(set(slots)))

    def promised(self) -> dict[str, list[int]]:
        """Return the slots that are this process's by what it knows, and that it does not hold."""
        found = {
            stream: [
                slot
                for slot, holder in enumerate(holders)
                if holder == self.instance
                and slot not in self._held[stream]
                and (stream, slot) not in self._leaving
            ]
            for stream, holders in self._holders.items()
        }
        return {stream: slots for stream, slots in found.items() if slots}

    def hold(self, stream: str, slots: Iterable[int]) -> None:
        """Hold slots; see the rules above."""
        gained = {slot for slot in slots if (stream, slot) not in self._leaving}
        if not gained:
            return
        self._held[stream] |= gained
        self._wake()
        for listener in self.on_gained:
            listener(stream, _is_in(gained))

    def begin_leaving(self, stream: str, slots: Iterable[int]) -> None:
        """Hold slots no longer, because this process is about to give them away."""
        leaving = set(slots)
        self._leaving |= {(stream, slot) for slot in leaving}
        self._held[stream] -= leaving

    def end_leaving(self, stream: str, slots: Iterable[int]) -> None:
        """Forget that slots were about to be given away; they may be held again."""
        self._leaving -= {(stream, slot) for slot in slots}
        self._wake()

    def drop(self, stream: str, slots: Iterable[int]) -> None:
        """Drop what is in memory about slots that were given away."""
        for listener in self.on_lost:
            listener(stream, _is_in(set(slots)))

    def lose_all(self) -> None:
        """Hold nothing any more: this process was taken for dead, or its writers were fenced."""
        self.era += 1
        self.must_return = True
        self.trusted_until = -math.inf
        leaving, self._leaving = self._leaving, set()
        for stream, held in self._held.items():
            self._lose(stream, [*held, *(slot for name, slot in leaving if name == stream)])
        self._wake()

    def _may_write(self, stream: str, slot: int) -> bool:
        return slot in self._held[stream] and self._is_trusted(stream)

    def _is_trusted(self, stream: str) -> bool:
        return stream not in self.unfenced or trio.current_time() < self.trusted_until

    def _lose(self, stream: str, slots: Sequence[int]) -> None:
        self._held[stream] -= set(slots)
        self.drop(stream, slots)

    def _on_rows(self, batch: Batch[SlotsRow]) -> None:
        if batch.reset:
            self.is_behind = True
            self._wake()
        self._note(
            SlotRecord(row.stream, slot, row.holder, epoch)
            for _, row in batch.rows
            for slot, epoch in row.slots
        )

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


def _is_in(slots: set[int]) -> Matches:
    return lambda key: slot_of(key) in slots
