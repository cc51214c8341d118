"""What push rules ask about an event and its room, from memory.

Methods that end in `_nowait` raise NotInMemory when something has to be read first; `load` reads
it. What was loaded stays in memory up to the bound of each cache.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeVar

import attrs

from hs.core.auth.power_levels import DEFAULT_LEVELS, PowerLevels
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.facts import EventFacts, facts_of
from hs.core.relations import MAIN_TIMELINE, MAX_HOPS, Relation, relation_of, thread_of
from hs.core.streams import EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

MAX_SNAPSHOTS: Final = 10_000
MAX_RELATIONS: Final = 10_000
MAX_CALLS: Final = 1_000
_NO_LEVELS: Final = PowerLevels({}, {}, {}, creators=frozenset(), **DEFAULT_LEVELS)
_POWER_KEYS: Final = (event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY)

K = TypeVar("K")
V = TypeVar("V")


class NotInMemory(Exception):
    """Something that an evaluation needs has to be read first."""


class _Missing:
    """The type of the value that stands for a missing entry, as None may be an entry."""


_MISSING: Final = _Missing()


def cached(cache: LruCache[K, V], key: K) -> V:
    """Return an entry of a cache. Raises: NotInMemory."""
    entry = cache.get(key, _MISSING)
    if isinstance(entry, _Missing):
        raise NotInMemory
    return entry


class EventContext:
    """The rooms' side of an evaluation: the event, its thread, the members, the power levels."""

    def __init__(
        self,
        events: EventStore,
        states: StateStore,
        members: Memberships,
        threads: ThreadSubscribers | None,
    ) -> None:
        self._events = events
        self._states = states
        self._members = members
        self._threads = threads
        self._powers: LruCache[int, PowerLevels] = LruCache(
            "push_power_levels", max_entries=MAX_SNAPSHOTS
        )
        self._relations: LruCache[EventID, Relation | None] = LruCache(
            "push_relations", max_entries=MAX_RELATIONS
        )
        self._calls: LruCache[EventID, Mapping[str, Any] | None] = LruCache(
            "push_calls", max_entries=MAX_CALLS
        )

    def event_nowait(self, event_id: str) -> StoredEvent:
        """Return a stored event. Raises: NotInMemory."""
        stored = self._events.get_nowait(EventID(event_id))
        if stored is None:
            raise NotInMemory
        return stored

    def thread_nowait(self, event: Event) -> str:
        """Return the event ID of the root of the event's thread, or MAIN_TIMELINE.

        Raises: NotInMemory.
        """
        relation = relation_of(event.content)
        self._relations.put(event.event_id, relation)
        return thread_of(relation, _KnownRelations(self._relations)) or MAIN_TIMELINE

    def users_nowait(self, row: EventRow) -> AbstractSet[UserID]:
        """Return the local users whom an event may notify: the members, and an invited user.

        The sender may be among them. Raises: NotInMemory.
        """
        present = self._members.present_nowait(RoomID(row.room_id))
        if present is None:
            raise NotInMemory
        if row.membership != event_types.INVITE or row.state_key is None:
            return present.local
        invited = {UserID(row.state_key)} if self._members.is_local(row.state_key) else set()
        return present.local | invited

    def facts_nowait(self, row: EventRow, event: Event, thread_id: str) -> EventFacts:
        """Return what push rules may ask about an event. Raises: NotInMemory."""
        present = self._members.present_nowait(RoomID(row.room_id))
        if row.snapshot_id is None:
            raise NotInMemory
        is_call = row.type == event_types.GROUP_CALL
        return facts_of(
            event,
            power=cached(self._powers, row.snapshot_id),
            member_count=present.joined_count if present else 0,
            subscribers=self._subscribers_nowait(row, thread_id),
            replaced=cached(self._calls, event.event_id) if is_call else None,
        )

    async def load(self, row: EventRow) -> bool:
        """Read into memory what the other methods need; return False if the event was purged."""
        stored = await self._events.get_one(EventID(row.event_id))
        if stored is None:
            return False
        await self._members.present(RoomID(row.room_id))
        await self._load_power(row)
        await self._load_relations(relation_of(stored.event.content))
        if self._threads is not None:
            thread_id = self.thread_nowait(stored.event)
            if thread_id != MAIN_TIMELINE:
                await self._threads.load(RoomID(row.room_id), EventID(thread_id))
        if row.type == event_types.GROUP_CALL:
            await self._load_replaced_call(stored)
        if row.redaction_applies and row.redacts is not None:
            await self._events.get_one(EventID(row.redacts))
        return True

    async def membership_before(self, stored: StoredEvent) -> str | None:
        """Return the membership of the subject of a member event before the event."""
        before = await self._states.replaced_event(stored)
        membership = None if before is None else before.event.content.get("membership")
        return membership if isinstance(membership, str) else None

    def _subscribers_nowait(self, row: EventRow, thread_id: str) -> AbstractSet[UserID] | None:
        """Return who subscribes to the event's thread; None if the event is in no thread."""
        if self._threads is None or thread_id == MAIN_TIMELINE:
            return None
        subscribers = self._threads.of_nowait(RoomID(row.room_id), EventID(thread_id))
        if subscribers is None:
            raise NotInMemory
        return subscribers

    async def _load_power(self, row: EventRow) -> None:
        if row.snapshot_id is None or row.snapshot_id in self._powers:
            return
        event_ids = await self._states.snapshot_entries(row.snapshot_id, _POWER_KEYS)
        events = await self._events.get(event_ids.values())
        by_type = {stored.event.type: stored.event for stored in events.values()}
        self._powers.put(row.snapshot_id, _power_levels(by_type))

    async def _load_relations(self, relation: Relation | None) -> None:
        for _ in range(MAX_HOPS):
            if relation is None:
                return
            parent_id = relation.parent_id
            parent = await self._events.get_one(parent_id)
            relation = None if parent is None else relation_of(parent.event.content)
            self._relations.put(parent_id, relation)

    async def _load_replaced_call(self, stored: StoredEvent) -> None:
        replaced = await self._states.replaced_event(stored)
        content = None if replaced is None else replaced.event.content
        self._calls.put(stored.event_id, content)


@attrs.frozen(eq=False)
class _KnownRelations(Mapping[EventID, Relation | None]):
    """The relations in memory as a mapping that raises NotInMemory for a missing key."""

    _relations: LruCache[EventID, Relation | None]

    def __getitem__(self, event_id: EventID) -> Relation | None:
        return cached(self._relations, event_id)

    def __iter__(self) -> Iterator[EventID]:
        return iter(())

    def __len__(self) -> int:
        return len(self._relations)


def _power_levels(by_type: Mapping[str, Event]) -> PowerLevels:
    create = by_type.get(event_types.CREATE)
    if create is None:
        # Only before the create event, which notifies nobody.
        return _NO_LEVELS
    return PowerLevels.of(by_type.get(event_types.POWER_LEVELS), create, create.rules)
