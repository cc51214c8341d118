"""State snapshots in memory: immutable maps, and how each is to be stored.

Rules:

- A snapshot that is not stored has no `id`. It is stored as `changes` to its `parent`, or whole if
  it has no parent. Several tasks may share it and derive others from it.
- One that `is_packed` is stored whole as well: its parent as it is stored, with the changes applied
  to the numbers in it. So the committer looks up the changes, and not every entry of a large room.
- Only the committer changes a snapshot: after the commit it sets the ID and drops the parent, so
  chains of parents do not keep old states in memory. Commits run one at a time, and a group stores
  all unstored ancestors of the snapshots that it uses, so each is stored exactly once.
- If the commit fails, the snapshot stays without ID. The hot room that refers to it is dropped.
- Snapshots with the same `base` differ at most in keys that are in `differing` of one of them, so
  the states of forks are compared without reading them whole.
- After a limited number of hops a snapshot is stored whole, which bounds the chain that a reader
  has to follow.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Final

import attrs
from immutables import Map

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.storage.rooms.state import EMPTY_SNAPSHOT

StateMap = Map[StateKey, EventID]
Changes = Mapping[StateKey, EventID | None]  # None: the entry is removed

# A whole snapshot takes 16 bytes per entry. Stored once in `entries / 8` changes, that is 128 bytes
# per change, no more than the row of a delta; and a chain is never longer than its last snapshot.
MIN_HOPS: Final = 64
MAX_HOPS: Final = 1024
ENTRIES_PER_HOP: Final = 8

ENTRY_BYTES: Final = 160  # memory of an entry in a map that shares no structure
MAX_DIFFERING: Final = 256
CHANGE_BYTES: Final = 1200  # memory of the tree nodes that one change copies


@attrs.define(eq=False)
class Snapshot:
    """The state of a room at one point; only the committer changes it.

    While `id` is None, the snapshot is to be stored as `changes` to `parent`, or whole if both are
    None or if it `is_packed`.
    """

    map: StateMap
    id: int | None = None
    hops: int = 0
    parent: "Snapshot | None" = None
    changes: Changes | None = None
    is_packed: bool = False
    base: object = attrs.Factory(object)
    differing: frozenset[StateKey] = frozenset()

    def after(self, changes: Changes) -> "Snapshot":
        """Return the snapshot after changes; the same object if nothing changes."""
        effective = {key: new for key, new in changes.items() if self.map.get(key) != new}
        if not effective:
            return self
        state = _changed(self.map, effective)
        hops = self.hops + 1
        if self.id == EMPTY_SNAPSHOT:
            return Snapshot(state)
        if hops > _most_hops(len(state)):
            snapshot = Snapshot(state, None, 0, self, effective, is_packed=True)
        else:
            snapshot = Snapshot(state, None, hops, self, effective)
        if len(self.differing) + len(effective) <= MAX_DIFFERING:
            snapshot.base, snapshot.differing = self.base, self.differing.union(effective)
        return snapshot

    def mark_stored(self, snapshot_id: int) -> None:
        """Record the ID under which the snapshot was stored."""
        self.id = snapshot_id
        self.parent = None
        self.changes = None


def differing_keys(snapshots: Sequence[Snapshot]) -> set[StateKey]:
    """Return keys that include all in which the snapshots differ.

    Of snapshots with the same base, only the first is read whole.
    """
    by_base: dict[int, Snapshot] = {}
    keys: set[StateKey] = set()
    for snapshot in snapshots:
        by_base.setdefault(id(snapshot.base), snapshot)
        keys |= snapshot.differing
    first, *others = (snapshot.map for snapshot in by_base.values())
    for state in others:
        keys.update(key for key, event_id in state.items() if first.get(key) != event_id)
        keys.update(key for key in first if key not in state)
    return keys


def empty() -> Snapshot:
    """Return the state before a room's first event."""
    return Snapshot(Map(), EMPTY_SNAPSHOT)


def unstored(snapshot: Snapshot, known: Container[int] = ()) -> Iterator[Snapshot]:
    """Yield a snapshot and its unstored ancestors, the oldest first.

    With a snapshot whose identity (`id`) is in `known`, its ancestors are known, too.
    """
    chain: list[Snapshot] = []
    ancestor: Snapshot | None = snapshot
    while ancestor is not None and ancestor.id is None and id(ancestor) not in known:
        chain.append(ancestor)
        ancestor = ancestor.parent
    return reversed(chain)


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
