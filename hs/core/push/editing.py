"""Changing a user's push rules: each request gives new rules from old ones, or an error.

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
"""Most conditions, and most actions, of one rule."""

_CONDITIONAL = (RuleKind.OVERRIDE, RuleKind.UNDERRIDE)


def parse_kind(text: str) -> RuleKind:
    """Read the kind of rule in a path.

    Raises: InvalidParam.
    """
    try:
        return RuleKind(text)
    except ValueError as fault:
        raise InvalidParam(f"There is no such kind of push rule: {text[:32]}") from fault


def parse_rule(kind: RuleKind, rule_id: str, body: Mapping[str, Any]) -> PushRule:
    """Read a rule that a client wants to set.

    Raises: InvalidParam or MissingParam.
    """
    _check_rule_id(rule_id)
    if kind is RuleKind.POSTCONTENT:
        raise InvalidParam("Rules of this kind are the server's own")
    actions = parse_actions(body)
    if kind is RuleKind.CONTENT:
        return PushRule(kind, rule_id, actions, pattern=_parse_pattern(body.get("pattern")))
    if kind in _CONDITIONAL:
        return PushRule(kind, rule_id, actions, _parse_conditions(body.get("conditions")))
    return PushRule(kind, rule_id, actions)


def parse_actions(body: Mapping[str, Any]) -> tuple[Action, ...]:
    """Read the `actions` of a request; historical ones are kept, but do nothing.

    Raises: InvalidParam or MissingParam.
    """
    actions = body.get("actions")
    if actions is None:
        raise MissingParam("Missing param: actions")
    if not isinstance(actions, list) or len(actions) > MAX_PARTS:
        raise InvalidParam("'actions' must be a list, not too long")
    for action in actions:
        _check_action(action)
    return tuple(actions)


def parse_enabled(body: Mapping[str, Any]) -> bool:
    """Read the `enabled` of a request.

    Raises: InvalidParam or MissingParam.
    """
    enabled = body.get("enabled")
    if enabled is None:
        raise MissingParam("Missing param: enabled")
    if not isinstance(enabled, bool):
        raise InvalidParam("'enabled' must be a boolean")
    return enabled


def put_rule(
    user: UserRules, rule: PushRule, *, before: str | None = None, after: str | None = None
) -> UserRules:
    """Add a rule, or change one in its place; `before` and `after` name rules of the same kind.

    `before` wins when both are given. A new rule without either becomes the most important.
    Raises: Unknown if the rule to go beside is not there; InvalidParam past the limit of rules.
    """
    old = user.find(rule.kind, rule.rule_id)
    if old is None and len(user.rules) >= MAX_RULES:
        raise InvalidParam("There are too many push rules")
    if old is not None:
        rule = attrs.evolve(rule, enabled=old.enabled)
    beside = before if before is not None else after
    if beside is None:
        if old is None:
            return attrs.evolve(user, rules=(rule, *user.rules))
        return _replace(user, old, rule)
    if beside == rule.rule_id and old is not None:
        return _replace(user, old, rule)
    others = [each for each in user.rules if each is not old]
    for index, other in enumerate(others):
        if other.kind is rule.kind and other.rule_id == beside:
            others.insert(index if before is not None else index + 1, rule)
            return attrs.evolve(user, rules=tuple(others))
    raise Unknown(f"before/after rule not found: {beside}")


def delete_rule(user: UserRules, kind: RuleKind, rule_id: str) -> UserRules:
    """Take one of the user's own rules away.

    Raises: NotFound.
    """
    old = user.find(kind, rule_id)
    if old is None:
        raise NotFound("The push rule was not found.")
    return attrs.evolve(user, rules=tuple(rule for rule in user.rules if rule is not old))


def find_rule(
    user: UserRules, defaults: Sequence[PushRule], kind: RuleKind, rule_id: str
) -> PushRule:
    """Give a rule as it stands for the user, own or default.

    Raises: NotFound.
    """
    for rule in full_ruleset(user, defaults):
        if rule.rule_id == rule_id and rule.kind is kind:
            return rule
    raise NotFound("The push rule was not found.")


def set_enabled(
    user: UserRules, defaults: Sequence[PushRule], kind: RuleKind, rule_id: str, enabled: bool
) -> UserRules:
    """Turn a rule on or off, own or default.

    Raises: NotFound.
    """
    rule = find_rule(user, defaults, kind, rule_id)
    return _store(user, attrs.evolve(rule, enabled=enabled), defaults)


def set_actions(
    user: UserRules,
    defaults: Sequence[PushRule],
    kind: RuleKind,
    rule_id: str,
    actions: tuple[Action, ...],
) -> UserRules:
    """Change what a rule does, own or default.

    Raises: NotFound.
    """
    rule = find_rule(user, defaults, kind, rule_id)
    return _store(user, attrs.evolve(rule, actions=actions), defaults)


def copy_room_rules(user: UserRules, old_room_id: str, new_room_id: str) -> UserRules:
    """Give the replacement of an upgraded room the rules that the user had set for the old one."""
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
    shipped = next(each for each in defaults if each.rule_id == rule.rule_id)
    change = DefaultChange(
        enabled=None if rule.enabled == shipped.enabled else rule.enabled,
        actions=None if rule.actions == shipped.actions else rule.actions,
    )
    changes = {key: value for key, value in user.changes.items() if key != rule.rule_id}
    if change != DefaultChange():
        changes[rule.rule_id] = change
    return attrs.evolve(user, changes=changes)


def _check_rule_id(rule_id: str) -> None:
    if not rule_id or len(rule_id) > MAX_RULE_ID_LENGTH or "\0" in rule_id:
        raise InvalidParam("The rule_id is empty or too long")
    if rule_id.startswith("."):
        raise InvalidParam("A rule_id that starts with '.' belongs to the server")
    if "/" in rule_id or "\\" in rule_id:
        raise InvalidParam("A rule_id may not hold slashes")


def _check_action(action: object) -> None:
    if isinstance(action, str):
        if action == "notify" or action in HISTORICAL_ACTIONS:
            return
    elif isinstance(action, dict) and isinstance(action.get("set_tweak"), str):
        return
    raise InvalidParam("Unrecognised action")


def _parse_pattern(pattern: object) -> str:
    if pattern is None:
        raise MissingParam("A content rule needs a 'pattern'")
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidParam("'pattern' must be a string, not too long")
    return pattern


def _parse_conditions(conditions: object) -> tuple[Condition, ...]:
    if conditions is None:
        # A rule without conditions always matches.
        return ()
    if not isinstance(conditions, list) or len(conditions) > MAX_PARTS:
        raise InvalidParam("'conditions' must be a list, not too long")
    for condition in conditions:
        _check_condition(condition)
    return tuple(conditions)


def _check_condition(condition: object) -> None:
    if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
        raise InvalidParam("Each condition must be an object with a 'kind'")
    for name in ("key", "pattern", "is"):
        text = condition.get(name, "")
        if not isinstance(text, str) or len(text) > MAX_PATTERN_LENGTH:
            raise InvalidParam(f"'{name}' of a condition must be a string, not too long")
    if not is_scalar(condition.get("value")):
        raise InvalidParam("'value' of a condition must not be compound")
