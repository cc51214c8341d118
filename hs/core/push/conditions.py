"""The conditions of push rules, compiled.

The answer of an `EventCondition` is the same for all users, so that an event can be evaluated once
for many users. Only the answer of a `UserCondition` depends on the user.

Spec: client-server API, Push Rules, Conditions.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs

from hs.core.globs import Glob, compile_glob
from hs.core.property_paths import ABSENT, PropertyPath, parse_property_path
from hs.core.push.facts import DEFAULT_NOTIFICATION_LEVEL, EventFacts, UserFacts
from hs.core.push.rules import Condition, OwnUserID

THREAD_SUBSCRIPTION: Final = "io.element.msc4306.thread_subscription"
CALL_STARTED: Final = "call_started"
CALL_STARTED_PROPOSED: Final = "org.matrix.msc3914.call_started"

_BODY: Final = ("content", "body")
_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,15})", re.ASCII)
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


class EventCondition(Protocol):
    """A condition with the same answer for all users; hashable."""

    def holds(self, facts: EventFacts) -> bool:
        """Return whether the condition holds for an event."""


class UserCondition(Protocol):
    """A condition whose answer depends on the user."""

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        """Return whether the condition holds for an event and a user."""


@attrs.frozen
class Never:
    """A condition that is unknown or malformed: it holds for no event."""

    def holds(self, facts: EventFacts) -> bool:
        return False


@attrs.frozen(cache_hash=True)
class Matches:
    """`event_match` of a property's whole value."""

    path: PropertyPath
    glob: Glob

    def holds(self, facts: EventFacts) -> bool:
        value = facts.at(self.path)
        return isinstance(value, str) and self.glob.matches(value)


@attrs.frozen(cache_hash=True)
class MatchesWords:
    """`event_match` of words in `content.body`, and the pattern of a content rule."""

    glob: Glob

    def holds(self, facts: EventFacts) -> bool:
        value = facts.at(_BODY)
        return isinstance(value, str) and self.glob.matches_words(value)


@attrs.frozen(cache_hash=True)
class PropertyIs:
    """`event_property_is`, and the implicit conditions of room and sender rules.

    The type is a field because in Python True equals 1, also as a key of `EventFacts.memo`.
    """

    path: PropertyPath
    value: str | int | bool | None
    value_type: type

    def holds(self, facts: EventFacts) -> bool:
        return _same(facts.at(self.path), self.value)


@attrs.frozen(cache_hash=True)
class PropertyContains:
    """`event_property_contains`."""

    path: PropertyPath
    value: str | int | bool | None
    value_type: type

    def holds(self, facts: EventFacts) -> bool:
        values = facts.at(self.path)
        return isinstance(values, list) and any(_same(value, self.value) for value in values)


@attrs.frozen(cache_hash=True)
class MemberCount:
    """`room_member_count`."""

    comparison: str
    count: int

    def holds(self, facts: EventFacts) -> bool:
        return _COMPARE[self.comparison](facts.member_count, self.count)


@attrs.frozen(cache_hash=True)
class SenderMayNotify:
    """`sender_notification_permission`."""

    key: str

    def holds(self, facts: EventFacts) -> bool:
        power = facts.power()
        return power.level >= power.notification_levels.get(self.key, DEFAULT_NOTIFICATION_LEVEL)


@attrs.frozen(cache_hash=True)
class CallStarted:
    """`call_started` (MSC3914): the event starts a call that rings or prompts."""

    def holds(self, facts: EventFacts) -> bool:
        intent = facts.at(("content", "m.intent"))
        runs = facts.at(("content", "m.terminated")) is ABSENT
        ran = facts.replaced is not None and "m.terminated" not in facts.replaced
        return intent in ("m.ring", "m.prompt") and runs and not ran


@attrs.frozen
class PropertyIsUser:
    """A property of the event equals the user's ID."""

    path: PropertyPath

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        return bool(facts.at(self.path) == user.user_id)


@attrs.frozen
class PropertyContainsUser:
    """A list in the event contains the user's ID."""

    path: PropertyPath

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        values = facts.at(self.path)
        return isinstance(values, list) and user.user_id in values


@attrs.frozen
class BodyHasDisplayName:
    """`contains_display_name`: deprecated and in no default rule, but allowed in users' rules."""

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        body = facts.at(_BODY)
        if not isinstance(body, str) or not user.display_name:
            return False
        # The name is to be matched literally; `?` is the narrowest pattern that matches a star.
        name = user.display_name.replace("*", "?")
        return compile_glob(name).matches_words(body)


@attrs.frozen
class ThreadSubscription:
    """`io.element.msc4306.thread_subscription`: the user subscribes to the thread, or does not.

    It does not hold for events in no thread. Spec: MSC4306.
    """

    subscribed: bool

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        subscribers = facts.subscribers
        return subscribers is not None and (user.user_id in subscribers) is self.subscribed

    def holds_for_others(self, facts: EventFacts) -> bool:
        """Return whether the condition holds for users who do not subscribe to the thread."""
        return facts.subscribers is not None and not self.subscribed


NEVER: Final = Never()


def compile_condition(condition: Condition) -> EventCondition | UserCondition:
    """Compile a condition; an unknown or malformed one holds for no event."""
    compiler = _COMPILERS.get(condition.get("kind", ""))
    return NEVER if compiler is None else compiler(condition)


def _event_match(condition: Condition) -> EventCondition | UserCondition:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return NEVER
    path = parse_property_path(key)
    if isinstance(pattern, OwnUserID):
        return PropertyIsUser(path)
    glob = compile_glob(pattern)
    return MatchesWords(glob) if path == _BODY else Matches(path, glob)


def _event_property_is(condition: Condition) -> EventCondition | UserCondition:
    key, value = condition.get("key"), condition.get("value", ())
    if not isinstance(key, str) or not is_scalar(value):
        return NEVER
    return PropertyIs(parse_property_path(key), value, type(value))


def _event_property_contains(condition: Condition) -> EventCondition | UserCondition:
    key, value = condition.get("key"), condition.get("value", ())
    if not isinstance(key, str) or not is_scalar(value):
        return NEVER
    path = parse_property_path(key)
    if isinstance(value, OwnUserID):
        return PropertyContainsUser(path)
    return PropertyContains(path, value, type(value))


def _room_member_count(condition: Condition) -> EventCondition | UserCondition:
    text = condition.get("is")
    match = _COUNT.fullmatch(text) if isinstance(text, str) else None
    return NEVER if match is None else MemberCount(match[1] or "==", int(match[2]))


def _sender_notification_permission(condition: Condition) -> EventCondition | UserCondition:
    key = condition.get("key")
    return SenderMayNotify(key) if isinstance(key, str) else NEVER


def _thread_subscription(condition: Condition) -> EventCondition | UserCondition:
    subscribed = condition.get("subscribed")
    return ThreadSubscription(subscribed) if isinstance(subscribed, bool) else NEVER


_COMPILERS: Mapping[str, Callable[[Condition], EventCondition | UserCondition]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
    "contains_display_name": lambda _: BodyHasDisplayName(),
    THREAD_SUBSCRIPTION: _thread_subscription,
    CALL_STARTED: lambda _: CallStarted(),
    CALL_STARTED_PROPOSED: lambda _: CallStarted(),
}


def is_scalar(value: Any) -> bool:
    """Return whether the property conditions can compare a value."""
    return value is None or isinstance(value, str | int)


def _same(value: Any, expected: Any) -> bool:
    # Without conversion: True is not 1.
    return type(value) is type(expected) and value == expected
