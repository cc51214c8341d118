"""Evaluation of an event: whom it notifies, by the push rules of the local users of its room.

`Evaluator.evaluate_nowait` works from memory alone; when it raises NotInMemory, `evaluate` reads
what is missing. All users for whom only default rules may match cost one evaluation together, and
so do all users for whom the same rules may match, apart from the users whom the event names.

Spec: client-server API, Push Rules; Receiving notifications.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, NamedTuple

import attrs

from hs.core.ids import UserID
from hs.core.push.defaults import STANDARD_FEATURES, PushFeatures, default_rules
from hs.core.push.evaluate import (
    NOTHING,
    CompiledRules,
    Outcome,
    compile_ruleset,
    evaluate_for_all,
)
from hs.core.push.rules import full_ruleset
from hs.core.push.wire import decode_user_rules
from hs.core.streams import EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.services.push.evaluation.custom_rules import UsersWithCustomRules
from hs.services.push.evaluation.display_names import DisplayNames
from hs.services.push.evaluation.event_context import ContextReader, EventContext, NotInMemory
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.push.evaluation.users_with_pushers import UsersWithPushers
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore

MAX_RULESETS: Final = 10_000
_DEFAULT_RULES: Final = b""
_NameOf = Callable[[UserID], str | None]

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
        self.contexts = ContextReader(events, states, members, threads)
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
        context = self.contexts.get_nowait(row)
        if not self._custom.may_index_nowait(context.users):
            raise NotInMemory
        return self._evaluate(context, partial(self._names.of_nowait, context.event.room_id))

    async def evaluate(self, row: EventRow) -> Evaluation | None:
        """Evaluate an event, reading what is not in memory; None if the event was purged."""
        context = await self.contexts.load(row)
        if context is None:
            return None
        await self._custom.index(context.users)
        names = await self._load_names(context)
        try:
            return self._evaluate(context, names.get)
        except NotInMemory:  # the power levels, which few rules ask for
            return self._evaluate(await self.contexts.with_power(context, row), names.get)

    async def _load_names(self, context: EventContext) -> dict[UserID, str | None]:
        """Return the display names of the users whose rules read them."""
        names: dict[UserID, str | None] = {}
        if context.facts is None:
            return names
        for signature, user_ids in self._custom.signatures(context.facts, context.users).items():
            if self._rules(signature).reads_display_name:
                names |= await self._names.load(context.event.room_id, user_ids)
        return names

    def _evaluate(self, context: EventContext, name_of: _NameOf) -> Evaluation:
        event, thread_id, users, facts = context
        self._names.update(event)
        if facts is None:
            return Evaluation(thread_id)
        defaults = evaluate_for_all(self._rules(_DEFAULT_RULES), facts, users, name_of)
        ordinary, outcomes = defaults.ordinary, dict(defaults.special)
        for signature, user_ids in self._custom.signatures(facts, users).items():
            own = evaluate_for_all(self._rules(signature), facts, user_ids, name_of)
            for user_id in user_ids:
                outcomes[user_id] = own.of(user_id)
        for user_id in self._ignoring.of(event.sender) & users:
            outcomes[user_id] = NOTHING
        outcomes[event.sender] = NOTHING
        pushed = self._pushed_users(users, ordinary, outcomes)
        del outcomes[event.sender]
        return Evaluation(thread_id, ordinary, _differences(outcomes, ordinary), pushed)

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
    notify, highlight = ordinary.notify, ordinary.highlight
    return tuple(
        [
            Difference(user_id, outcome.notify - notify, outcome.highlight - highlight, outcome)
            for user_id, outcome in outcomes.items()
            if outcome.notify is not notify or outcome.highlight is not highlight
        ]
    )
