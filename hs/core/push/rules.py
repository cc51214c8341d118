"""Push rules as values: what a user has set, and the whole ruleset that comes out of it.

Spec: client-server API, Push Rules.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

import attrs

Action: TypeAlias = str | Mapping[str, Any]
Condition: TypeAlias = Mapping[str, Any]


class OwnUserID(str):
    """The type of USER_ID_PLACEHOLDER: no text that a client sends is of this type."""

    __slots__ = ()


USER_ID_PLACEHOLDER: Final = OwnUserID("[the user's Matrix ID]")
"""Stands in a server-default rule where each user sees their own ID."""

HISTORICAL_ACTIONS: Final = ("dont_notify", "coalesce")
"""What clients of their time still set: no different from no action."""

MASTER_RULE_ID: Final = ".m.rule.master"


class RuleKind(Enum):
    """The kinds of rules, in the order in which they are checked."""

    OVERRIDE = "override"
    CONTENT = "content"
    POSTCONTENT = "postcontent"  # the server's own only (MSC4306)
    ROOM = "room"
    SENDER = "sender"
    UNDERRIDE = "underride"


@attrs.frozen
class PushRule:
    """One rule as clients see it; `pattern` belongs to content rules only.

    `conditions` is None for the kinds that have none.
    """

    kind: RuleKind
    rule_id: str
    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...] | None = None
    pattern: str | None = None
    default: bool = False
    enabled: bool = True


@attrs.frozen
class DefaultChange:
    """What a user has changed of a server-default rule; None where it stands as it was."""

    enabled: bool | None = None
    actions: tuple[Action, ...] | None = None


@attrs.frozen
class UserRules:
    """Everything that a user has set: own rules, most important first, and changed defaults."""

    rules: tuple[PushRule, ...] = ()
    changes: Mapping[str, DefaultChange] = attrs.field(factory=dict)

    def of_kind(self, kind: RuleKind) -> tuple[PushRule, ...]:
        """Give the user's own rules of a kind, most important first."""
        return tuple(rule for rule in self.rules if rule.kind is kind)

    def find(self, kind: RuleKind, rule_id: str) -> PushRule | None:
        """Give one of the user's own rules."""
        for rule in self.rules:
            if rule.rule_id == rule_id and rule.kind is kind:
                return rule
        return None


NO_USER_RULES = UserRules()


def full_ruleset(user: UserRules, defaults: Sequence[PushRule]) -> tuple[PushRule, ...]:
    """Lay a user's rules over the server's, in the order in which rules are checked."""
    own_defaults = tuple(_changed(rule, user.changes) for rule in defaults)
    return tuple(_in_order(user, own_defaults))


def _in_order(user: UserRules, defaults: Iterable[PushRule]) -> Iterator[PushRule]:
    by_kind: dict[RuleKind, list[PushRule]] = {kind: [] for kind in RuleKind}
    for rule in defaults:
        if rule.rule_id == MASTER_RULE_ID:
            # It beats even the user's own rules.
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
