"""Evaluation of push rules: for one user, or at once for many users with the same rules.

Spec: client-server API, Push Rules.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

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
    """The effect of an event on a user: none, or a notification with tweaks."""

    rule_id: str | None = None
    actions: tuple[Action, ...] = ()
    notify: bool = False
    highlight: bool = False
    tweaks: Mapping[str, Any] = attrs.field(factory=dict)


MAX_EFFORT = 5_000_000
"""For one event and one ruleset: enough for thousands of keywords, unless the event is long."""

NAME_EFFORT = 16
"""The effort per character of matching any display name."""

_TYPE: Final = ("type",)

LIGHT_EFFORT = MAX_EFFORT // LARGEST_BYTES

NOTHING = Outcome()
"""The outcome if no rule matches, and of all events that the user sent."""


@attrs.frozen(eq=False)
class CompiledRule:
    """An enabled rule; conditions that depend on the user are checked last.

    `effort` is an upper bound of the work of its patterns for each character of an event. It is 0
    for default rules. A rule that `names_users` matches only for users whom the event names.
    """

    event_conditions: tuple[EventCondition, ...]
    user_conditions: tuple[UserCondition, ...]
    outcome: Outcome
    effort: int = 0
    names_users: bool = attrs.field(init=False)

    @names_users.default
    def _names_users(self) -> bool:
        return not all(isinstance(each, ThreadSubscription) for each in self.user_conditions)


@attrs.frozen(eq=False, kw_only=True)
class CompiledRules:
    """A compiled ruleset, which users with equal rules should share.

    Most default rules are about one type of event: `by_type` has, for each type that they name, the
    rules that may match it, without the condition on the type, and `untyped` those that may match
    events of all other types.
    """

    rules: tuple[CompiledRule, ...]
    by_type: Mapping[str, tuple[CompiledRule, ...]]
    untyped: tuple[CompiledRule, ...]
    reads_display_name: bool
    named_by: tuple[PropertyIsUser | PropertyContainsUser, ...]
    """The conditions by which an event names the users for whom its outcome may differ."""
    reads_threads: bool = False
    effort: int = 0


@attrs.frozen
class Outcomes:
    """Outcomes for many users: `special` for some of them, `ordinary` for all others."""

    ordinary: Outcome
    special: Mapping[UserID, Outcome]

    def of(self, user_id: UserID) -> Outcome:
        """Return the outcome for a user."""
        return self.special.get(user_id, self.ordinary)


def compile_ruleset(rules: Sequence[PushRule]) -> CompiledRules:
    """Compile a full ruleset (see `full_ruleset`)."""
    enabled = [(rule, _compile(rule)) for rule in rules if rule.enabled]
    compiled = tuple(rule for _, rule in enabled)
    # Users may name any number of types.
    types = {_type_of(rule) for source, rule in enabled if source.default} - {None}
    naming = [condition for rule in compiled for condition in rule.user_conditions]
    return CompiledRules(
        rules=compiled,
        by_type={
            named: tuple(
                _without_type(rule) for rule in compiled if _type_of(rule) in (None, named)
            )
            for named in types
            if named is not None
        },
        untyped=tuple(rule for rule in compiled if _type_of(rule) not in types),
        reads_display_name=any(isinstance(condition, BodyHasDisplayName) for condition in naming),
        named_by=tuple(
            dict.fromkeys(
                condition
                for condition in naming
                if isinstance(condition, PropertyIsUser | PropertyContainsUser)
            )
        ),
        reads_threads=any(isinstance(condition, ThreadSubscription) for condition in naming),
        effort=sum(rule.effort for rule in compiled),
    )


def evaluate(compiled: CompiledRules, facts: EventFacts, user: UserFacts) -> Outcome:
    """Return the outcome for one user."""
    if user.user_id == facts.sender:
        return NOTHING
    for rule in _affordable(compiled, facts):
        if _holds_all(rule.event_conditions, facts) and all(
            condition.holds_for(facts, user) for condition in rule.user_conditions
        ):
            return rule.outcome
    return NOTHING


def evaluate_for_all(
    compiled: CompiledRules,
    facts: EventFacts,
    users: AbstractSet[UserID],
    name_of: Callable[[UserID], str | None],
) -> Outcomes:
    """Return the outcomes for users who share a ruleset, at the cost of about one evaluation.

    Only users whom the event names, for example by a mention, are evaluated one by one; all of
    them if a rule reads display names, which `name_of` returns.
    """
    special: dict[UserID, Outcome] = {}
    if compiled.reads_display_name:
        for user_id in users:
            special[user_id] = evaluate(compiled, facts, UserFacts(user_id, name_of(user_id)))
    else:
        for user_id in named_in(compiled, facts):
            if user_id in users:
                special[user_id] = evaluate(compiled, facts, UserFacts(user_id))
    if facts.sender in users:
        special[facts.sender] = NOTHING
    return Outcomes(_outcome_for_unnamed(compiled, facts), special)


def outcome_of(rule: PushRule) -> Outcome:
    """Return the outcome of a rule that matches; unknown and historical actions have no effect."""
    tweaks = tweaks_in(rule.actions)
    notify = "notify" in rule.actions
    actions = tuple(action for action in rule.actions if action not in HISTORICAL_ACTIONS)
    highlight = notify and tweaks.get("highlight") is True
    return Outcome(rule.rule_id, actions, notify, highlight, tweaks)


def tweaks_in(actions: Iterable[Action]) -> dict[str, Any]:
    """Return the tweaks that actions set; a highlight without a value is true."""
    tweaks: dict[str, Any] = {}
    for action in actions:
        if isinstance(action, Mapping) and isinstance(action.get("set_tweak"), str):
            tweak = action["set_tweak"]
            tweaks[tweak] = action.get("value", True if tweak == "highlight" else None)
    return tweaks


def conditions_of(rule: PushRule) -> list[EventCondition | UserCondition]:
    """Return the conditions of a rule, compiled, with those that its kind implies."""
    if rule.kind is RuleKind.ROOM:
        return [PropertyIs(("room_id",), rule.rule_id, str)]
    if rule.kind is RuleKind.SENDER:
        return [PropertyIs(("sender",), rule.rule_id, str)]
    if rule.kind is RuleKind.CONTENT:
        return [MatchesWords(compile_glob(rule.pattern or ""))]
    return [compile_condition(condition) for condition in rule.conditions or ()]


def is_light(rules: Iterable[PushRule]) -> bool:
    """Return whether rules of a user are evaluated for every event, however long it is."""
    efforts = (_effort(condition) for rule in rules for condition in conditions_of(rule))
    return sum(efforts) <= LIGHT_EFFORT


def _compile(rule: PushRule) -> CompiledRule:
    conditions = conditions_of(rule)
    naming = (PropertyIsUser, PropertyContainsUser, BodyHasDisplayName, ThreadSubscription)
    return CompiledRule(
        tuple(condition for condition in conditions if not isinstance(condition, naming)),  # type: ignore[misc]  # the others are EventConditions
        tuple(condition for condition in conditions if isinstance(condition, naming)),
        outcome_of(rule),
        0 if rule.default else sum(map(_effort, conditions)),
    )


def _type_of(rule: CompiledRule) -> str | None:
    """Return the only type of event, in lower case, that a rule may match; None if unknown."""
    return next(filter(None, map(_type_in, rule.event_conditions)), None)


def _type_in(condition: EventCondition) -> str | None:
    """Return the only type, in lower case, for which a condition on the type holds."""
    if isinstance(condition, Matches) and condition.path == _TYPE:
        return condition.glob.literal
    return None


def _without_type(rule: CompiledRule) -> CompiledRule:
    """Return a rule without the conditions that hold for all events of its type."""
    event_type = _type_of(rule)
    kept = tuple(
        each for each in rule.event_conditions if event_type is None or _type_in(each) != event_type
    )
    return attrs.evolve(rule, event_conditions=kept)


def _effort(condition: EventCondition | UserCondition) -> int:
    if isinstance(condition, Matches | MatchesWords):
        return condition.glob.effort
    return NAME_EFFORT if isinstance(condition, BodyHasDisplayName) else 0


def _affordable(compiled: CompiledRules, facts: EventFacts) -> Iterable[CompiledRule]:
    """Return the rules for an event's type, without those that exceed the effort for one event.

    The ten thousand patterns of one user must not delay the notifications of all others.
    """
    if compiled.effort <= LIGHT_EFFORT or compiled.effort * facts.size_bytes <= MAX_EFFORT:
        event_type = facts.at(_TYPE)
        if not isinstance(event_type, str):
            return compiled.rules
        return compiled.by_type.get(event_type.lower(), compiled.untyped)
    budget, affordable = MAX_EFFORT // facts.size_bytes, []
    for rule in compiled.rules:
        if rule.effort <= budget:
            budget -= rule.effort
            affordable.append(rule)
    return affordable


def _holds_all(conditions: Iterable[EventCondition], facts: EventFacts) -> bool:
    memo = facts.memo
    for condition in conditions:
        answer = memo.get(condition)
        if answer is None:
            answer = memo[condition] = condition.holds(facts)
        if not answer:
            return False
    return True


def _outcome_for_unnamed(compiled: CompiledRules, facts: EventFacts) -> Outcome:
    """Return the outcome for users whom the event does not name."""
    for rule in _affordable(compiled, facts):
        if rule.names_users or not _holds_all(rule.event_conditions, facts):
            continue
        if not rule.user_conditions or all(
            isinstance(condition, ThreadSubscription) and condition.holds_for_others(facts)
            for condition in rule.user_conditions
        ):
            return rule.outcome
    return NOTHING


def named_in(compiled: CompiledRules, facts: EventFacts) -> set[UserID]:
    """Return the users for whom the outcome may differ from that for all others."""
    named: set[UserID] = set()
    if compiled.reads_threads and facts.subscribers is not None:
        named.update(facts.subscribers)
    for condition in compiled.named_by:
        value = facts.at(condition.path)
        names = value if isinstance(value, list) else [value]
        named.update(UserID(name) for name in names if isinstance(name, str))
    return named
