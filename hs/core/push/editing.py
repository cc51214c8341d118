"""Changes of a user's push rules: functions that return the rules after a client's request.

Spec: client-server API, Push Rules: API.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from hs.core.errors import InvalidParam, MissingParam, NotFound, Unknown
from hs.core.push.conditions import is_scalar
from hs.core.push.rules import (
    HISTORICAL_ACTIONS,
    Action,
    Condition,
    DefaultChange,
    PushRule,
    RuleKind,
    UserRules,
    full_ruleset,
)

MAX_PATTERN_LENGTH: Final = 512
MAX_RULE_ID_LENGTH: Final = 512
MAX_RULES: Final = 10_000
MAX_PARTS: Final = 64
"""The limit of conditions, and of actions, of one rule."""

_CONDITIONAL = (RuleKind.OVERRIDE, RuleKind.UNDERRIDE)


def parse_kind(text: str) -> RuleKind:
    """Parse the kind of rule in a path. Raises: InvalidParam."""
    try:
        return RuleKind(text)
    except ValueError as error:
        raise InvalidParam(f"Unknown kind of push rule: {text[:32]}") from error


def parse_rule(kind: RuleKind, rule_id: str, body: Mapping[str, Any]) -> PushRule:
    """Parse the rule in a client's request. Raises: InvalidParam, MissingParam."""
    _check_rule_id(rule_id)
    if kind is RuleKind.POSTCONTENT:
        raise InvalidParam("Only the server sets rules of kind postcontent")
    actions = parse_actions(body)
    if kind is RuleKind.CONTENT:
        return PushRule(kind, rule_id, actions, pattern=_parse_pattern(body.get("pattern")))
    if kind in _CONDITIONAL:
        return PushRule(kind, rule_id, actions, _parse_conditions(body.get("conditions")))
    return PushRule(kind, rule_id, actions)


def parse_actions(body: Mapping[str, Any]) -> tuple[Action, ...]:
    """Parse the `actions` of a request; historical actions are stored but have no effect.

    Raises: InvalidParam, MissingParam.
    """
    actions = body.get("actions")
    if actions is None:
        raise MissingParam("actions is missing")
    if not isinstance(actions, list) or len(actions) > MAX_PARTS:
        raise InvalidParam(f"actions must be a list of at most {MAX_PARTS} entries")
    for action in actions:
        _check_action(action)
    return tuple(actions)


def parse_enabled(body: Mapping[str, Any]) -> bool:
    """Parse the `enabled` of a request. Raises: InvalidParam, MissingParam."""
    enabled = body.get("enabled")
    if enabled is None:
        raise MissingParam("enabled is missing")
    if not isinstance(enabled, bool):
        raise InvalidParam("enabled must be true or false")
    return enabled


def put_rule(
    user: UserRules, rule: PushRule, *, before: str | None = None, after: str | None = None
) -> UserRules:
    """Add a rule, or replace the rule with its kind and ID.

    `before` and `after` are IDs of rules of the same kind; `before` takes precedence. Without them
    an existing rule keeps its place, and a new one becomes the most important.
    Raises: Unknown if there is no such rule, InvalidParam if there are too many rules.
    """
    old = user.find(rule.kind, rule.rule_id)
    if old is None and len(user.rules) >= MAX_RULES:
        raise InvalidParam(f"A user may set at most {MAX_RULES} push rules")
    if old is not None:
        rule = attrs.evolve(rule, enabled=old.enabled)
    neighbour_id = before if before is not None else after
    if neighbour_id is None:
        if old is None:
            return attrs.evolve(user, rules=(rule, *user.rules))
        return _replace(user, old, rule)
    if neighbour_id == rule.rule_id and old is not None:
        return _replace(user, old, rule)
    rules = [own for own in user.rules if own is not old]
    for index, neighbour in enumerate(rules):
        if neighbour.kind is rule.kind and neighbour.rule_id == neighbour_id:
            rules.insert(index if before is not None else index + 1, rule)
            return attrs.evolve(user, rules=tuple(rules))
    raise Unknown(f"before/after rule not found: {neighbour_id}")


def delete_rule(user: UserRules, kind: RuleKind, rule_id: str) -> UserRules:
    """Remove a rule that the user set. Raises: NotFound."""
    old = user.find(kind, rule_id)
    if old is None:
        raise NotFound("Push rule not found")
    return attrs.evolve(user, rules=tuple(rule for rule in user.rules if rule is not old))


def find_rule(
    user: UserRules, defaults: Sequence[PushRule], kind: RuleKind, rule_id: str
) -> PushRule:
    """Return one of the rules in force for the user. Raises: NotFound."""
    for rule in full_ruleset(user, defaults):
        if rule.rule_id == rule_id and rule.kind is kind:
            return rule
    raise NotFound("Push rule not found")


def set_enabled(
    user: UserRules, defaults: Sequence[PushRule], kind: RuleKind, rule_id: str, enabled: bool
) -> UserRules:
    """Enable or disable a rule, the user's own or a default one. Raises: NotFound."""
    rule = find_rule(user, defaults, kind, rule_id)
    return _store(user, attrs.evolve(rule, enabled=enabled), defaults)


def set_actions(
    user: UserRules,
    defaults: Sequence[PushRule],
    kind: RuleKind,
    rule_id: str,
    actions: tuple[Action, ...],
) -> UserRules:
    """Change the actions of a rule, the user's own or a default one. Raises: NotFound."""
    rule = find_rule(user, defaults, kind, rule_id)
    return _store(user, attrs.evolve(rule, actions=actions), defaults)


def copy_room_rules(user: UserRules, old_room_id: str, new_room_id: str) -> UserRules:
    """Copy the rule that the user set for an upgraded room to its replacement."""
    rule = user.find(RuleKind.ROOM, old_room_id)
    if rule is None or user.find(RuleKind.ROOM, new_room_id) is not None:
        return user
    copied = attrs.evolve(rule, rule_id=new_room_id)
    return attrs.evolve(user, rules=(copied, *user.rules))


def _replace(user: UserRules, old: PushRule, new: PushRule) -> UserRules:
    return attrs.evolve(user, rules=tuple(new if rule is old else rule for rule in user.rules))


def _store(user: UserRules, rule: PushRule, defaults: Sequence[PushRule]) -> UserRules:
    if not rule.default:
        old = user.find(rule.kind, rule.rule_id)
        assert old is not None
        return _replace(user, old, rule)
    default = next(default for default in defaults if default.rule_id == rule.rule_id)
    change = DefaultChange(
        enabled=None if rule.enabled == default.enabled else rule.enabled,
        actions=None if rule.actions == default.actions else rule.actions,
    )
    changes = {key: value for key, value in user.changes.items() if key != rule.rule_id}
    if change != DefaultChange():
        changes[rule.rule_id] = change
    return attrs.evolve(user, changes=changes)


def _check_rule_id(rule_id: str) -> None:
    if not rule_id or len(rule_id) > MAX_RULE_ID_LENGTH or "\0" in rule_id:
        raise InvalidParam(f"rule_id must have 1 to {MAX_RULE_ID_LENGTH} characters and no NUL")
    if rule_id.startswith("."):
        raise InvalidParam("rule_id must not start with '.', which is reserved for default rules")
    if "/" in rule_id or "\\" in rule_id:
        raise InvalidParam("rule_id must not contain slashes")


def _check_action(action: object) -> None:
    if isinstance(action, str):
        if action == "notify" or action in HISTORICAL_ACTIONS:
            return
    elif isinstance(action, dict) and isinstance(action.get("set_tweak"), str):
        return
    raise InvalidParam("An action must be 'notify' or an object with set_tweak")


def _parse_pattern(pattern: object) -> str:
    if pattern is None:
        raise MissingParam("pattern is missing")
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidParam(f"pattern must be a string of at most {MAX_PATTERN_LENGTH} characters")
    return pattern


def _parse_conditions(conditions: object) -> tuple[Condition, ...]:
    if conditions is None:
        # A rule without conditions matches every event.
        return ()
    if not isinstance(conditions, list) or len(conditions) > MAX_PARTS:
        raise InvalidParam(f"conditions must be a list of at most {MAX_PARTS} entries")
    for condition in conditions:
        _check_condition(condition)
    return tuple(conditions)


def _check_condition(condition: object) -> None:
    if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
        raise InvalidParam("A condition must be an object with a kind")
    for name in ("key", "pattern", "is"):
        text = condition.get(name, "")
        if not isinstance(text, str) or len(text) > MAX_PATTERN_LENGTH:
            raise InvalidParam(
                f"{name} of a condition must be a string of at most {MAX_PATTERN_LENGTH} characters"
            )
    if not is_scalar(condition.get("value")):
        raise InvalidParam("value of a condition must not be an object or a list")
