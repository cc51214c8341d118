"""Which invites a user accepts."""

from typing import Any

import pytest

from hs.core.ids import UserID
from hs.core.invite_permission import FINER, MSC4380_TYPE, STABLE, Verdict, read_permission

ZOE = UserID("@zoe:elsewhere.example:8448")


def verdict_on(contents: dict[str, Any], inviter: UserID = ZOE) -> Verdict:
    return read_permission(contents).verdict(inviter)


@pytest.mark.parametrize("event_type", [STABLE, MSC4380_TYPE])
def test_default_action_block_blocks_everybody(event_type: str) -> None:
    assert verdict_on({event_type: {"default_action": "block"}}) is Verdict.BLOCK
    assert verdict_on({event_type: {"default_action": "else"}}) is Verdict.ALLOW
    assert verdict_on({event_type: []}) is Verdict.ALLOW


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        ({}, Verdict.ALLOW),
        ({"blocked_servers": ["*"]}, Verdict.BLOCK),
        ({"enabled": False, "blocked_servers": ["*"]}, Verdict.ALLOW),
        ({"allowed_users": ["@zoe:*"], "blocked_servers": ["*"]}, Verdict.ALLOW),
        ({"ignored_users": ["@z*"], "blocked_users": ["@zoe:*"]}, Verdict.IGNORE),
        ({"blocked_users": ["@zoe:*"], "allowed_servers": ["*"]}, Verdict.BLOCK),
        ({"allowed_servers": ["elsewhere.example"], "blocked_servers": ["*"]}, Verdict.ALLOW),
        ({"ignored_servers": ["*.example"], "blocked_servers": ["*"]}, Verdict.IGNORE),
        ({"blocked_servers": ["other.example"]}, Verdict.ALLOW),
        ({"blocked_servers": ["*"], "allowed_users": "@zoe:*"}, Verdict.ALLOW),
        ({"blocked_servers": ["*", 1]}, Verdict.ALLOW),
    ],
)
def test_msc4155_rules_apply_in_order_of_precedence(content: Any, verdict: Verdict) -> None:
    assert verdict_on({FINER: content}) is verdict
