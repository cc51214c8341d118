"""The annotations that a room got lately, so that of equal ones sent at once only one is taken.

Those of before a request began are looked up in the tables, by `relating`; here are the others.

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
from hs.services.rooms.append.pending_events import Placed, stored_relation

MAX_REMEMBERED: Final = 200  # what arrives in a room while a request is under way

_Said = tuple[EventID, str, str, str]  # of which event, by what type, by whom, what


@attrs.define(eq=False)
class RecentAnnotations:
    """Belongs to the room in memory, and is dropped with it."""

    _said: OrderedDict[_Said, EventID] = attrs.Factory(OrderedDict)

    def check(self, event: Event) -> None:
        """Refuse an annotation that is there. Raises: DuplicateAnnotation."""
        said = _said_by(event)
        if said is not None and said in self._said:
            raise DuplicateAnnotation("You have reacted so already")

    def note(self, placed: Iterable[Placed]) -> None:
        """Remember what is placed now, and forget what that redacts."""
        for one in placed:
            if one.redacts is not None:
                self._forget(one.redacts)
            said = _said_by(one.event)
            if said is not None:
                self._said[said] = one.event.event_id
        while len(self._said) > MAX_REMEMBERED:
            self._said.popitem(last=False)

    def _forget(self, event_id: EventID) -> None:
        for said, by in self._said.items():
            if by == event_id:
                del self._said[said]
                return


def _said_by(event: Event) -> _Said | None:
    relation = stored_relation(event)
    if relation is None or relation.rel_type != ANNOTATION or relation.key is None:
        return None
    return relation.parent_id, event.type, event.sender, relation.key
