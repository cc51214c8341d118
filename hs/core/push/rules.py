"""Push rules as values: the rules that a user set, and the full ruleset with the defaults.

Spec: client-server API, Push Rules.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

import attrs

Action: TypeAlias = str | Mapping[str, Any]
Condition: TypeAlias = Mapping[str, Any]


class OwnUserID(str):
    """The type of USER_ID_PLACEHOLDER, to tell it from any text that a client sends."""

    __slots__ = ()


USER_ID_PLACEHOLDER: Final = OwnUserID("[the user's Matrix ID]")
"""In a default rule, the place where each user sees their own ID."""

HISTORICAL_ACTIONS: Final = ("dont_notify", "coalesce")
"""Actions of former versions of the specification, which are equal to no action."""

MASTER_RULE_ID: Final = ".m.rule.master"


class RuleKind(Enum):
    """The kinds of rules, in the order in which they are checked."""

    OVERRIDE = "override"
    CONTENT = "content"
    POSTCONTENT = "postcontent"  # default rules only (MSC4306)
    ROOM = "room"
    SENDER = "sender"
    UNDERRIDE = "underride"


@attrs.frozen
class PushRule:
    """One rule; `pattern` is set for content rules only, `conditions` for kinds that have them."""

    kind: RuleKind
    rule_id: str
    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...] | None = None
    pattern: str | None = None
    default: bool = False
    enabled: bool = True


@attrs.frozen
class DefaultChange:
    """A user's changes to a default rule; None for a property that is not changed."""

    enabled: bool | None = None
    actions: tuple[Action, ...] | None = None


@attrs.frozen
class UserRules:
    """The rules that a user set, most important first, and the changes to default rules by ID."""

    rules: tuple[PushRule, ...] = ()
    changes: Mapping[str, DefaultChange] = attrs.field(factory=dict)

    def of_kind(self, kind: RuleKind) -> tuple[PushRule, ...]:
        """Return the user's own rules of a kind, most important first."""
        return tuple(rule for rule in self.rules if rule.kind is kind)

    def find(self, kind: RuleKind, rule_id: str) -> PushRule | None:
        """Return one of the user's own rules, None if there is no such rule."""
        for rule in self.rules:
            if rule.rule_id == rule_id and rule.kind is kind:
                return rule
        return None


NO_USER_RULES = UserRules()


def full_ruleset(user: UserRules, defaults: Sequence[PushRule]) -> tuple[PushRule, ...]:
    """Merge a user's rules with the default ones, in the order in which rules are checked."""
    own_defaults = tuple(_changed(rule, user.changes) for rule in defaults)
    return tuple(_in_order(user, own_defaults))


def _in_order(user: UserRules, defaults: Iterable[PushRule]) -> Iterator[PushRule]:
    by_kind: dict[RuleKind, list[PushRule]] = {kind: [] for kind in RuleKind}
    for rule in defaults:
        if rule.rule_id == MASTER_RULE_ID:
            # It comes before even the user's own rules.
            yield rule
        else:
            by_kind[rule.kind].append(rule)
    for kind in RuleKind:
        yield from user.of_kind(kind)
        yield from by_kind[kind]


def _changed(rule: PushRule, changes: Mapping[str, DefaultChange]) -> PushRule:
    change = changes.get(rule.rule_id)
    if change is None:
        return rule
    return attrs.evolve(
        rule,
        enabled=rule.enabled if change.enabled is None else change.enabled,
        actions=rule.actions if change.actions is None else change.actions,
    )
