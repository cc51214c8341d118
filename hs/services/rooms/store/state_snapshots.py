"""Snapshots of a room's state in memory: maps that share structure, and how each is to be stored.

A snapshot that is not stored yet knows its parent and its changes over it; once it is committed
it has a number, and lets go of the parent. Every so many hops a snapshot is stored whole, so
that reading one back costs a bounded chain.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import attrs
from immutables import Map

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.storage.rooms.state import EMPTY_SNAPSHOT

StateMap = Map[StateKey, EventID]
Changes = Mapping[StateKey, EventID | None]  # None: the key is no longer in the state

# A whole snapshot costs 16 bytes an entry. Once in `entries / 8` changes that is 128 bytes a
# change, no more than the row of a delta; and no chain is read back that is longer than the last.
MIN_HOPS: Final = 64
MAX_HOPS: Final = 1024
ENTRIES_PER_HOP: Final = 8

ENTRY_BYTES: Final = 160  # of memory, for an entry of a map that shares nothing
CHANGE_BYTES: Final = 1200  # for the path in the tree that one change copies


@attrs.define(eq=False)
class Snapshot:
    """The state of a room at one point; read-only to all but the committer, which numbers it.

    Not stored yet: `id` is None; then `parent` and `changes` over it, or, for one that is to be
    stored whole, neither.
    """

    map: StateMap
    id: int | None = None
    hops: int = 0
    parent: "Snapshot | None" = None
    changes: Changes | None = None

    def after(self, changes: Changes) -> "Snapshot":
        """Give the snapshot that follows from changes; itself when they change nothing."""
        real = {key: new for key, new in changes.items() if self.map.get(key) != new}
        if not real:
            return self
        state = _changed(self.map, real)
        hops = self.hops + 1
        if self.id == EMPTY_SNAPSHOT or hops > _most_hops(len(state)):
            return Snapshot(state)
        return Snapshot(state, None, hops, self, real)

    def settle(self, number: int) -> None:
        """Note that the snapshot is stored."""
        self.id = number
        self.parent = None
        self.changes = None


def empty() -> Snapshot:
    """Give the state before a room's first event."""
    return Snapshot(Map(), EMPTY_SNAPSHOT)


def unstored(snapshot: Snapshot) -> Iterator[Snapshot]:
    """Go through a snapshot and those below it that are not stored, the lowest first."""
    found: list[Snapshot] = []
    below: Snapshot | None = snapshot
    while below is not None and below.id is None:
        found.append(below)
        below = below.parent
    return reversed(found)


def _most_hops(entries: int) -> int:
    return min(MAX_HOPS, max(MIN_HOPS, entries // ENTRIES_PER_HOP))


def _changed(state: StateMap, changes: Changes) -> StateMap:
    if len(changes) == 1:
        ((key, new),) = changes.items()
        return state.delete(key) if new is None else state.set(key, new)
    copy = state.mutate()
    for key, new in changes.items():
        if new is None:
            del copy[key]
        else:
            copy[key] = new
    return copy.finish()
