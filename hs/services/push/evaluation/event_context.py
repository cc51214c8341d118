"""What push rules ask about an event and its room: from memory, or read from the tables.

`get_nowait` works from memory alone, and raises NotInMemory when something has to be read first.
`load` reads it and returns it. What was read also stays in memory for later events, up to the bound
of each cache; an evaluation does not depend on that.
"""

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import attrs

from hs.core.auth.power_levels import DEFAULT_LEVELS, PowerLevels
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.facts import EventFacts, SenderPower, facts_of
from hs.core.relations import (
    MAIN_TIMELINE,
    MAX_HOPS,
    THREAD,
    Relation,
    relation_of,
    thread_of,
)
from hs.core.streams import EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.room_members import PresentMembers
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

MAX_SNAPSHOTS: Final = 10_000
MAX_RELATIONS: Final = 10_000
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


class EventContext(NamedTuple):
    """What push rules ask about an event and its room.

    `thread_id` is the event ID of the root of the event's thread, or MAIN_TIMELINE. `users` are the
    local users whom the event may notify: the members, and an invited user; the sender may be among
    them. `facts` is None if the event can notify nobody.
    """

    event: Event
    thread_id: str
    users: AbstractSet[UserID] = frozenset()
    facts: EventFacts | None = None


class ContextReader:
    """Collects the contexts of events."""

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
        self._known_relations = _KnownRelations(self._relations)

    def get_nowait(self, row: EventRow) -> EventContext:
        """Return the context of an event, whose members may change later. Raises: NotInMemory."""
        stored = self._events.get_nowait(EventID(row.event_id))
        if stored is None:
            raise NotInMemory
        event = stored.event
        relation = relation_of(event.content)
        self._relations.put(event.event_id, relation)
        thread_id = thread_of(relation, self._known_relations) or MAIN_TIMELINE
        if stored.redacted_by is not None:
            return EventContext(event, thread_id)
        present = self._members.present_nowait(event.room_id)
        if present is None:
            raise NotInMemory
        users = self._users(row, present)
        if users <= {event.sender}:
            return EventContext(event, thread_id)
        if row.type == event_types.GROUP_CALL:
            # The state event that it replaced is read each time.
            raise NotInMemory
        facts = facts_of(
            event,
            power=partial(self._power_nowait, row.snapshot_id),
            member_count=present.joined_count,
            subscribers=self._subscribers_nowait(event.room_id, thread_id),
        )
        return EventContext(event, thread_id, users, facts)

    async def load(self, row: EventRow) -> EventContext | None:
        """Read the context of an event; None if the event was purged.

        Rules that ask for power may still raise NotInMemory; see `with_power`.
        """
        stored = await self._events.get_one(EventID(row.event_id))
        if stored is None:
            return None
        event = stored.event
        thread_id = await self._load_thread(event)
        if stored.redacted_by is not None:
            return EventContext(event, thread_id)
        # From here on this object is used, as a large room may not stay in the cache.
        present = await self._members.present(event.room_id)
        if self._users(row, present) <= {event.sender}:
            return EventContext(event, thread_id)
        power = partial(self._power_nowait, row.snapshot_id)
        subscribers = await self._load_subscribers(event.room_id, thread_id)
        replaced = await self._load_replaced_call(stored)
        # The members may have changed during the reads, and may change while the caller waits.
        users = frozenset(self._users(row, present))
        facts = facts_of(event, power, present.joined_count, subscribers, replaced)
        return EventContext(event, thread_id, users, facts)

    async def with_power(self, context: EventContext, row: EventRow) -> EventContext:
        """Read the power levels before an event."""
        levels = await self._load_power(row.snapshot_id)
        power = SenderPower(levels.of_user(context.event.sender), levels.notifications)
        facts = None if context.facts is None else attrs.evolve(context.facts, power=lambda: power)
        return context._replace(facts=facts)

    async def prepare(self, events: Collection[StoredEvent]) -> None:
        """Read together what most events need, so that `get_nowait` finds it."""
        relations = {stored.event_id: relation_of(stored.event.content) for stored in events}
        parents = [relation.parent_id for relation in relations.values() if relation is not None]
        for event_id, parent in (await self._events.get(parents)).items():
            relations[event_id] = relation_of(parent.event.content)
        for event_id, relation in relations.items():
            self._relations.put(event_id, relation)
        await self._members.present_in({stored.event.room_id for stored in events})

    async def joined_before(self, events: Collection[StoredEvent]) -> set[EventID]:
        """Return which member events of local users replaced a join, such as new names."""
        joins = [
            stored
            for stored in events
            if stored.event.type == event_types.MEMBER
            and stored.event.content.get("membership") == event_types.JOIN
            and self._members.is_local(stored.event.state_key or "")
        ]
        replaced = await self._states.replaced_events(joins)
        return {
            event_id
            for event_id, stored in replaced.items()
            if stored.event.content.get("membership") == event_types.JOIN
        }

    def _users(self, row: EventRow, present: PresentMembers) -> AbstractSet[UserID]:
        if row.membership != event_types.INVITE or row.state_key is None:
            return present.local
        invited = {UserID(row.state_key)} if self._members.is_local(row.state_key) else set()
        return present.local | invited

    # Threads

    async def _load_thread(self, event: Event) -> str:
        relation = relation_of(event.content)
        self._relations.put(event.event_id, relation)
        relations: dict[EventID, Relation | None] = {}
        last = relation
        for _ in range(MAX_HOPS):
            if last is None or last.rel_type == THREAD:
                break
            parent_id = last.parent_id
            last = relations[parent_id] = await self._load_relation(parent_id)
        return thread_of(relation, relations) or MAIN_TIMELINE

    async def _load_relation(self, event_id: EventID) -> Relation | None:
        if event_id in self._relations:
            return self._relations.get(event_id)
        stored = await self._events.get_one(event_id)
        relation = None if stored is None else relation_of(stored.event.content)
        self._relations.put(event_id, relation)
        return relation

    def _subscribers_nowait(self, room_id: RoomID, thread_id: str) -> AbstractSet[UserID] | None:
        """Return who subscribes to the event's thread; None if the event is in no thread."""
        if self._threads is None or thread_id == MAIN_TIMELINE:
            return None
        subscribers = self._threads.of_nowait(room_id, EventID(thread_id))
        if subscribers is None:
            raise NotInMemory
        return subscribers

    async def _load_subscribers(
        self, room_id: RoomID, thread_id: str
    ) -> AbstractSet[UserID] | None:
        if self._threads is None or thread_id == MAIN_TIMELINE:
            return None
        return await self._threads.of(room_id, EventID(thread_id))

    # State before the event

    def _power_nowait(self, snapshot_id: int | None) -> PowerLevels:
        return _NO_LEVELS if snapshot_id is None else cached(self._powers, snapshot_id)

    async def _load_power(self, snapshot_id: int | None) -> PowerLevels:
        if snapshot_id is None:
            return _NO_LEVELS
        power = self._powers.get(snapshot_id)
        if power is None:
            event_ids = await self._states.snapshot_entries(snapshot_id, _POWER_KEYS)
            events = await self._events.get(event_ids.values())
            power = _power_levels({stored.event.type: stored.event for stored in events.values()})
            self._powers.put(snapshot_id, power)
        return power

    async def _load_replaced_call(self, stored: StoredEvent) -> Mapping[str, Any] | None:
        if stored.event.type != event_types.GROUP_CALL:
            return None
        replaced = await self._states.replaced_event(stored)
        return None if replaced is None else replaced.event.content


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
