"""The conditions of push rules, compiled: what each asks of an event and of the user.

A condition that does not name the user has one answer per event, whoever asks; that is what lets
a caller evaluate an event once for many users.

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
    """A condition with one answer for all users; hashable."""

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""


class UserCondition(Protocol):
    """A condition whose answer may differ from user to user."""

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        """Answer for an event and a user."""


@attrs.frozen
class Never:
    """A condition that this server does not know, or that is malformed: it never matches."""

    def holds(self, facts: EventFacts) -> bool:
        """Answer no."""
        return False


@attrs.frozen(cache_hash=True)
class Matches:
    """`event_match`, on the whole value."""

    path: PropertyPath
    glob: Glob

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        value = facts.at(self.path)
        return isinstance(value, str) and self.glob.matches(value)


@attrs.frozen(cache_hash=True)
class MatchesWords:
    """`event_match` on `content.body`, and the pattern of content rules."""

    glob: Glob

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        value = facts.at(_BODY)
        return isinstance(value, str) and self.glob.matches_words(value)


@attrs.frozen(cache_hash=True)
class PropertyIs:
    """`event_property_is`, and the implicit conditions of room and sender rules.

    The type is kept beside the value because in Python True equals 1, also as a key.
    """

    path: PropertyPath
    value: str | int | bool | None
    of: type

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        return _same(facts.at(self.path), self.value)


@attrs.frozen(cache_hash=True)
class PropertyContains:
    """`event_property_contains`."""

    path: PropertyPath
    value: str | int | bool | None
    of: type

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        values = facts.at(self.path)
        return isinstance(values, list) and any(_same(value, self.value) for value in values)


@attrs.frozen(cache_hash=True)
class MemberCount:
    """`room_member_count`."""

    comparison: str
    count: int

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        return _COMPARE[self.comparison](facts.member_count, self.count)


@attrs.frozen(cache_hash=True)
class SenderMayNotify:
    """`sender_notification_permission`."""

    key: str

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        needed = facts.notification_levels.get(self.key, DEFAULT_NOTIFICATION_LEVEL)
        return facts.sender_power >= needed


@attrs.frozen(cache_hash=True)
class CallStarted:
    """`call_started` (MSC3914): a call that rings or prompts, and did not run before the event."""

    def holds(self, facts: EventFacts) -> bool:
        """Answer for an event."""
        intent = facts.at(("content", "m.intent"))
        runs = facts.at(("content", "m.terminated")) is ABSENT
        ran = facts.replaced is not None and "m.terminated" not in facts.replaced
        return intent in ("m.ring", "m.prompt") and runs and not ran


@attrs.frozen
class PropertyIsUser:
    """A property of the event is the user's ID."""

    path: PropertyPath

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        """Answer for an event and a user."""
        return bool(facts.at(self.path) == user.user_id)


@attrs.frozen
class PropertyContainsUser:
    """A list in the event holds the user's ID."""

    path: PropertyPath

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        """Answer for an event and a user."""
        values = facts.at(self.path)
        return isinstance(values, list) and user.user_id in values


@attrs.frozen
class BodyHasDisplayName:
    """`contains_display_name`: deprecated, in no default rule, but users' own rules may have it."""

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        """Answer for an event and a user."""
        body = facts.at(_BODY)
        if not isinstance(body, str) or not user.display_name:
            return False
        # The name is meant literally; `?` is the narrowest pattern that a star fits.
        name = user.display_name.replace("*", "?")
        return compile_glob(name).matches_words(body)


@attrs.frozen
class ThreadSubscription:
    """`io.element.msc4306.thread_subscription`: the event is in a thread the user follows, or not.

    Spec: MSC4306.
    """

    subscribed: bool

    def holds_for(self, facts: EventFacts, user: UserFacts) -> bool:
        """Answer for an event and a user."""
        subscribers = facts.subscribers
        return subscribers is not None and (user.user_id in subscribers) is self.subscribed

    def holds_for_others(self, facts: EventFacts) -> bool:
        """Answer for an event and a user who does not subscribe to its thread."""
        return facts.subscribers is not None and not self.subscribed


NEVER: Final = Never()


def compile_condition(condition: Condition) -> EventCondition | UserCondition:
    """Prepare a condition; one that is unknown or malformed never holds."""
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
    key = condition.get("key")
    value = condition.get("value", ())
    if not isinstance(key, str) or not is_scalar(value):
        return NEVER
    return PropertyIs(parse_property_path(key), value, type(value))


def _event_property_contains(condition: Condition) -> EventCondition | UserCondition:
    key = condition.get("key")
    value = condition.get("value", ())
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


def _contains_display_name(condition: Condition) -> EventCondition | UserCondition:
    return BodyHasDisplayName()


def _thread_subscription(condition: Condition) -> EventCondition | UserCondition:
    subscribed = condition.get("subscribed")
    return ThreadSubscription(subscribed) if isinstance(subscribed, bool) else NEVER


def _call_started(condition: Condition) -> EventCondition | UserCondition:
    return CallStarted()


_COMPILERS: Mapping[str, Callable[[Condition], EventCondition | UserCondition]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
    "contains_display_name": _contains_display_name,
    THREAD_SUBSCRIPTION: _thread_subscription,
    CALL_STARTED: _call_started,
    CALL_STARTED_PROPOSED: _call_started,
}


def is_scalar(value: Any) -> bool:
    """Tell whether a value is one that the property conditions can compare."""
    return value is None or isinstance(value, str | int)


def _same(found: Any, wanted: Any) -> bool:
    # No casts: True is not 1.
    return type(found) is type(wanted) and found == wanted
