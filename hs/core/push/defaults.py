"""The server-default push rules.

Spec: client-server API, Predefined Rules; MSC3930 (polls), MSC3914 (calls of a room),
MSC4028 (encrypted events), MSC4306 (threads).
"""

from functools import lru_cache
from typing import Any

import attrs

from hs.core.events import event_types
from hs.core.push.conditions import CALL_STARTED_PROPOSED, THREAD_SUBSCRIPTION
from hs.core.push.rules import (
    MASTER_RULE_ID,
    USER_ID_PLACEHOLDER,
    Action,
    Condition,
    PushRule,
    RuleKind,
)

_NOTIFY: tuple[Action, ...] = ("notify",)
_SOUND: tuple[Action, ...] = ("notify", {"set_tweak": "sound", "value": "default"})
_RING: tuple[Action, ...] = ("notify", {"set_tweak": "sound", "value": "ring"})
_HIGHLIGHT: tuple[Action, ...] = ("notify", {"set_tweak": "highlight"})
_SOUND_HIGHLIGHT: tuple[Action, ...] = (*_SOUND, {"set_tweak": "highlight"})
_TWO_MEMBERS: Condition = {"kind": "room_member_count", "is": "2"}


def _matches(key: str, pattern: str) -> Condition:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _is(key: str, value: Any) -> Condition:
    return {"kind": "event_property_is", "key": key, "value": value}


def _override(rule_id: str, actions: tuple[Action, ...], *conditions: Condition) -> PushRule:
    return PushRule(RuleKind.OVERRIDE, rule_id, actions, conditions, default=True)


def _underride(rule_id: str, actions: tuple[Action, ...], *conditions: Condition) -> PushRule:
    return PushRule(RuleKind.UNDERRIDE, rule_id, actions, conditions, default=True)


_MASTER = attrs.evolve(_override(MASTER_RULE_ID, ()), enabled=False)

_ENCRYPTED_EVENT = attrs.evolve(
    _override(".org.matrix.msc4028.encrypted_event", _NOTIFY, _matches("type", "m.room.encrypted")),
    enabled=False,
)

_OVERRIDES = (
    _override(".m.rule.suppress_notices", (), _matches("content.msgtype", "m.notice")),
    _override(
        ".m.rule.invite_for_me",
        _SOUND,
        _matches("type", "m.room.member"),
        _matches("content.membership", "invite"),
        _matches("state_key", USER_ID_PLACEHOLDER),
    ),
    _override(".m.rule.member_event", (), _matches("type", "m.room.member")),
    _override(
        ".m.rule.is_user_mention",
        _SOUND_HIGHLIGHT,
        {
            "kind": "event_property_contains",
            "key": r"content.m\.mentions.user_ids",
            "value": USER_ID_PLACEHOLDER,
        },
    ),
    _override(
        ".m.rule.is_room_mention",
        _HIGHLIGHT,
        _is(r"content.m\.mentions.room", True),
        {"kind": "sender_notification_permission", "key": "room"},
    ),
    _override(
        ".m.rule.tombstone",
        _HIGHLIGHT,
        _matches("type", "m.room.tombstone"),
        _matches("state_key", ""),
    ),
    _override(".m.rule.reaction", (), _matches("type", "m.reaction")),
    _override(
        ".m.rule.room.server_acl",
        (),
        _matches("type", "m.room.server_acl"),
        _matches("state_key", ""),
    ),
    _override(".m.rule.suppress_edits", (), _is(r"content.m\.relates_to.rel_type", "m.replace")),
)

_POLL_RESPONSE = _override(
    ".org.matrix.msc3930.rule.poll_response",
    (),
    _matches("type", "org.matrix.msc3381.poll.response"),
)

_CALL = _underride(".m.rule.call", _RING, _matches("type", "m.call.invite"))
_ROOM_CALL = _underride(
    ".org.matrix.msc3914.rule.room.call",
    _SOUND,
    _matches("type", event_types.GROUP_CALL),
    {"kind": CALL_STARTED_PROPOSED},
)

_UNDERRIDES = (
    _underride(
        ".m.rule.encrypted_room_one_to_one",
        _SOUND,
        _TWO_MEMBERS,
        _matches("type", "m.room.encrypted"),
    ),
    _underride(".m.rule.room_one_to_one", _SOUND, _TWO_MEMBERS, _matches("type", "m.room.message")),
    _underride(".m.rule.message", _NOTIFY, _matches("type", "m.room.message")),
    _underride(".m.rule.encrypted", _NOTIFY, _matches("type", "m.room.encrypted")),
)

_POLLS = tuple(
    _underride(
        f".org.matrix.msc3930.rule.poll_{phase}{suffix}",
        actions,
        *conditions,
        _matches("type", f"org.matrix.msc3381.poll.{phase}"),
    )
    for phase in ("start", "end")
    for suffix, actions, conditions in (("_one_to_one", _SOUND, (_TWO_MEMBERS,)), ("", _NOTIFY, ()))
)


def _thread_rule(name: str, actions: tuple[Action, ...], *, subscribed: bool) -> PushRule:
    condition = {"kind": THREAD_SUBSCRIPTION, "subscribed": subscribed}
    rule_id = f".io.element.msc4306.rule.{name}_thread"
    return PushRule(RuleKind.POSTCONTENT, rule_id, actions, (condition,), default=True)


_THREADS = (
    _thread_rule("unsubscribed", (), subscribed=False),
    _thread_rule("subscribed", _SOUND, subscribed=True),
)


@attrs.frozen
class PushFeatures:
    """The proposals whose rules this server has besides those of the specification."""

    polls: bool = True
    calls: bool = True
    encrypted_event: bool = False
    threads: bool = False


STANDARD_FEATURES = PushFeatures()


@lru_cache(maxsize=8)
def default_rules(features: PushFeatures = STANDARD_FEATURES) -> tuple[PushRule, ...]:
    """Return the server-default rules, most important first within each kind."""
    return (
        _MASTER,
        *((_ENCRYPTED_EVENT,) if features.encrypted_event else ()),
        *_OVERRIDES,
        *((_POLL_RESPONSE,) if features.polls else ()),
        *(_THREADS if features.threads else ()),
        _CALL,
        *((_ROOM_CALL,) if features.calls else ()),
        *_UNDERRIDES,
        *(_POLLS if features.polls else ()),
    )
