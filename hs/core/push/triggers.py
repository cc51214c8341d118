"""Triggers: texts without which a push rule of a user cannot match.

Most rules of users concern one room, one sender or a few words. So the rules that may match an
event are found by the texts in the event, and the others are not evaluated. A trigger is necessary
and not sufficient: the rules that it finds are evaluated as usual.
"""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from hs.core.property_paths import PropertyPath
from hs.core.push.conditions import NEVER, EventCondition, Matches, MatchesWords, PropertyIs
from hs.core.push.evaluate import conditions_of
from hs.core.push.facts import EventFacts
from hs.core.push.rules import PushRule

MAX_PART_CHARS: Final = 3

_BODY: Final = ("content", "body")
_PATHS: Final[tuple[PropertyPath, ...]] = (
    ("room_id",),
    ("sender",),
    ("state_key",),
    _BODY,
    ("content", "msgtype"),
    ("type",),
)
"""The properties that triggers look at; those that fewer events have in common come first."""


class Trigger(NamedTuple):
    """A property, and its whole value in lower case; for the body, a part of that."""

    path: PropertyPath
    text: str


ALWAYS: Final = Trigger((), "")
"""The trigger of rules for which no text is known."""


def trigger_of(rule: PushRule) -> Trigger | None:
    """Return the trigger of a rule; None for a rule that matches no event."""
    if not rule.enabled:
        return None
    conditions = conditions_of(rule)
    if NEVER in conditions:
        return None
    triggers = [trigger for trigger in map(_needed_by, conditions) if trigger is not None]
    return min(triggers, key=lambda trigger: _PATHS.index(trigger.path), default=ALWAYS)


def texts_in(facts: EventFacts, path: PropertyPath, texts: Collection[str]) -> Iterable[str]:
    """Return the texts of triggers with this path that an event has; `texts` are all there are."""
    if path == ALWAYS.path:
        return (ALWAYS.text,)
    value = facts.at(path)
    if not isinstance(value, str):
        return ()
    value = value.lower()
    if path != _BODY:
        return (value,)
    if len(texts) < len(value) // 64:
        return [text for text in texts if text in value]
    parts = {
        value[start : start + size]
        for size in range(1, MAX_PART_CHARS + 1)
        for start in range(len(value))
    }
    return [part for part in parts if part in texts]


def _needed_by(condition: EventCondition | object) -> Trigger | None:
    """Return what a condition needs, if that is a text in one of the properties."""
    match condition:
        case MatchesWords():
            runs = [run for piece in condition.glob.pieces for run in piece.text.split("?")]
            longest = max(runs, key=len)
            return Trigger(_BODY, longest[:MAX_PART_CHARS]) if longest else None
        case Matches() if condition.path in _PATHS and condition.glob.literal is not None:
            return Trigger(condition.path, condition.glob.literal)
        case PropertyIs() if condition.path in _PATHS and isinstance(condition.value, str):
            text = condition.value.lower()
            if condition.path != _BODY:
                return Trigger(condition.path, text)
            return Trigger(_BODY, text[:MAX_PART_CHARS]) if text else None
    return None
