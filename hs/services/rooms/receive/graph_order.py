"""The order in which events that came together are looked at: what they cite comes first."""

import heapq
from collections.abc import Callable, Collection, Iterable

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.format import create_event_id_of
from hs.core.ids import EventID


def arrival_order(events: Collection[Event]) -> list[Event]:
    """Sort events so that each comes after its prev_events and its auth events."""
    return _sorted(events, lambda event: (*event.prev_events, *event.auth_events))


def auth_order(events: Collection[Event]) -> list[Event]:
    """Sort events so that each comes after its auth events, and after the create event."""
    return _sorted(events, _auth_events)


def _auth_events(event: Event) -> tuple[EventID, ...]:
    if not event.rules.room_id_is_create_hash or event.type == event_types.CREATE:
        return event.auth_events
    return (create_event_id_of(event.room_id), *event.auth_events)


def _sorted(
    events: Collection[Event], cited_by: Callable[[Event], Iterable[EventID]]
) -> list[Event]:
    by_id = {event.event_id: event for event in events}
    waits_for: dict[EventID, int] = {}
    citing: dict[EventID, list[EventID]] = {}
    for event in events:
        cited = {each for each in cited_by(event) if each in by_id}
        waits_for[event.event_id] = len(cited)
        for each in cited:
            citing.setdefault(each, []).append(event.event_id)
    ready = [(by_id[each].depth, each) for each, count in waits_for.items() if count == 0]
    heapq.heapify(ready)
    ordered: list[Event] = []
    while ready:
        _, event_id = heapq.heappop(ready)
        ordered.append(by_id[event_id])
        for each in citing.get(event_id, ()):
            waits_for[each] -= 1
            if waits_for[each] == 0:
                heapq.heappush(ready, (by_id[each].depth, each))
    # Where servers choose event IDs, events may cite each other in a circle: they come last,
    # and lack what they cite.
    placed = {event.event_id for event in ordered}
    return [*ordered, *(event for event in events if event.event_id not in placed)]
