"""What one event does to the local members of its room, by their push rules.

The answer is worked out without waiting, from what is in memory; what is missing there is named
by NotInMemory, and `prepare` gets it. Users with the default rules cost one evaluation together.

Spec: client-server API, Push Rules; Receiving notifications.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol

import attrs

from hs.core.auth.power_levels import PowerLevels
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.defaults import STANDARD_FEATURES, PushFeatures, default_rules
from hs.core.push.evaluate import (
    NOTHING,
    CompiledRules,
    Outcome,
    compile_ruleset,
    evaluate_for_all,
    named_in,
)
from hs.core.push.facts import EventFacts, UserFacts, facts_of
from hs.core.push.rules import full_ruleset
from hs.core.push.wire import decode_user_rules
from hs.core.relations import MAIN_TIMELINE, Relation, relation_of, thread_of
from hs.lib.caching.lru_cache import LruCache
from hs.repl.rows import EventRow
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

MAX_SNAPSHOTS: Final = 10_000
MAX_RELATIONS: Final = 10_000
MAX_RULESETS: Final = 10_000
MAX_NAMES: Final = 50_000
MAX_CALLS: Final = 1_000
_KEYS: Final = (event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY)
_DEFAULT: Final = b""


class NotInMemory(Exception):
    """Something has to be read first."""


class CustomRules(Protocol):
    """Knows the rules of those who do not have the default ones."""

    def signatures(self, user_ids: Collection[UserID]) -> Mapping[bytes, list[UserID]]:
        """Group those of the users who have rules of their own by these rules, encoded."""
        ...


class Ignoring(Protocol):
    """Knows who does not want to hear of somebody."""

    def of(self, sender: UserID) -> AbstractSet[UserID]:
        """Give those who ignore a sender."""
        ...


class PushedUsers(Protocol):
    """Knows who is to be notified outside of clients that are open."""

    def among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]:
        """Give those of the users who have pushers."""
        ...


class ThreadSubscribers(Protocol):
    """Knows who subscribes to threads."""

    def of_nowait(self, room_id: RoomID, root_id: EventID) -> AbstractSet[UserID] | None:
        """Give a thread's subscribers, if they are in memory."""
        ...

    async def load(self, room_id: RoomID, root_id: EventID) -> None:
        """Get a thread's subscribers into memory."""
        ...


class Difference(NamedTuple):
    """What an event does to one user beyond what it does to those with default rules."""

    user_id: UserID
    notify: int
    highlight: int
    outcome: Outcome


@attrs.frozen
class Evaluation:
    """What an event does: to members with the default rules, and to others."""

    ordinary: Outcome
    differences: tuple[Difference, ...]
    thread_id: str
    pushed: tuple[tuple[Outcome, tuple[UserID, ...]], ...] = ()
    """Whom it notifies of those who have pushers, by what it does to them."""

    @property
    def matters(self) -> bool:
        """Tell whether it notifies anybody."""
        return self.ordinary.notify or bool(self.differences)


@attrs.define(eq=False)
class Evaluator:
    """Evaluates events; one per process that does."""

    _events: EventStore
    _states: StateStore
    _members: Memberships
    _custom: CustomRules
    _ignoring: Ignoring
    _pushed: PushedUsers
    _threads: ThreadSubscribers | None = None
    _features: PushFeatures = STANDARD_FEATURES
    _powers: LruCache[int, PowerLevels] = attrs.Factory(
        lambda: LruCache("push_power_levels", max_entries=MAX_SNAPSHOTS)
    )
    _relations: LruCache[EventID, Relation | None] = attrs.Factory(
        lambda: LruCache("push_relations", max_entries=MAX_RELATIONS)
    )
    _compiled: LruCache[bytes, CompiledRules] = attrs.Factory(
        lambda: LruCache("push_rulesets", max_entries=MAX_RULESETS)
    )
    _calls: LruCache[EventID, Mapping[str, Any] | None] = attrs.Factory(
        lambda: LruCache("push_calls", max_entries=MAX_CALLS)
    )
    _names: LruCache[tuple[RoomID, UserID], str | None] = attrs.Factory(
        lambda: LruCache("push_display_names", max_entries=MAX_NAMES)
    )

    def evaluate_nowait(self, row: EventRow) -> Evaluation | None:
        """Evaluate an event; None when it can concern nobody here.

        Raises: NotInMemory.
        """
        stored = self._events.get_nowait(EventID(row.event_id))
        if stored is None:
            raise NotInMemory
        event = stored.event
        relation = relation_of(event.content)
        self._relations.put(event.event_id, relation)
        self._forget_name(row)
        if stored.redacted_by is not None:
            return None
        users = self._concerned(row)
        if users <= {event.sender}:
            return None
        present = self._members.present_nowait(RoomID(row.room_id))
        joined = present.joined_count if present else 0
        subscribers, replaced = self._subscribers(row, relation), self._replaced_by(row)
        facts = facts_of(event, self._power(row), joined, subscribers, replaced)
        ordinary, special = self._outcomes(_DEFAULT, facts, named_in(self._rules(_DEFAULT), facts))
        outcomes = {user_id: outcome for user_id, outcome in special.items() if user_id in users}
        for signature, own in self._custom.signatures(users).items():
            bystander, named = self._outcomes(signature, facts, own)
            for user_id in own:
                outcomes[user_id] = named.get(user_id, bystander)
        for user_id in self._ignoring.of(event.sender) & users:
            outcomes[user_id] = NOTHING
        outcomes.pop(event.sender, None)
        differences = [_difference(*one, ordinary) for one in outcomes.items()]
        return Evaluation(
            ordinary,
            tuple(one for one in differences if one.notify or one.highlight),
            self._thread(relation),
            self._whom_to_push(users, event.sender, ordinary, outcomes),
        )

    def thread_nowait(self, row: EventRow) -> str:
        """Give the thread of an event. Raises: NotInMemory."""
        relation = self._relations.get(EventID(row.event_id), _MISSING)
        if isinstance(relation, _Missing):
            raise NotInMemory
        return self._thread(relation)

    async def membership_before(self, stored: StoredEvent, user_id: str) -> str | None:
        """Give a user's membership in the state before an event."""
        if stored.snapshot_id is None:
            return None
        key = (event_types.MEMBER, user_id)
        found = await self._states.of_snapshot(stored.snapshot_id, (key,))
        before = await self._events.get_one(found[key]) if key in found else None
        membership = None if before is None else before.event.content.get("membership")
        return membership if isinstance(membership, str) else None

    async def prepare(self, row: EventRow) -> None:
        """Read what the evaluation of an event needs."""
        stored = await self._events.get_one(EventID(row.event_id))
        if stored is None:
            return
        await self._members.present(RoomID(row.room_id))
        await self._read_power(row)
        relation = relation_of(stored.event.content)
        for _ in range(3):
            if relation is None:
                break
            parent = await self._events.get_one(relation.parent_id)
            above = None if parent is None else relation_of(parent.event.content)
            self._relations.put(relation.parent_id, above)
            relation = above
        if self._threads is not None:
            root_id = self._thread(relation_of(stored.event.content))
            if root_id != MAIN_TIMELINE:
                await self._threads.load(RoomID(row.room_id), EventID(root_id))
        await self._read_replaced(row)
        users = self._concerned(row)
        for signature, own in self._custom.signatures(users).items():
            if self._rules(signature).reads_display_name:
                await self._read_names(RoomID(row.room_id), own)

    def _concerned(self, row: EventRow) -> AbstractSet[UserID]:
        """Give the members of this server, the sender perhaps among them."""
        present = self._members.present_nowait(RoomID(row.room_id))
        if present is None:
            raise NotInMemory
        if row.membership != event_types.INVITE or row.state_key is None:
            return present.local
        invited = {UserID(row.state_key)} if self._members.is_local(row.state_key) else set()
        return present.local | invited

    def _whom_to_push(
        self,
        users: AbstractSet[UserID],
        sender: UserID,
        ordinary: Outcome,
        outcomes: Mapping[UserID, Outcome],
    ) -> tuple[tuple[Outcome, tuple[UserID, ...]], ...]:
        groups: dict[int, tuple[Outcome, list[UserID]]] = {}
        for user_id in self._pushed.among(users):
            outcome = outcomes.get(user_id, ordinary)
            if outcome.notify and user_id != sender:
                groups.setdefault(id(outcome), (outcome, []))[1].append(user_id)
        return tuple((outcome, tuple(user_ids)) for outcome, user_ids in groups.values())

    def _outcomes(
        self, signature: bytes, facts: EventFacts, users: Iterable[UserID]
    ) -> tuple[Outcome, Mapping[UserID, Outcome]]:
        compiled = self._rules(signature)
        names = compiled.reads_display_name
        told = [
            UserFacts(user_id, self._name(facts.room_id, user_id) if names else None)
            for user_id in users
        ]
        outcomes = evaluate_for_all(compiled, facts, told)
        return outcomes.ordinary, outcomes.special

    def _rules(self, signature: bytes) -> CompiledRules:
        compiled = self._compiled.get(signature)
        if compiled is None:
            rules = default_rules(self._features)
            if signature:
                rules = full_ruleset(decode_user_rules(signature), rules)
            compiled = compile_ruleset(rules)
            self._compiled.put(signature, compiled)
        return compiled

    def _power(self, row: EventRow) -> PowerLevels:
        power = None if row.snapshot_id is None else self._powers.get(row.snapshot_id)
        if power is None:
            raise NotInMemory
        return power

    def _replaced_by(self, row: EventRow) -> Mapping[str, Any] | None:
        """Give the content of the call that an event of a call replaces."""
        if row.type != event_types.GROUP_CALL:
            return None
        found = self._calls.get(EventID(row.event_id), _MISSING)
        if isinstance(found, _Missing):
            raise NotInMemory
        return found

    async def _read_replaced(self, row: EventRow) -> None:
        if row.type != event_types.GROUP_CALL:
            return
        before = None
        if row.snapshot_id is not None and row.state_key is not None:
            key = (row.type, row.state_key)
            found = await self._states.of_snapshot(row.snapshot_id, (key,))
            before = await self._events.get_one(found[key]) if key in found else None
        content = None if before is None else before.event.content
        self._calls.put(EventID(row.event_id), content)

    async def _read_power(self, row: EventRow) -> None:
        if row.snapshot_id is None or row.snapshot_id in self._powers:
            return
        found = await self._states.of_snapshot(row.snapshot_id, _KEYS)
        events = await self._events.get(found.values())
        by_type = {one.event.type: one.event for one in events.values()}
        self._powers.put(row.snapshot_id, _levels(by_type))

    def _subscribers(self, row: EventRow, relation: Relation | None) -> AbstractSet[UserID] | None:
        """Give who subscribes to the thread that an event is in; None, when it is in none."""
        if self._threads is None or relation is None:
            return None
        root_id = self._thread(relation)
        if root_id == MAIN_TIMELINE:
            return None
        subscribers = self._threads.of_nowait(RoomID(row.room_id), EventID(root_id))
        if subscribers is None:
            raise NotInMemory
        return subscribers

    def _thread(self, relation: Relation | None) -> str:
        if relation is None:
            return MAIN_TIMELINE
        return thread_of(relation, _Known(self._relations)) or MAIN_TIMELINE

    def _name(self, room_id: RoomID, user_id: UserID) -> str | None:
        name = self._names.get((room_id, user_id), _MISSING)
        if isinstance(name, _Missing):
            raise NotInMemory
        return name

    async def _read_names(self, room_id: RoomID, users: Iterable[UserID]) -> None:
        keys = [(event_types.MEMBER, user_id) for user_id in users]
        found = await self._states.current_of_keys(room_id, keys)
        events = await self._events.get(found.values())
        for key in keys:
            stored = events.get(found[key]) if key in found else None
            name = None if stored is None else stored.event.content.get("displayname")
            self._names.put((room_id, UserID(key[1])), name if isinstance(name, str) else None)

    def _forget_name(self, row: EventRow) -> None:
        if row.type == event_types.MEMBER and row.state_key is not None:
            self._names.pop((RoomID(row.room_id), UserID(row.state_key)))


class _Missing:
    """Tells an absent entry from a name that is None."""


_MISSING: Final = _Missing()


@attrs.frozen(eq=False)
class _Known(Mapping[EventID, Relation | None]):
    """The relations in memory, as core reads them; one that is missing has to be read."""

    _relations: LruCache[EventID, Relation | None]

    def __getitem__(self, event_id: EventID) -> Relation | None:
        found = self._relations.get(event_id, _MISSING)
        if isinstance(found, _Missing):
            raise NotInMemory
        return found

    def __iter__(self) -> Iterator[EventID]:
        return iter(())

    def __len__(self) -> int:
        return len(self._relations)


def _levels(by_type: Mapping[str, Event]) -> PowerLevels:
    create = by_type.get(event_types.CREATE)
    if create is None:
        # Only the create event itself is before any state; it notifies nobody.
        return PowerLevels.of_content({}, next(iter(by_type.values())).rules) if by_type else _NONE
    return PowerLevels.of(by_type.get(event_types.POWER_LEVELS), create, create.rules)


_NONE: Final = PowerLevels({}, {}, {}, 0, 0, 0, 50, 50, 50, 0, frozenset())


def _difference(user_id: UserID, outcome: Outcome, ordinary: Outcome) -> Difference:
    return Difference(
        user_id,
        int(outcome.notify) - int(ordinary.notify),
        int(outcome.highlight) - int(ordinary.highlight),
        outcome,
    )
