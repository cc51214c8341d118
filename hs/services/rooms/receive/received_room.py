"""A room while events of other servers are put into it: stored, on their way, and just placed.

Belongs to one call that holds the room. Events that are placed are not handed over one by one but
when the call ends, or before states are resolved, for which all must be on disk.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.auth.selection import auth_state_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.redaction import redact
from hs.core.ids import EventID
from hs.core.stateres.conflict import Conflict, find_conflict
from hs.services.rooms.append.hot_room import HotRoom, RoomHead
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.pending_events import Batch, NewRoom, Placed
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_resolution import StateResolver
from hs.services.rooms.store.state_snapshots import Changes, Snapshot, StateMap
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import Status
from hs.storage.database import Database, Tx
from hs.storage.rooms import events

MAX_REMEMBERED: Final = 256  # states kept of each room


@attrs.frozen(eq=False)
class Standing:
    """A known event: what it is held for, and whether it has a place in the graph.

    `before` is the state before an event that is not on disk; of others `snapshot_id` names it.
    """

    event: Event
    status: Status
    before: Snapshot | None = None
    snapshot_id: int | None = None
    redacted_by: EventID | None = None
    stream_id: int = 0

    @property
    def has_place(self) -> bool:
        """Tell whether the state before the event is known."""
        return self.before is not None or self.snapshot_id is not None

    @property
    def counting(self) -> Event:
        """Give the event as it counts in the room: without what a redaction took."""
        return self.event if self.redacted_by is None else redact(self.event)


@attrs.define(eq=False)
class StateMemory:
    """States in a room that were worked out lately; dropped together with the HotRoom."""

    after: OrderedDict[EventID, Snapshot] = attrs.Factory(OrderedDict)
    resolved: OrderedDict[frozenset[Snapshot], Snapshot] = attrs.Factory(OrderedDict)

    def trim(self) -> None:
        """Forget the oldest."""
        while len(self.after) > MAX_REMEMBERED:
            self.after.popitem(last=False)
        while len(self.resolved) > MAX_REMEMBERED:
            self.resolved.popitem(last=False)


@attrs.frozen(eq=False)
class RoomStores:
    """Where a growing room finds what it asks for."""

    database: Database
    rooms: HotRooms
    events: EventStore
    states: StateStore
    resolver: StateResolver


@attrs.define(eq=False)
class GrowingRoom:
    """One held room; `head` is its end, the events in `fresh` counted in.

    Every method that waits ends with a check that the room is still what will be on disk.
    Raises, from all of them: RoomDropped; NotCommitted.
    """

    room: HotRoom
    _stores: RoomStores
    _memory: StateMemory
    head: RoomHead
    fresh: list[Placed] = attrs.Factory(list)
    new_room: NewRoom | None = None
    batches: list[Batch] = attrs.Factory(list)
    _entering: Event | None = None
    _known: dict[EventID, Standing | None] = attrs.Factory(dict)

    async def look_up(self, event_ids: Iterable[EventID]) -> None:
        """Find out how events stand, for `standing` to tell."""
        wanted = []
        for event_id in event_ids:
            if event_id in self._known:
                continue
            pending = self.room.pending.get(event_id)
            if pending is None:
                wanted.append(event_id)
            else:
                self._note(pending)
        if not wanted:
            return
        found = await self._stores.events.get(wanted)
        self._stores.rooms.check(self.room)
        for event_id in wanted:
            stored = found.get(event_id)
            self._known[event_id] = (
                None
                if stored is None
                else Standing(
                    stored.event,
                    Status(stored.status),
                    snapshot_id=stored.snapshot_id,
                    redacted_by=stored.redacted_by,
                    stream_id=stored.stream_id,
                )
            )

    def standing(self, event_id: EventID) -> Standing | None:
        """Tell how an event stands that was looked up; None if it is not known."""
        return self._known.get(event_id)

    async def settled_standing(self, event_id: EventID) -> Standing | None:
        """Tell how an event stands; one that is known without a place is on disk then."""
        standing = (await self.standings([event_id])).get(event_id)
        if standing is not None and not standing.has_place and not standing.stream_id:
            await self.settle()
            del self._known[event_id]
            standing = (await self.standings([event_id])).get(event_id)
        return standing

    async def standings(self, event_ids: Collection[EventID]) -> dict[EventID, Standing]:
        """Look events up, and give those that are known."""
        await self.look_up(event_ids)
        found = ((event_id, self._known.get(event_id)) for event_id in event_ids)
        return {event_id: one for event_id, one in found if one is not None}

    def add(self, placed: Placed, head: RoomHead) -> None:
        """Put an event in, after which the room ends in `head`."""
        self.fresh.append(placed)
        self.head = head
        self._entering = None
        self._note(placed)

    def introduce(self, placed: Placed, after: Snapshot) -> None:
        """Make an event known that is about to be added, and the state after it."""
        self._note(placed)
        self._entering = placed.event
        self.remember_after(placed.event.event_id, after)

    def under_way(self) -> list[Placed]:
        """List the room's events that are not on disk."""
        return [*self.room.pending.values(), *self.fresh]

    def hand_over(self) -> None:
        """Have what was added written."""
        if self.fresh:
            batch = self._stores.rooms.submit(self.room, self.fresh, self.head, self.new_room)
            self.batches.append(batch)
            self.fresh = []
            self.new_room = None

    async def settle(self) -> None:
        """Have everything of the room on disk."""
        self.hand_over()
        for one in list(self.room.pending.values()):
            if one.batch is not None:
                await one.batch.wait()
        self._stores.rooms.check(self.room)

    async def auth_state(self, snapshot: Snapshot, event: Event) -> dict[StateKey, Event]:
        """Give what the auth rules look at for an event, of some state."""
        keys = auth_state_types(
            event.rules, event.type, event.sender, event.state_key, event.content
        )
        if snapshot is self.head.snapshot:
            await self._bring_into_head(keys)
            return {key: self.head.events[key] for key in keys if key in self.head.events}
        ids = {key: snapshot.map[key] for key in keys if key in snapshot.map}
        found = await self.standings(ids.values())
        return {key: found[one].counting for key, one in ids.items() if one in found}

    async def _bring_into_head(self, keys: Sequence[StateKey]) -> None:
        ids = {
            self.head.snapshot.map[key]
            for key in keys
            if key in self.head.snapshot.map and key not in self.head.events
        }
        if ids:
            found = await self.standings(ids)
            self.head = self.head.with_events(one.counting for one in found.values())

    async def state_before(self, event: Event) -> Snapshot:
        """Give the state before an event, all of whose prev_events have a place."""
        cited = set(event.prev_events)
        if not cited:
            return state_snapshots.empty()
        if cited == {one.event_id for one in self.head.extremities}:
            return self.head.snapshot
        return await self.resolve([await self.state_after(one) for one in sorted(cited)])

    async def state_before_known(self, standing: Standing) -> Snapshot:
        """Give the state before an event that has a place."""
        if standing.before is not None:
            return standing.before
        assert standing.snapshot_id is not None
        snapshot = await self._stores.states.snapshot(standing.snapshot_id)
        self._stores.rooms.check(self.room)
        return snapshot

    async def state_after(self, event_id: EventID) -> Snapshot:
        """Give the state after an event that has a place."""
        if [one.event_id for one in self.head.extremities] == [event_id]:
            return self.head.snapshot
        known = self._memory.after.get(event_id)
        if known is not None:
            return known
        standing = (await self.standings([event_id]))[event_id]
        after = await self.state_before_known(standing)
        event = standing.event
        if event.state_key is not None and standing.status != Status.REJECTED:
            after = after.after({(event.type, event.state_key): event_id})
        self.remember_after(event_id, after)
        return after

    def remember_after(self, event_id: EventID, snapshot: Snapshot) -> None:
        """Keep the state after an event at hand."""
        self._memory.after[event_id] = snapshot
        self._memory.trim()

    async def resolve(self, states: Iterable[Snapshot]) -> Snapshot:
        """Bring states together."""
        different = frozenset(states)
        if len(different) == 1:
            return next(iter(different))
        known = self._memory.resolved.get(different)
        if known is not None:
            return known
        ordered = sorted(different, key=lambda one: one is not self.head.snapshot)
        maps = [one.map for one in ordered]
        conflict = find_conflict(maps)
        if conflict.conflicted:
            await self.settle()
        result = await self._stores.resolver.resolve(
            self.room.rules, conflict, maps, self._entering
        )
        self._stores.rooms.check(self.room)
        base, changes = _nearest(ordered, result, conflict)
        resolved = base.after(changes)
        self._memory.resolved[different] = resolved
        self._memory.trim()
        return resolved

    async def changes_to(self, state: Snapshot) -> dict[StateKey, Event | None]:
        """Give what makes another state of the current one."""
        differing = difference(self.head.snapshot.map, state.map)
        ids = {event_id for event_id in differing.values() if event_id is not None}
        found = await self.standings(ids)
        return {
            key: None if event_id is None else found[event_id].counting
            for key, event_id in differing.items()
        }

    def snapshot_of(self, entries: Mapping[StateKey, EventID]) -> Snapshot:
        """Give a state that was told by others, as changes of the current one."""
        return self.head.snapshot.after(difference(self.head.snapshot.map, entries))

    async def notes_of(
        self, event_ids: Sequence[EventID]
    ) -> tuple[frozenset[EventID], dict[EventID, list[EventID]]]:
        """Tell which of some unknown events are lacking, and which have redactions here."""
        notes = await self._stores.database.read(_read_notes, event_ids)
        self._stores.rooms.check(self.room)
        return notes

    def _note(self, placed: Placed) -> None:
        event = placed.event
        self._known[event.event_id] = Standing(
            event, placed.status, placed.before, redacted_by=placed.redacted_by
        )
        target = None if placed.redacts is None else self._known.get(placed.redacts)
        if target is not None:
            redacted = attrs.evolve(target, redacted_by=event.event_id)
            self._known[target.event.event_id] = redacted


async def _read_notes(
    tx: Tx, event_ids: Sequence[EventID]
) -> tuple[frozenset[EventID], dict[EventID, list[EventID]]]:
    redactions: dict[EventID, list[EventID]] = {}
    for target, redaction_id, _ in await events.redactions_of(tx, event_ids):
        redactions.setdefault(EventID(target), []).append(EventID(redaction_id))
    lacking = await events.lacking_among(tx, event_ids)
    return frozenset(EventID(one) for one in lacking), redactions


def difference(old: StateMap, new: Mapping[StateKey, EventID]) -> dict[StateKey, EventID | None]:
    """Give what makes one state of another; None where an entry is gone."""
    if old is new:
        return {}
    changes: dict[StateKey, EventID | None] = {
        key: event_id for key, event_id in new.items() if old.get(key) != event_id
    }
    if len(old) + sum(key not in old for key in changes) != len(new):
        changes.update({key: None for key in old if key not in new})
    return changes


def _nearest(
    states: Sequence[Snapshot], result: StateMap, conflict: Conflict
) -> tuple[Snapshot, Changes]:
    """Choose the state from which the resolved one is stored with the fewest changes."""
    contested = {key for key in result if key not in conflict.unconflicted}
    contested.update(conflict.conflicted)
    best: tuple[Snapshot, Changes] | None = None
    for state in states:
        changes = {
            key: result.get(key) for key in contested if state.map.get(key) != result.get(key)
        }
        if best is None or len(changes) < len(best[1]):
            best = (state, changes)
    assert best is not None
    return best
