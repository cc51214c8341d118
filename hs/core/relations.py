"""Relations between events: reading them, finding an event's thread, and validating edits.

Spec: client-server API, Forming relationships between events.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from hs.core.errors import InvalidParam, Unknown
from hs.core.events.event import Event
from hs.core.ids import EventID, parse_event_id

THREAD: Final = "m.thread"
REPLACE: Final = "m.replace"
ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"

AGGREGATED: Final = frozenset({THREAD, REPLACE, REFERENCE})
"""Relation types that the server bundles into `unsigned` of the parent event."""

MAIN_TIMELINE: Final = "main"
"""Thread ID, in receipts and unread counts, of the events that belong to no thread."""

MAX_HOPS: Final = 3
"""Number of relations that are followed to find the thread of an event."""


@attrs.frozen
class Relation:
    """An event's relation to its parent event; `key` is the key of an annotation."""

    rel_type: str
    parent_id: EventID
    key: str | None = None


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """Return the relation in an event's content, or None if it is absent or malformed."""
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, Mapping):
        return None
    rel_type = relates_to.get("rel_type")
    parent_id = _event_id(relates_to.get("event_id"))
    if not isinstance(rel_type, str) or parent_id is None:
        return None
    key = relates_to.get("key")
    return Relation(rel_type, parent_id, key if isinstance(key, str) else None)


def reply_target(content: Mapping[str, Any]) -> EventID | None:
    """Return the event that a rich reply answers, or None; replies have no `rel_type`."""
    relates_to = content.get("m.relates_to")
    reply = relates_to.get("m.in_reply_to") if isinstance(relates_to, Mapping) else None
    return _event_id(reply.get("event_id")) if isinstance(reply, Mapping) else None


def thread_of(
    relation: Relation | None, relations: Mapping[EventID, Relation | None]
) -> EventID | None:
    """Return the root of the thread that an event with this relation belongs to, or None.

    `relations` contains the relations of the event's parent, of that event's parent and so on, as
    far as they are known.
    """
    for _ in range(MAX_HOPS):
        if relation is None:
            return None
        if relation.rel_type == THREAD:
            return relation.parent_id
        relation = relations.get(relation.parent_id)
    return None


def check_may_relate(relation: Relation, parent: Relation | None) -> None:
    """Check that a client may send an event with a relation to this parent.

    `parent` is the parent event's own relation.
    Raises: Unknown, if a thread would start from an event that itself has a relation.
    """
    if relation.rel_type == THREAD and parent is not None:
        raise Unknown("Cannot start a thread from an event that has a relation")


def is_valid_replacement(original: Event, edit: Event) -> bool:
    """Return whether an edit is a valid replacement of an event.

    `m.new_content` is not checked in encrypted edits: the server cannot see it.
    Spec: Validity of replacement events.
    """
    relation, original_relation = relation_of(edit.content), relation_of(original.content)
    return (
        relation == Relation(REPLACE, original.event_id, relation.key if relation else None)
        and edit.room_id == original.room_id
        and edit.sender == original.sender
        and edit.type == original.type
        and not edit.is_state
        and not original.is_state
        and (original_relation is None or original_relation.rel_type != REPLACE)
        and (edit.type == "m.room.encrypted" or isinstance(edit.content.get("m.new_content"), dict))
    )


def latest_replacement(original: Event, edits: Iterable[Event]) -> Event | None:
    """Return the most recent valid edit of an event, or None."""
    valid = (edit for edit in edits if is_valid_replacement(original, edit))
    return max(valid, key=lambda edit: (edit.origin_server_ts, edit.event_id), default=None)


def _event_id(value: object) -> EventID | None:
    try:
        return parse_event_id(value)
    except InvalidParam:
        return None
