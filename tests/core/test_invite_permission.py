"""Which invites a user accepts."""

from typing import Any

import pytest

from hs.core.ids import UserID
from hs.core.invite_permission import (
    MSC4155_TYPE,
    MSC4380_TYPE,
    STABLE_TYPE,
    InviteVerdict,
    parse_invite_permission,
)

ZOE = UserID("@zoe:elsewhere.example:8448")


def verdict_on(contents: dict[str, Any], inviter: UserID = ZOE) -> InviteVerdict:
    return parse_invite_permission(contents).verdict(inviter)


@pytest.mark.parametrize("event_type", [STABLE_TYPE, MSC4380_TYPE])
def test_default_action_block_blocks_everybody(event_type: str) -> None:
    assert verdict_on({event_type: {"default_action": "block"}}) is InviteVerdict.BLOCK
    assert verdict_on({event_type: {"default_action": "else"}}) is InviteVerdict.ALLOW
    assert verdict_on({event_type: []}) is InviteVerdict.ALLOW


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        ({}, InviteVerdict.ALLOW),
        ({"blocked_servers": ["*"]}, InviteVerdict.BLOCK),
        ({"enabled": False, "blocked_servers": ["*"]}, InviteVerdict.ALLOW),
        ({"allowed_users": ["@zoe:*"], "blocked_servers": ["*"]}, InviteVerdict.ALLOW),
        ({"ignored_users": ["@z*"], "blocked_users": ["@zoe:*"]}, InviteVerdict.IGNORE),
        ({"blocked_users": ["@zoe:*"], "allowed_servers": ["*"]}, InviteVerdict.BLOCK),
        ({"allowed_servers": ["elsewhere.example"], "blocked_servers": ["*"]}, InviteVerdict.ALLOW),
        ({"ignored_servers": ["*.example"], "blocked_servers": ["*"]}, InviteVerdict.IGNORE),
        ({"blocked_servers": ["other.example"]}, InviteVerdict.ALLOW),
        ({"blocked_servers": ["*"], "allowed_users": "@zoe:*"}, InviteVerdict.ALLOW),
        ({"blocked_servers": ["*", 1]}, InviteVerdict.ALLOW),
    ],
)
def test_msc4155_rules_apply_in_order_of_precedence(content: Any, verdict: InviteVerdict) -> None:
    assert verdict_on({MSC4155_TYPE: content}) is verdict
