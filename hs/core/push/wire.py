"""Push rules as JSON: in responses to clients and in the database.

Spec: client-server API, GET /pushrules/ and `m.push_rules`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from hs.core.ids import UserID
from hs.core.push.rules import (
    Condition,
    DefaultChange,
    OwnUserID,
    PushRule,
    RuleKind,
    UserRules,
)


def render_ruleset(rules: Sequence[PushRule], user_id: UserID) -> dict[str, Any]:
    """Return the body of `GET /pushrules/` for a full ruleset (see `full_ruleset`)."""
    by_kind: dict[str, list[dict[str, Any]]] = {kind.value: [] for kind in RuleKind}
    for rule in rules:
        by_kind[rule.kind.value].append(render_rule(rule, user_id))
    if not by_kind[RuleKind.POSTCONTENT.value]:
        del by_kind[RuleKind.POSTCONTENT.value]
    return {"global": by_kind}


def render_rule(rule: PushRule, user_id: UserID) -> dict[str, Any]:
    """Return one rule as clients see it."""
    rendered: dict[str, Any] = {
        "rule_id": rule.rule_id,
        "default": rule.default,
        "enabled": rule.enabled,
        "actions": list(rule.actions),
    }
    if rule.conditions is not None:
        rendered["conditions"] = [
            _fill_in_user_id(condition, user_id) for condition in rule.conditions
        ]
    if rule.pattern is not None:
        rendered["pattern"] = rule.pattern
    return rendered


def encode_user_rules(user: UserRules) -> bytes:
    """Encode the rules that a user set, for storage; equal rules have equal encodings."""
    return orjson.dumps(
        {
            "rules": [_encode_rule(rule) for rule in user.rules],
            "changes": {
                rule_id: {"enabled": change.enabled, "actions": change.actions}
                for rule_id, change in user.changes.items()
            },
        },
        option=orjson.OPT_SORT_KEYS,
    )


def decode_user_rules(stored: bytes | str) -> UserRules:
    """Decode what `encode_user_rules` returned."""
    tree = orjson.loads(stored)
    return UserRules(
        tuple(_decode_rule(rule) for rule in tree["rules"]),
        {
            rule_id: DefaultChange(
                change["enabled"],
                None if change["actions"] is None else tuple(change["actions"]),
            )
            for rule_id, change in tree["changes"].items()
        },
    )


def _fill_in_user_id(condition: Condition, user_id: UserID) -> Condition:
    if not any(isinstance(value, OwnUserID) for value in condition.values()):
        return condition
    return {
        key: user_id if isinstance(value, OwnUserID) else value for key, value in condition.items()
    }


def _encode_rule(rule: PushRule) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "kind": rule.kind.value,
        "rule_id": rule.rule_id,
        "actions": rule.actions,
    }
    if rule.conditions is not None:
        stored["conditions"] = rule.conditions
    if rule.pattern is not None:
        stored["pattern"] = rule.pattern
    if not rule.enabled:
        stored["enabled"] = False
    return stored


def _decode_rule(stored: dict[str, Any]) -> PushRule:
    conditions = stored.get("conditions")
    return PushRule(
        kind=RuleKind(stored["kind"]),
        rule_id=stored["rule_id"],
        actions=tuple(stored["actions"]),
        conditions=None if conditions is None else tuple(conditions),
        pattern=stored.get("pattern"),
        enabled=stored.get("enabled", True),
    )
