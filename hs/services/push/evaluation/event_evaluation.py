"""Evaluation of an event: whom it notifies, by the push rules of the local users of its room.

`Evaluator.evaluate_nowait` works from memory alone; when it raises NotInMemory, `load` reads what
is missing and the evaluation is tried again. All users with the default rules cost one evaluation
together, and so do all users with equal rules, apart from the users whom the event names.

Spec: client-server API, Push Rules; Receiving notifications.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import attrs

from hs.core.ids import RoomID, UserID
from hs.core.push.defaults import STANDARD_FEATURES, PushFeatures, default_rules
from hs.core.push.evaluate import (
    NOTHING,
    CompiledRules,
    Outcome,
    compile_ruleset,
    evaluate_for_all,
    named_in,
)
from hs.core.push.facts import EventFacts, UserFacts
from hs.core.push.rules import full_ruleset
from hs.core.push.wire import decode_user_rules
from hs.core.streams import EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.services.push.evaluation.custom_rules import UsersWithCustomRules
from hs.services.push.evaluation.display_names import DisplayNames
from hs.services.push.evaluation.event_context import EventContext
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.push.evaluation.users_with_pushers import UsersWithPushers
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent

MAX_RULESETS: Final = 10_000
_DEFAULT_RULES: Final = b""

PushedUsers = tuple[tuple[Outcome, tuple[UserID, ...]], ...]
"""Users with pushers whom an event notifies, by outcome."""


class Difference(NamedTuple):
    """The difference between the outcome for one user and that for users with default rules."""

    user_id: UserID
    notify: int
    highlight: int
    outcome: Outcome


@attrs.frozen
class Evaluation:
    """The outcome of an event for users with the default rules, and the differences of others."""

    thread_id: str
    ordinary: Outcome = NOTHING
    differences: tuple[Difference, ...] = ()
    pushed: PushedUsers = ()

    @property
    def notifies(self) -> bool:
        """Whether the outcome notifies any user, or differs for one."""
        return self.ordinary.notify or bool(self.differences)


class Evaluator:
    """Evaluates events; one per process that evaluates."""

    def __init__(
        self,
        events: EventStore,
        states: StateStore,
        members: Memberships,
        custom: UsersWithCustomRules,
        ignoring: IgnoringUsers,
        pushed: UsersWithPushers,
        threads: ThreadSubscribers | None = None,
        features: PushFeatures = STANDARD_FEATURES,
    ) -> None:
        self._context = EventContext(events, states, members, threads)
        self._names = DisplayNames(states, events)
        self._custom = custom
        self._ignoring = ignoring
        self._pushed = pushed
        self._features = features
        self._compiled: LruCache[bytes, CompiledRules] = LruCache(
            "push_rulesets", max_entries=MAX_RULESETS
        )

    def evaluate_nowait(self, row: EventRow) -> Evaluation:
        """Evaluate an event. Raises: NotInMemory."""
        stored = self._context.event_nowait(row.event_id)
        event = stored.event
        self._names.update(event)
        thread_id = self._context.thread_nowait(event)
        if stored.redacted_by is not None:
            return Evaluation(thread_id)
        users = self._context.users_nowait(row)
        if users <= {event.sender}:
            return Evaluation(thread_id)
        facts = self._context.facts_nowait(row, event, thread_id)
        named = named_in(self._rules(_DEFAULT_RULES), facts) & users
        ordinary, outcomes = self._outcomes(_DEFAULT_RULES, facts, named)
        for signature, user_ids in self._custom.signatures(users).items():
            default, special = self._outcomes(signature, facts, user_ids)
            for user_id in user_ids:
                outcomes[user_id] = special.get(user_id, default)
        for user_id in self._ignoring.of(event.sender) & users:
            outcomes[user_id] = NOTHING
        outcomes[event.sender] = NOTHING
        pushed = self._pushed_users(users, ordinary, outcomes)
        del outcomes[event.sender]
        return Evaluation(thread_id, ordinary, _differences(outcomes, ordinary), pushed)

    async def load(self, row: EventRow) -> None:
        """Read into memory what the evaluation of an event needs."""
        if not await self._context.load(row):
            return
        users = self._context.users_nowait(row)
        for signature, user_ids in self._custom.signatures(users).items():
            if self._rules(signature).reads_display_name:
                await self._names.load(RoomID(row.room_id), user_ids)

    async def membership_before(self, stored: StoredEvent) -> str | None:
        """Return the membership of the subject of a member event before the event."""
        return await self._context.membership_before(stored)

    def _outcomes(
        self, signature: bytes, facts: EventFacts, user_ids: Collection[UserID]
    ) -> tuple[Outcome, dict[UserID, Outcome]]:
        """Return the outcome for users whom the event does not name, and that for the others."""
        compiled = self._rules(signature)
        if compiled.reads_display_name:
            users = [
                UserFacts(user_id, self._names.of_nowait(facts.room_id, user_id))
                for user_id in user_ids
            ]
        else:
            users = [UserFacts(user_id) for user_id in user_ids]
        outcomes = evaluate_for_all(compiled, facts, users)
        return outcomes.ordinary, dict(outcomes.special)

    def _rules(self, signature: bytes) -> CompiledRules:
        compiled = self._compiled.get(signature)
        if compiled is None:
            rules = default_rules(self._features)
            if signature:
                rules = full_ruleset(decode_user_rules(signature), rules)
            compiled = compile_ruleset(rules)
            self._compiled.put(signature, compiled)
        return compiled

    def _pushed_users(
        self,
        users: AbstractSet[UserID],
        ordinary: Outcome,
        outcomes: Mapping[UserID, Outcome],
    ) -> PushedUsers:
        groups: dict[int, tuple[Outcome, list[UserID]]] = {}
        for user_id in self._pushed.among(users):
            outcome = outcomes.get(user_id, ordinary)
            if outcome.notify:
                groups.setdefault(id(outcome), (outcome, []))[1].append(user_id)
        return tuple((outcome, tuple(user_ids)) for outcome, user_ids in groups.values())


def _differences(outcomes: Mapping[UserID, Outcome], ordinary: Outcome) -> tuple[Difference, ...]:
    differences = (
        Difference(
            user_id,
            int(outcome.notify) - int(ordinary.notify),
            int(outcome.highlight) - int(ordinary.highlight),
            outcome,
        )
        for user_id, outcome in outcomes.items()
    )
    return tuple(
        difference for difference in differences if difference.notify or difference.highlight
    )
