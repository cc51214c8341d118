"""The latest annotations of a hot room, to reject duplicates that are sent at the same time.

`RelationChecks` looks for a duplicate in the database before the room is locked. An equal
annotation may be appended between that lookup and the lock; it is found here, under the lock. Only
the annotations that can arrive during one request need to be remembered. The object belongs to the
hot room: if a commit fails, both are dropped, and with them annotations that were never stored.

Spec: client-server API, Avoiding duplicate annotations.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import attrs

from hs.core.errors import DuplicateAnnotation
from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.relations import ANNOTATION
from hs.services.rooms.append.pending_events import PendingEvent, relation_to_store

MAX_REMEMBERED: Final = 200  # more than arrive in one room during one request

_Key = tuple[EventID, str, str, str]  # parent event ID, event type, sender, aggregation key


@attrs.define(eq=False)
class RecentAnnotations:
    """The recent annotations of one room and the events that made them."""

    _event_ids: OrderedDict[_Key, EventID] = attrs.Factory(OrderedDict)

    def check(self, event: Event) -> None:
        """Raise DuplicateAnnotation if the same annotation was appended recently."""
        key = _annotation_key(event)
        if key is not None and key in self._event_ids:
            raise DuplicateAnnotation("You have already sent this annotation")

    def note(self, events: Iterable[PendingEvent]) -> None:
        """Remember the annotations among new events; forget those that they redact."""
        for pending in events:
            if pending.redacts is not None:
                self._forget(pending.redacts)
            key = _annotation_key(pending.event)
            if key is not None:
                self._event_ids[key] = pending.event.event_id
        while len(self._event_ids) > MAX_REMEMBERED:
            self._event_ids.popitem(last=False)

    def _forget(self, event_id: EventID) -> None:
        for key, annotation_id in self._event_ids.items():
            if annotation_id == event_id:
                del self._event_ids[key]
                return


def _annotation_key(event: Event) -> _Key | None:
    relation = relation_to_store(event)
    if relation is None or relation.rel_type != ANNOTATION or relation.key is None:
        return None
    return relation.parent_id, event.type, event.sender, relation.key
