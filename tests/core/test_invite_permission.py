"""Who may invite a user."""

from typing import Any

import pytest

from hs.core.ids import UserID
from hs.core.invite_permission import FINER, OLD_STABLE, STABLE, Verdict, read_permission

ZOE = UserID("@zoe:elsewhere.example:8448")


def judge(contents: dict[str, Any], inviter: UserID = ZOE) -> Verdict:
    return read_permission(contents).verdict(inviter)


@pytest.mark.parametrize("event_type", [STABLE, OLD_STABLE])
def test_everybody_is_blocked_by_default_action(event_type: str) -> None:
    assert judge({event_type: {"default_action": "block"}}) is Verdict.BLOCK
    assert judge({event_type: {"default_action": "else"}}) is Verdict.ALLOW
    assert judge({event_type: []}) is Verdict.ALLOW


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
def test_the_finer_rules_are_tried_in_their_order(content: Any, verdict: Verdict) -> None:
    assert judge({FINER: content}) is verdict
