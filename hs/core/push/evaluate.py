"""Which rule of a ruleset an event meets, for one user or for many with the same rules at once.

Spec: client-server API, Push Rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from hs.core.globs import compile_glob
from hs.core.ids import UserID
from hs.core.push.conditions import (
    BodyHasDisplayName,
    EventCondition,
    Matches,
    MatchesWords,
    PropertyContainsUser,
    PropertyIs,
    PropertyIsUser,
    ThreadSubscription,
    UserCondition,
    compile_condition,
)
from hs.core.push.facts import LARGEST_BYTES, EventFacts, UserFacts
from hs.core.push.rules import HISTORICAL_ACTIONS, Action, PushRule, RuleKind


@attrs.frozen
class Outcome:
    """What an event does to a user: nothing, or a notification with tweaks."""

    rule_id: str | None = None
    actions: tuple[Action, ...] = ()
    notify: bool = False
    highlight: bool = False
    tweaks: Mapping[str, Any] = attrs.field(factory=dict)


MAX_EFFORT = 5_000_000
"""For one event and one ruleset; thousands of keywords, unless the event is very long."""

NAME_EFFORT = 16
"""Of comparing with a display name, whatever it is."""

LIGHT_EFFORT = MAX_EFFORT // LARGEST_BYTES

NOTHING = Outcome()
"""The outcome when no rule matches, and of everything that the user has sent."""


@attrs.frozen(eq=False)
class CompiledRule:
    """One enabled rule; conditions that depend on the user come last.

    `effort` is what its patterns may take for each character of an event; of rules that come
    with the server it does not count.
    """

    event_conditions: tuple[EventCondition, ...]
    user_conditions: tuple[UserCondition, ...]
    outcome: Outcome
    effort: int = 0


@attrs.frozen(eq=False)
class CompiledRules:
    """A ruleset made ready. Users with equal rules should share one, found by `signature_of`."""

    rules: tuple[CompiledRule, ...]
    reads_display_name: bool
    named_by: tuple[PropertyIsUser | PropertyContainsUser, ...]
    """Where an event may name a user so that the outcome differs for that user."""
    reads_threads: bool = False
    effort: int = 0


@attrs.frozen
class Outcomes:
    """Outcomes for many users: `special` for those it holds, `ordinary` for all others."""

    ordinary: Outcome
    special: Mapping[UserID, Outcome]

    def of(self, user_id: UserID) -> Outcome:
        """Give one user's outcome."""
        return self.special.get(user_id, self.ordinary)


def compile_ruleset(rules: Sequence[PushRule]) -> CompiledRules:
    """Prepare a full ruleset (see `full_ruleset`) for evaluation."""
    compiled = tuple(_compile(rule) for rule in rules if rule.enabled)
    naming = [condition for rule in compiled for condition in rule.user_conditions]
    return CompiledRules(
        compiled,
        any(isinstance(condition, BodyHasDisplayName) for condition in naming),
        tuple(
            dict.fromkeys(
                condition
                for condition in naming
                if isinstance(condition, PropertyIsUser | PropertyContainsUser)
            )
        ),
        any(isinstance(condition, ThreadSubscription) for condition in naming),
        sum(rule.effort for rule in compiled),
    )


def evaluate(compiled: CompiledRules, facts: EventFacts, user: UserFacts) -> Outcome:
    """Give the outcome for one user."""
    if user.user_id == facts.sender:
        return NOTHING
    for rule in _affordable(compiled, facts):
        if all(_holds(condition, facts) for condition in rule.event_conditions) and all(
            condition.holds_for(facts, user) for condition in rule.user_conditions
        ):
            return rule.outcome
    return NOTHING


def evaluate_for_all(
    compiled: CompiledRules, facts: EventFacts, users: Iterable[UserFacts]
) -> Outcomes:
    """Give the outcomes for users who share a ruleset, at the price of about one evaluation.

    Only users whom the event names (mentions, invites) are looked at one by one, and all of them
    when a rule asks for display names.
    """
    users_by_id = {user.user_id: user for user in users}
    if compiled.reads_display_name:
        singled_out = set(users_by_id)
    else:
        singled_out = named_in(compiled, facts) & users_by_id.keys()
        if facts.sender in users_by_id:
            singled_out.add(facts.sender)
    special = {user_id: evaluate(compiled, facts, users_by_id[user_id]) for user_id in singled_out}
    return Outcomes(_for_a_bystander(compiled, facts), special)


def outcome_of(rule: PushRule) -> Outcome:
    """Read a rule's actions; unknown and historical ones do nothing."""
    tweaks: dict[str, Any] = {}
    for action in rule.actions:
        tweak = action.get("set_tweak") if isinstance(action, Mapping) else None
        if isinstance(action, Mapping) and isinstance(tweak, str):
            # A highlight without a value is a highlight; other tweaks pass as they are.
            tweaks[tweak] = action.get("value", True if tweak == "highlight" else None)
    notify = "notify" in rule.actions
    actions = tuple(one for one in rule.actions if one not in HISTORICAL_ACTIONS)
    highlight = notify and tweaks.get("highlight") is True
    return Outcome(rule.rule_id, actions, notify, highlight, tweaks)


def _compile(rule: PushRule) -> CompiledRule:
    conditions: list[EventCondition | UserCondition]
    if rule.kind is RuleKind.ROOM:
        conditions = [PropertyIs(("room_id",), rule.rule_id, str)]
    elif rule.kind is RuleKind.SENDER:
        conditions = [PropertyIs(("sender",), rule.rule_id, str)]
    elif rule.kind is RuleKind.CONTENT:
        conditions = [MatchesWords(compile_glob(rule.pattern or ""))]
    else:
        conditions = [compile_condition(condition) for condition in rule.conditions or ()]
    naming = (PropertyIsUser, PropertyContainsUser, BodyHasDisplayName, ThreadSubscription)
    return CompiledRule(
        tuple(condition for condition in conditions if not isinstance(condition, naming)),  # type: ignore[misc]  # the other half of the union
        tuple(condition for condition in conditions if isinstance(condition, naming)),
        outcome_of(rule),
        0 if rule.default else sum(map(_effort, conditions)),
    )


def _effort(condition: EventCondition | UserCondition) -> int:
    if isinstance(condition, Matches | MatchesWords):
        return condition.glob.effort
    return NAME_EFFORT if isinstance(condition, BodyHasDisplayName) else 0


def _affordable(compiled: CompiledRules, facts: EventFacts) -> Iterable[CompiledRule]:
    """Give the rules, without those that would take too long on an event.

    Whoever has ten thousand patterns must not have everybody wait for their notifications.
    """
    if compiled.effort <= LIGHT_EFFORT or compiled.effort * facts.size_bytes <= MAX_EFFORT:
        return compiled.rules
    left, affordable = MAX_EFFORT // facts.size_bytes, []
    for rule in compiled.rules:
        if rule.effort <= left:
            left -= rule.effort
            affordable.append(rule)
    return affordable


def _holds(condition: EventCondition, facts: EventFacts) -> bool:
    answer = facts.memo.get(condition)
    if answer is None:
        answer = facts.memo[condition] = condition.holds(facts)
    return answer


def _for_a_bystander(compiled: CompiledRules, facts: EventFacts) -> Outcome:
    """Give the outcome for a user whom the event does not name."""
    for rule in _affordable(compiled, facts):
        if all(_holds(condition, facts) for condition in rule.event_conditions) and all(
            isinstance(condition, ThreadSubscription) and condition.holds_for_others(facts)
            for condition in rule.user_conditions
        ):
            return rule.outcome
    return NOTHING


def named_in(compiled: CompiledRules, facts: EventFacts) -> set[UserID]:
    """Give those for whom the outcome may differ: only they need be looked at one by one."""
    named: set[UserID] = set()
    if compiled.reads_threads and facts.subscribers is not None:
        named.update(facts.subscribers)
    for condition in compiled.named_by:
        value = facts.at(condition.path)
        candidates = value if isinstance(value, list) else [value]
        named.update(UserID(name) for name in candidates if isinstance(name, str))
    return named
