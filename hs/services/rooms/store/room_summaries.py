"""Room summaries for lists of rooms, updated with each state event."""

from collections.abc import Mapping
from typing import Final

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.storage.rooms.rooms import RoomSummaryRecord

# Field of the summary and property of the content, for events with the empty state key.
_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    event_types.NAME: ("name", "name"),
    event_types.TOPIC: ("topic", "topic"),
    event_types.AVATAR: ("avatar_url", "url"),
    event_types.CANONICAL_ALIAS: ("canonical_alias", "alias"),
    event_types.JOIN_RULES: ("join_rule", "join_rule"),
    event_types.HISTORY_VISIBILITY: ("history_visibility", "history_visibility"),
    event_types.GUEST_ACCESS: ("guest_access", "guest_access"),
    event_types.ENCRYPTION: ("encryption", "algorithm"),
    event_types.CREATE: ("room_type", "type"),
}
_COUNTED: Final[Mapping[str, str]] = {
    event_types.JOIN: "joined_members",
    event_types.INVITE: "invited_members",
}

SUMMARISED_TYPES: Final = frozenset((*_FIELDS, event_types.TOMBSTONE))


def summary_after(
    summary: RoomSummaryRecord, key: StateKey, event: Event | None
) -> RoomSummaryRecord:
    """Return the summary after a state entry that is not a membership was set or removed."""
    event_type, state_key = key
    if state_key != "":
        return summary
    if event_type == event_types.TOMBSTONE:
        return summary._replace(tombstoned=int(event is not None))
    field = _FIELDS.get(event_type)
    if field is None:
        return summary
    name, source = field
    fields = {**summary._asdict(), name: None if event is None else _text(event, source)}
    return RoomSummaryRecord(**fields)


def count_membership(
    summary: RoomSummaryRecord, before: str | None, after: str | None
) -> RoomSummaryRecord:
    """Return the summary after a member's membership changed."""
    if before == after:
        return summary
    for membership, step in ((before, -1), (after, 1)):
        counter = _COUNTED.get(membership or "")
        if counter is not None:
            summary = summary._replace(**{counter: getattr(summary, counter) + step})
    return summary


def _text(event: Event, source: str) -> str | None:
    value = event.content.get(source)
    # Strings of other servers may contain NUL, which PostgreSQL cannot store.
    return value if isinstance(value, str) and "\0" not in value else None
